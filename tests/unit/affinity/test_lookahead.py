"""TAG's measures against the slow reference, their limits, and that measuring leaves no trace."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from affinity_service.affinity.lookahead import measure_step
from affinity_service.errors import UserError
from affinity_service.gradients.instrument import Instrument
from affinity_service.gradients.sketch import CountSketch

TASKS = 4


class Model(nn.Module):
    """A shared body, with or without dropout and BatchNorm, and a column per task."""

    def __init__(self, *, dropout: float = 0.0, norm: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        extra = [nn.BatchNorm1d(8)] if norm else []
        self.body = nn.Sequential(nn.Linear(5, 8), *extra, nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 6), nn.Tanh())
        self.head = nn.Linear(6, TASKS)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def losses(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    x, y = batch
    known = ~y.isnan()
    each = nn.functional.softplus(-torch.where(known, y, 0.0) * model(x)) * known
    return each.sum(dim=0), known.sum(dim=0)


def batch(rows: int = 32, seed: int = 1, missing: float = 0.2, dtype=torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 5, generator=generator)
    y = (x @ torch.randn(5, TASKS, generator=generator) + torch.randn(rows, TASKS, generator=generator)).sign()
    y[torch.rand(rows, TASKS, generator=generator) < missing] = torch.nan
    return x.to(dtype), y.to(dtype)


def instrument(model: nn.Module) -> Instrument:
    return Instrument(model, losses, [name for name, _ in model.named_parameters() if name.startswith("body")])


def reference(model: nn.Module, data: tuple[Tensor, Tensor], rate: float) -> Tensor:
    """Z (receiver, source) one source at a time: its gradient by a backward pass on a copy of the model, a plain step
    of the body, the losses again."""
    found = torch.zeros(TASKS, TASKS, dtype=torch.float64)
    sums, counts = losses(model, data)
    before = (sums / counts).detach()
    for source in range(TASKS):
        moved = copy.deepcopy(model)
        sums, counts = losses(moved, data)
        (sums[source] / counts[source]).backward()
        with torch.no_grad():
            for parameter in moved.body.parameters():
                parameter -= rate * parameter.grad
            sums, counts = losses(moved, data)
        found[:, source] = 1 - (sums / counts) / before
    return found


def test_lookahead_is_the_loss_after_a_step_of_one_source():
    model, data = Model().double(), batch(dtype=torch.float64)
    found = measure_step(instrument(model), data, 0.5)
    np.testing.assert_allclose(found.lookahead, reference(model, data, 0.5), rtol=1e-4, atol=1e-7)


def test_held_out_receivers_are_judged_on_their_own_batch():
    model, data, other = Model(), batch(), batch(seed=2)
    found = measure_step(instrument(model), data, 0.5, receivers=other)
    mine = instrument(model)
    rows = mine.gradients(data).rows
    after = mine.losses_after(-0.5 * rows, other)
    before = mine.gradients(other).losses
    torch.testing.assert_close(found.lookahead, (1 - after / before).T, rtol=1e-3, atol=1e-6, check_dtype=False)
    assert not torch.allclose(found.cosine, found.cosine.T)


def test_lookahead_and_first_order_meet_as_the_step_shrinks():
    """The difference falls as the square of the step: a slope of 2, where each alone has 1."""
    model, data = Model().double(), batch(dtype=torch.float64)
    rates = np.array([0.4, 0.2, 0.1, 0.05])
    # float32 rows limit how small a difference can be seen.
    gaps = []
    for rate in rates:
        found = measure_step(instrument(model), data, float(rate))
        gaps.append(float((found.lookahead - found.first_order).abs().max()))
    slope = np.polyfit(np.log(rates), np.log(gaps), 1)[0]
    assert 1.8 < slope < 2.2
    # First order itself against autograd, by its definition.
    parameters = list(model.body.parameters())
    sums, counts = losses(model, data)
    mean = sums / counts
    rows = torch.stack(
        [torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, retain_graph=True)]) for loss in mean]
    )
    wanted = 0.1 * (rows @ rows.T) / mean.detach()[:, None]
    found = measure_step(instrument(model), data, 0.1, lookahead=False)
    assert found.lookahead is None
    torch.testing.assert_close(found.first_order.double(), wanted, rtol=1e-4, atol=1e-7)
    unit = rows / rows.norm(dim=1, keepdim=True)
    torch.testing.assert_close(found.cosine.double(), unit @ unit.T, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_the_optimizers_own_step_has_its_limit(kind):
    """As the rate goes to 0: ⟨u_i − u_0, −g_j⟩ / L_j, with u_0 the step that a gradient of zero makes."""
    model, data = Model().double(), batch(dtype=torch.float64)
    parameters = dict(model.named_parameters())
    shared = {name: parameters[name] for name in instrument(model).shared}

    def optimizer(rate: float) -> torch.optim.Optimizer:
        if kind == "sgd":
            return torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
        return torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.1)

    run = optimizer(0.01)
    for seed in range(3):
        run.zero_grad()
        sums, counts = losses(model, batch(seed=seed, dtype=torch.float64))
        (sums / counts).sum().backward()
        run.step()
    state = copy.deepcopy(run.state_dict())
    sums, counts = losses(model, data)
    mean = sums / counts
    own = list(shared.values())
    rows = torch.stack(
        [torch.cat([g.flatten() for g in torch.autograd.grad(loss, own, retain_graph=True)]) for loss in mean]
    )
    gaps = []
    rates = [1e-2, 1e-3]
    for rate in rates:
        other = optimizer(rate)
        other.load_state_dict({**state, "param_groups": other.state_dict()["param_groups"]})
        found = measure_step(instrument(model), data, rate, optimizer=(other, shared)).lookahead
        steps = []
        for row in [torch.zeros_like(rows[0]), *rows]:
            moved = copy.deepcopy(model)
            mine = type(other)(
                moved.parameters(),
                **{k: v for k, v in other.defaults.items() if k in ("lr", "momentum", "weight_decay")},
            )
            mine.load_state_dict(copy.deepcopy(other.state_dict()))
            for name, parameter in moved.named_parameters():
                if name in shared:
                    index = list(shared).index(name)
                    sizes = [p.numel() for p in own]
                    parameter.grad = row.split(sizes)[index].view_as(parameter).clone()
            before = torch.cat([dict(moved.named_parameters())[name].detach().flatten() for name in shared])
            mine.step()
            after = torch.cat([dict(moved.named_parameters())[name].detach().flatten() for name in shared])
            steps.append(after - before)
        pure = torch.stack([step - steps[0] for step in steps[1:]])
        limit = -(rows @ pure.T) / mean.detach()[:, None]
        gaps.append(float((found - limit).abs().max() / limit.abs().max()))
    assert gaps[1] < 0.02
    assert gaps[1] < gaps[0]


def test_an_optimizer_is_given_the_sources_part_of_the_loss_and_must_know_the_parameters():
    model, data = Model().double(), batch(dtype=torch.float64)
    named = dict(model.named_parameters())
    tool = instrument(model)
    shared = {name: named[name] for name in tool.shared}
    sgd = torch.optim.SGD(model.parameters(), lr=0.5)
    share = torch.full((TASKS,), 1.0) / (TASKS * tool.gradients(data).counts)
    part = measure_step(tool, data, 0.5, optimizer=(sgd, shared), share=share)
    plain = measure_step(tool, data, 0.5 / TASKS)
    torch.testing.assert_close(part.lookahead, plain.lookahead, rtol=1e-4, atol=1e-7)
    few = torch.optim.SGD([model.body[0].weight], lr=0.5)
    with pytest.raises(UserError, match="3 of the shared parameters are not in the optimizer"):
        measure_step(tool, data, 0.5, optimizer=(few, shared))


def test_buffers_are_those_that_the_model_has_now():
    class Scaled(Model):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * self.scale

    model, data = Scaled(), batch()
    tool = instrument(model)
    before = tool.gradients(data).losses
    model.scale = torch.full((), 3.0)
    sums, counts = losses(model, data)
    after = tool.gradients(data).losses
    torch.testing.assert_close(after, (sums / counts).detach())
    assert not torch.allclose(before, after)


def fingerprint(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    state = [v for own in optimizer.state.values() for v in own.values() if isinstance(v, Tensor)]
    gradients = [p.grad for p in model.parameters()]
    return [t.clone() for t in [*model.state_dict().values(), *state, *gradients, torch.get_rng_state()]]


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("own_step", [False, True])
def test_measuring_leaves_no_trace(norm, own_step):
    """Weights, BatchNorm statistics, optimizer state, gradients, random numbers, modes."""
    model = Model(dropout=0.3, norm=norm).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    sums, counts = losses(model, batch())
    (sums / counts).sum().backward()
    optimizer.step()
    before = fingerprint(model, optimizer)
    named = dict(model.named_parameters())
    tool = instrument(model)
    extra = {"optimizer": (optimizer, {name: named[name] for name in tool.shared})} if own_step else {}
    found = measure_step(tool, batch(seed=3), 0.1, **extra)
    assert torch.isfinite(found.lookahead).all()
    for a, b in zip(before, fingerprint(model, optimizer), strict=True):
        assert torch.equal(a, b)
    assert model.training


def test_operations_without_a_batching_rule_are_measured_one_copy_at_a_time():
    """BatchNorm in training writes to its buffers, which no vmap allows."""
    model, data = Model(norm=True).double().train(), batch(dtype=torch.float64)
    tool = instrument(model)
    found = measure_step(tool, data, 0.5)
    assert not tool._stacked
    wanted = reference(copy.deepcopy(model), data, 0.5)
    np.testing.assert_allclose(found.lookahead, wanted, rtol=1e-4, atol=1e-6)


def test_dropout_masks_are_the_same_before_and_after():
    """A step of length nothing changes no loss, whatever is dropped."""
    model = Model(dropout=0.5).train()
    found = measure_step(instrument(model), batch(), 0.0)
    torch.testing.assert_close(found.lookahead, torch.zeros(TASKS, TASKS), rtol=0, atol=1e-6)


def test_a_task_without_examples_or_with_a_bad_gradient_is_left_out_alone():
    model, (x, y) = Model(), batch()
    y[:, 2] = torch.nan
    found = measure_step(instrument(model), (x, y), 0.5)
    kept = [0, 1, 3]
    for matrix in (found.lookahead, found.first_order, found.cosine):
        assert matrix[2].isnan().all()
        assert matrix[:, 2].isnan().all()
        assert torch.isfinite(matrix[kept][:, kept]).all()

    def infinite(model: nn.Module, data: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        sums, counts = losses(model, data)
        return torch.stack([sums[0], sums[1] * float("inf"), sums[2], sums[3]]), counts

    tool = Instrument(model, infinite, instrument(model).shared)
    found = measure_step(tool, batch(), 0.5)
    # An infinite loss makes gradients that pass through the same product NaN as well: none of them is taken.
    assert found.lookahead[:, 1].isnan().all()
    assert not torch.isinf(found.lookahead).any()


def test_tied_weights_are_moved_together():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second = nn.Linear(5, 5), nn.Linear(5, 5)
            self.second.weight = self.first.weight
            self.head = nn.Linear(5, TASKS)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))

    model, data = Tied().double(), batch(dtype=torch.float64)
    model.body = nn.ModuleList([model.first, model.second])
    shared = [name for name, _ in model.named_parameters() if not name.startswith("head")]
    found = measure_step(Instrument(model, losses, shared), data, 0.5)
    np.testing.assert_allclose(found.lookahead, reference(model, data, 0.5), rtol=1e-4, atol=1e-7)


def test_sketches_keep_cosines_and_first_order_near():
    model, data = Model(), batch(rows=200)
    tool = instrument(model)
    whole = measure_step(tool, data, 0.5, lookahead=False)
    small = measure_step(tool, data, 0.5, lookahead=False, sketch=CountSketch(tool.sizes, 1 << 14, 1))
    assert float((whole.cosine - small.cosine).abs().max()) < 0.1
    torch.testing.assert_close(small.first_order.diagonal(), whole.first_order.diagonal(), rtol=0.1, atol=0)


def test_unknown_and_missing_shared_parameters_are_named():
    with pytest.raises(UserError, match=r"shared parameter 'body\.9\.weight' is not one of the model's: body\.0"):
        Instrument(Model(), losses, ["body.9.weight"])
    with pytest.raises(UserError, match="no shared parameters"):
        Instrument(Model(), losses, [])
