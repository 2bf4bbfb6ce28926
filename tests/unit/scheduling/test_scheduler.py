"""The scheduler in a plain loop: what it writes, when it asks, what it refuses, how it resumes."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from affinity_service.errors import UserError
from affinity_service.scheduling import InterferenceScheduler

TASKS = ["a", "b", "c", "d"]


class Model(nn.Module):
    """A shared body and a head per task."""

    def __init__(self, tasks=TASKS, seed=0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(nn.Linear(5, 8), nn.Tanh())
        self.heads = nn.ModuleDict({task: nn.Linear(8, 1) for task in tasks})


def batch(step: int, rows: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(rows, 5, generator=generator)
    # a and b want the opposite of c and d.
    y = x[:, :1].sign()
    return x, y


def losses(model: Model, step: int, names) -> dict[str, Tensor]:
    x, y = batch(step)
    shared = model.body(x)
    return {name: softplus((-y if name in "ab" else y) * model.heads[name](shared)).mean() for name in names}


def tied_heads(model: Model) -> Model:
    """Frozen heads that are alike: conflicts of the labels are then conflicts of the body."""
    for head in model.heads.values():
        nn.init.constant_(head.weight, 0.1)
        nn.init.zeros_(head.bias)
        head.requires_grad_(False)
    return model


def train(scheduler, model, optimizer, steps, start=0) -> None:
    for step in range(start, start + steps):
        plan = scheduler.plan()
        scheduler.backward(losses(model, step, scheduler.tasks if plan.refresh else plan.active))
        optimizer.step()
        scheduler.step()


def built(model=None, **settings):
    model = tied_heads(Model()) if model is None else model
    settings = {"refresh": 4, **settings}
    return model, InterferenceScheduler(model.body.parameters(), TASKS, **settings)


def test_opposed_tasks_are_parted_and_others_train_together():
    model, scheduler = built()
    train(scheduler, model, torch.optim.SGD(model.body.parameters(), lr=0.01), 9)
    first = scheduler.history[0]
    assert first.step == 1
    assert {frozenset(members) for members in first.active} == {frozenset("ab"), frozenset("cd")}
    assert first.edges == [("a", "c"), ("a", "d"), ("b", "c"), ("b", "d")]
    assert first.density == pytest.approx(4 / 6)
    assert [record.step for record in scheduler.history] == [1, 5, 9]
    assert scheduler.history[-1].visits == dict.fromkeys(TASKS, 5)
    assert max(scheduler.history[-1].longest_wait.values()) == 1


def test_a_step_writes_the_gradient_of_the_active_losses_and_nothing_else():
    model, scheduler = built(Model(), tau=-1.0)
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    for step in range(6):
        plan = scheduler.plan()
        given = losses(model, step, TASKS if plan.refresh else plan.active)
        total = sum(given[name] for name in plan.active)
        wanted = torch.autograd.grad(total, parameters, retain_graph=True, allow_unused=True)
        scheduler.backward(given)
        for parameter, gradient in zip(parameters, wanted, strict=True):
            # Heads of inactive tasks keep no gradient, though nobody calls zero_grad.
            assert (parameter.grad is None) == (gradient is None)
            if gradient is not None:
                torch.testing.assert_close(parameter.grad, gradient)
        optimizer.step()
        scheduler.step()
    assert len(scheduler.history[0].active) == 4


def test_gradients_of_others_are_kept_and_those_of_one_step_add_up():
    model, scheduler = built()
    parameters = list(model.body.parameters())
    given = losses(model, 0, TASKS)
    alone = torch.autograd.grad(sum(given.values()), parameters, retain_graph=True)
    parameters[0].grad = torch.ones_like(parameters[0])
    scheduler.backward(given)
    torch.testing.assert_close(parameters[0].grad, 1 + alone[0])
    scheduler.backward(losses(model, 0, TASKS))
    torch.testing.assert_close(parameters[1].grad, 2 * alone[1])


@pytest.mark.parametrize("settings", [{}, {"sketch": 64}, {"split": True}, {"aggregator": "PCGrad"}, {"quantile": 0.5}])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(settings):
    def start():
        model = Model()
        scheduler = InterferenceScheduler(
            model.body.parameters(), TASKS, refresh=3, warmup=2, anneal=5, coverage=0.5, **settings
        )
        return model, scheduler, torch.optim.AdamW(model.parameters(), lr=0.01)

    torch.manual_seed(5)
    whole, scheduler, optimizer = start()
    train(scheduler, whole, optimizer, 7)
    kept = copy.deepcopy((whole.state_dict(), scheduler.state_dict(), optimizer.state_dict(), torch.get_rng_state()))
    train(scheduler, whole, optimizer, 10, start=7)
    resumed, again, other = start()
    for part, state in zip((resumed, again, other), kept, strict=False):
        part.load_state_dict(state)
    torch.set_rng_state(kept[3])
    train(again, resumed, other, 10, start=7)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    assert again.history[-1].visits == scheduler.history[-1].visits
    assert torch.equal(again.state_dict()["values"], scheduler.state_dict()["values"])


@pytest.mark.parametrize("name", ["PCGrad", "MGDA", "CAGrad", "NashMTL", "UPGrad", "IMTL-G", "aligned_mtl"])
def test_aggregators_of_torchjd_combine_the_active_rows(name):
    from affinity_service.scheduling.aggregators import named_aggregator

    model, scheduler = built(Model(), warmup=100, aggregator=name)
    body, heads = list(model.body.parameters()), list(model.heads.parameters())
    given = losses(model, 0, TASKS)
    rows = [torch.autograd.grad(loss, body, retain_graph=True) for loss in given.values()]
    matrix = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])
    plain = torch.autograd.grad(sum(given.values()), heads, retain_graph=True)
    torch.manual_seed(1)
    wanted = named_aggregator(name)(matrix)
    torch.manual_seed(1)
    scheduler.backward(given)
    found = torch.cat([parameter.grad.flatten() for parameter in body])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    # The tasks' own parameters have nothing to share.
    for parameter, gradient in zip(heads, plain, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_a_sum_by_function_is_the_plain_sum():
    plain, one = built(Model())
    other, two = built(Model(), aggregator=lambda rows: rows.sum(dim=0))
    for model, scheduler in ((plain, one), (other, two)):
        train(scheduler, model, torch.optim.SGD(model.parameters(), lr=0.1), 10)
    for a, b in zip(plain.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_an_aggregator_gets_only_gradients_that_are_there(caplog):
    """A task without examples, or with a bad gradient, would make MGDA's answer zero and everyone's NaN."""
    for broken in ("missing", "nan"):
        model, scheduler = built(Model(), warmup=100, aggregator="MGDA")
        given = losses(model, 0, TASKS)
        if broken == "missing":
            del given["d"]
        else:
            given["d"] = given["d"] * float("nan")
        scheduler.backward(given)
        assert torch.isfinite(model.body[0].weight.grad).all()
        assert float(model.body[0].weight.grad.abs().max()) > 0
        assert model.heads["d"].weight.grad is None
        scheduler.step()
        assert scheduler._schedule.state_dict()["visits"] == [1, 1, 1, 0]
    assert "the gradient of task d is not finite" in caplog.text


def test_step_drops_what_backward_wrote_whatever_was_done_to_it():
    model, scheduler = built(Model())
    for step in range(3):
        if step == 1:
            # Unfrozen on the way, and scaled by assignment.
            model.heads["a"].requires_grad_(True)
        else:
            model.heads["a"].requires_grad_(step == 2)
        plan = scheduler.plan()
        scheduler.backward(losses(model, step, TASKS if plan.refresh else plan.active))
        model.body[0].weight.grad = model.body[0].weight.grad * 0.5
        scheduler.step()
        assert all(parameter.grad is None for parameter in model.parameters())
    # A regulariser of the user's own before it is kept.
    (model.body[0].weight.square().sum() * 1000).backward()
    before = model.body[0].weight.grad.clone()
    plan = scheduler.plan()
    given = losses(model, 3, TASKS if plan.refresh else plan.active)
    own = torch.autograd.grad(sum(given[name] for name in plan.active), model.body[0].weight, retain_graph=True)[0]
    scheduler.backward(given)
    torch.testing.assert_close(model.body[0].weight.grad, before + own)


def test_a_refresh_without_all_losses_is_said_once_and_a_task_without_examples_keeps_nobody_waiting(caplog):
    model, scheduler = built(Model(), tau=-1.0, refresh=1)
    with caplog.at_level(logging.WARNING, "affinity_service.scheduling"):
        for step in range(30):
            scheduler.backward(losses(model, step, [name for name in scheduler.plan().active if name != "c"]))
            scheduler.step()
    visits = scheduler.history[-1].visits
    assert visits["c"] == 0
    assert min(visits[name] for name in "abd") >= 6
    assert caplog.text.count("the plan asks for a refresh, but there is no loss of") == 1


def test_the_end_of_the_warm_up_is_a_refresh():
    model, scheduler = built(warmup=10, refresh=32)
    train(scheduler, model, torch.optim.SGD(model.body.parameters(), lr=0.01), 12)
    assert [record.step for record in scheduler.history] == [1, 10]
    assert [len(record.active) for record in scheduler.history] == [1, 2]


def test_tasks_come_and_go():
    model, scheduler = built()
    optimizer = torch.optim.SGD(model.body.parameters(), lr=0.01)
    train(scheduler, model, optimizer, 6)
    scheduler.remove_task("b")
    plan = scheduler.plan()
    assert plan.refresh
    assert "b" not in plan.active
    train(scheduler, model, optimizer, 3)
    assert scheduler.history[-1].tasks == ("a", "c", "d")
    scheduler.add_task("b")
    assert scheduler.plan().refresh
    assert "b" in scheduler.plan().active
    train(scheduler, model, optimizer, 6)
    assert {frozenset(members) for members in scheduler.history[-1].active} == {frozenset("ab"), frozenset("cd")}
    with pytest.raises(UserError, match="already one of"):
        scheduler.add_task("b")
    with pytest.raises(UserError, match="'e' is not one of the scheduler's"):
        scheduler.remove_task("e")


def test_a_task_without_examples_waits_and_is_named(caplog):
    model, scheduler = built()
    optimizer = torch.optim.SGD(model.body.parameters(), lr=0.01)
    with caplog.at_level(logging.WARNING, "affinity_service.scheduling"):
        for step in range(12):
            names = scheduler.tasks if scheduler.plan().refresh else scheduler.plan().active
            scheduler.backward(losses(model, step, [name for name in names if name != "d"]))
            optimizer.step()
            scheduler.step()
    assert scheduler.history[-1].visits["d"] == 0
    assert scheduler.history[-1].longest_wait["d"] == 9
    assert "never trained yet: d" in caplog.text


def test_a_gradient_that_is_not_finite_leaves_the_average_as_it_was(caplog):
    model, scheduler = built(warmup=100)
    scheduler.backward(losses(model, 0, TASKS))
    scheduler.step()
    before = scheduler._schedule.state_dict()["values"]
    for _ in range(3):
        scheduler.step()
    assert scheduler.plan().refresh
    given = losses(model, 1, TASKS)
    given["b"] = given["b"] * float("inf")
    with caplog.at_level(logging.WARNING, "affinity_service.scheduling"):
        scheduler.backward(given)
    after = scheduler._schedule.state_dict()["values"]
    assert torch.equal(before[:, 1], after[:, 1])
    assert not torch.equal(before[:, 0], after[:, 0])
    assert "the gradient of task b is not finite" in caplog.text
    scheduler.step()
    assert scheduler.history[-1].skipped == {"a": 0, "b": 1, "c": 0, "d": 0}


def test_an_empty_and_a_complete_graph_are_said_once(caplog):
    model, scheduler = built(warmup=50)
    with caplog.at_level(logging.WARNING, "affinity_service.scheduling"):
        train(scheduler, model, torch.optim.SGD(model.body.parameters(), lr=0.0), 9)
    assert not caplog.records, "without a threshold nothing is expected"
    model, scheduler = built(Model(), tau=-1.0)
    with caplog.at_level(logging.WARNING, "affinity_service.scheduling"):
        train(scheduler, model, torch.optim.SGD(model.body.parameters(), lr=0.01), 13)
    assert [record.message.count("every pair conflicts") for record in caplog.records].count(1) == 1


def test_frozen_and_tied_parameters_count_as_they_train():
    model = Model()
    model.body[0].bias.requires_grad_(False)
    twice = [*model.body.named_parameters(), ("again", model.body[0].weight)]
    scheduler = InterferenceScheduler(twice, TASKS)
    assert scheduler.state_dict()["values"].shape == (1, 4, 40)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tau": 1.5}, "tau is 1.5; expected a number from -1 to 1"),
        ({"tau": float("nan")}, "tau is nan"),
        ({"tau": "0.2"}, "tau is '0.2'"),
        ({"refresh": 0}, "refresh is 0; expected a whole number of steps, at least 1"),
        ({"refresh": 2.5}, "refresh is 2.5"),
        ({"beta": 1.0}, "beta is 1.0; expected at least 0 and below 1"),
        ({"coverage": 1.2}, "coverage is 1.2"),
        ({"quantile": -0.1}, "quantile is -0.1"),
        ({"refresh": 2, "probes": 3}, "probes is 3, but a refresh comes every 2 steps"),
        ({"track": "all"}, "track is 'all'; expected refresh or active"),
        ({"sketch": 0}, "sketch is 0; expected auto, None, or how many numbers"),
        ({"aggregator": "PCGard"}, "aggregator 'PCGard' is unknown; expected sum or one of"),
        ({"aggregator": "FairGrad"}, "pass an instance"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        InterferenceScheduler(Model().body.parameters(), TASKS, **settings)


def test_bad_parameters_tasks_and_losses_are_named():
    model = Model()
    with pytest.raises(UserError, match="no parameter that trains"):
        InterferenceScheduler([], TASKS)
    with pytest.raises(UserError, match="no parameter that trains"):
        InterferenceScheduler([torch.zeros(3)], TASKS)
    with pytest.raises(UserError, match="'a' is named more than once"):
        InterferenceScheduler(model.body.parameters(), ["a", "a"])
    with pytest.raises(UserError, match="tasks is empty"):
        InterferenceScheduler(model.body.parameters(), [])
    idle = nn.Parameter(torch.zeros(2))
    scheduler = InterferenceScheduler([*model.body.named_parameters(), ("idle", idle)], TASKS)
    with pytest.raises(UserError, match="shared parameter idle belongs to no task"):
        scheduler.backward(losses(model, 0, TASKS))
    scheduler = InterferenceScheduler(model.body.parameters(), TASKS)
    with pytest.raises(UserError, match="'z' is not one of the scheduler's: a, b, c, d"):
        scheduler.backward({"z": torch.zeros((), requires_grad=True)})
    with pytest.raises(UserError, match="loss of task 'a': expected a scalar tensor with a graph, found shape"):
        scheduler.backward({"a": torch.zeros(2, requires_grad=True)})
    with pytest.raises(UserError, match="found float"):
        scheduler.backward({"a": 0.5})
    with pytest.raises(UserError, match="without a graph"):
        scheduler.backward({"a": torch.zeros(())})


def test_a_state_of_other_tasks_settings_or_parameters_is_refused():
    _, scheduler = built()
    state = scheduler.state_dict()
    body = Model().body
    with pytest.raises(UserError, match="the state is of other tasks: it has 4, this scheduler 3; not in both: d"):
        InterferenceScheduler(body.parameters(), TASKS[:3], refresh=4).load_state_dict(state)
    with pytest.raises(UserError, match="in another order"):
        InterferenceScheduler(body.parameters(), TASKS[::-1], refresh=4).load_state_dict(state)
    with pytest.raises(UserError, match="the state was made with refresh 4, this scheduler has 5"):
        InterferenceScheduler(body.parameters(), TASKS, refresh=5).load_state_dict(state)
    for settings, message in (
        (
            {"shared_parameters": [body[0].weight]},
            r"made with shared parameters .*number 1 \[8\].*, this scheduler has",
        ),
        ({"sketch": 16}, r"made with sketch None, this scheduler has \[16, 0\]"),
        ({"aggregator": "MGDA"}, "made with aggregator sum, this scheduler has MGDA"),
    ):
        with pytest.raises(UserError, match=message):
            InterferenceScheduler(
                **{"shared_parameters": body.parameters(), "tasks": TASKS, "refresh": 4, **settings}
            ).load_state_dict(state)
    model, scheduler = built()
    scheduler.backward(losses(model, 0, TASKS))
    with pytest.raises(UserError, match="state_dict between backward and step would lose the step"):
        scheduler.state_dict()
