import numpy as np
import pytest
import torch

from affinity_service.config import MLPConfig, TrainConfig
from affinity_service.errors import UserError
from affinity_service.evaluation.head_slots import HeadSlots, gather, scatter
from affinity_service.evaluation.own_rows import evaluation_parts
from affinity_service.evaluation.stacked import Run, StackedTrainer, _Stack, split_losses
from affinity_service.models import TaskLosses, build_model
from affinity_service.models.losses import task_weights
from affinity_service.tasks import TEST, TRAIN, VALIDATION, Suite, Task
from affinity_service.tasks.sampling import epoch_batches
from affinity_service.tasks.suite import seeded_split
from tests.suites import mixed_suite

SUITE = mixed_suite(rows=150, missing=0.4)
CONFIG = TrainConfig(epochs=6, patience=2, batch_size=16, learning_rate=0.02, gradient_clipping=0.5)


def build(seed):
    return build_model(MLPConfig(hidden=[6]), SUITE.inputs.shape[1:], SUITE.tasks, seed)


def plain_training(run, config):
    """One model, torch's own optimizer and clipping: slow and obvious."""
    model = build(run.seed)
    if config.optimizer == "sgd":
        kind, more = torch.optim.SGD, {"momentum": config.momentum}
    else:
        kind, more = torch.optim.AdamW, {}
    optimizer = kind(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, **more)
    losses, rows = TaskLosses(SUITE.tasks), SUITE.rows(TRAIN, run.tasks)
    counts = (SUITE.observed & (SUITE.split == TRAIN)[:, None]).sum(axis=0)
    weights = task_weights(counts.tolist(), run.tasks, len(rows))
    best, best_loss, waited, epochs = None, np.inf, 0, 0
    for epoch in range(CONFIG.epochs):
        model.train()
        for batch in epoch_batches(rows, CONFIG.batch_size, run.seed, epoch):
            loss = losses(model(torch.tensor(SUITE.inputs[batch])), torch.tensor(SUITE.labels[batch]))
            optimizer.zero_grad()
            ((loss * weights).sum() / len(batch)).backward()
            if config.gradient_clipping:
                torch.nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clipping)
            optimizer.step()
        epochs += 1
        validation = split_losses(model, SUITE, VALIDATION)[list(run.tasks)]
        if validation.mean() < best_loss:
            best_loss, best, waited = validation.mean(), epoch + 1, 0
            kept = {name: p.detach().clone() for name, p in model.state_dict().items()}
        else:
            waited += 1
            if waited == CONFIG.patience:
                break
    model.load_state_dict(kept)
    return best, epochs, split_losses(model, SUITE, VALIDATION), split_losses(model, SUITE, TEST)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("clipping", [0.0, 0.3])
def test_models_in_a_stack_are_what_they_would_be_alone(optimizer, clipping):
    config = CONFIG.model_copy(update={"optimizer": optimizer, "gradient_clipping": clipping})
    runs = [Run((0, 1, 2, 3), 0), Run((1,), 5), Run((2, 3), 1), Run((3,), 2)]
    steps = {len(SUITE.rows(TRAIN, run.tasks)) // CONFIG.batch_size for run in runs}
    assert len(steps) > 1, "the runs must differ in steps per epoch"
    outcomes = StackedTrainer(SUITE, config, build, "cpu").train(runs)
    assert [outcome.run for outcome in outcomes] == runs
    for outcome in outcomes:
        best, epochs, validation, test = plain_training(outcome.run, config)
        tasks = list(outcome.run.tasks)
        assert (outcome.best_epoch, outcome.epochs) == (best, epochs)
        np.testing.assert_allclose(outcome.validation[tasks], validation[tasks], rtol=1e-4)
        np.testing.assert_allclose(outcome.test[tasks], test[tasks], rtol=1e-4)
        outside = np.setdiff1d(range(4), tasks)
        assert np.isnan(outcome.validation[outside]).all()


def test_the_weights_are_those_of_the_best_epoch():
    (outcome,) = StackedTrainer(SUITE, CONFIG, build, "cpu").train([Run((0, 2), 3)])
    model = build(3)
    model.load_state_dict(outcome.weights)
    np.testing.assert_allclose(split_losses(model, SUITE, TEST)[[0, 2]], outcome.test[[0, 2]], rtol=1e-5)


def test_heads_of_other_tasks_stay_as_they_were():
    config = CONFIG.model_copy(update={"weight_decay": 0.3})
    (outcome,) = StackedTrainer(SUITE, config, build, "cpu").train([Run((0, 2), 3)])
    initial = build(3).state_dict()
    assert list(outcome.weights) == list(initial)
    moved = {name for name, weight in outcome.weights.items() if not torch.equal(weight, initial[name])}
    assert moved == {name for name in initial if not name.endswith(("_1", "_3"))}


def wide_suite(seed, binary_only):
    """Twelve tasks, of one kind or of several, on few of the examples each."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(600, 5)).astype(np.float32)
    scores = inputs @ rng.normal(size=(5, 12)) + 0.3 * rng.normal(size=(600, 12))
    classes = (0, 0, 0, 3, 1, 0, 4, 3, 1, 1, 0, 3)
    columns, tasks = [], []
    for task, number in enumerate([0] * 12 if binary_only else classes):
        kind = {0: "binary", 1: "regression"}.get(number, "multiclass")
        column = scores[:, task] > 0 if number == 0 else np.digitize(scores[:, task], np.linspace(-2, 2, number - 1))
        columns.append(scores[:, task] if number == 1 else column)
        tasks.append(Task(f"t{task}", kind, max(1, number)))
    labels = np.stack(columns, axis=1).astype(np.float32)
    labels[rng.random(labels.shape) < rng.uniform(0.5, 0.95, size=12)] = np.nan
    return Suite(inputs, labels, seeded_split(600, 0.3, 0.2, seed), tuple(tasks))


@pytest.mark.parametrize("linearised", [False, True])
@pytest.mark.parametrize("binary_only", [False, True])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_models_without_the_heads_of_others_are_those_with_all_heads(binary_only, linearised, optimizer):
    """Beside a model of all tasks, every model has all heads and mostly sees all examples."""
    suite = wide_suite(4, binary_only)
    config = CONFIG.model_copy(update={"weight_decay": 0.1, "gradient_clipping": 0.3, "optimizer": optimizer})

    def build_wide(seed):
        return build_model(MLPConfig(hidden=[6]), suite.inputs.shape[1:], suite.tasks, seed)

    trainer = StackedTrainer(suite, config, build_wide, "cpu", record_test=True, linearised=linearised)
    runs = [Run((0, 3, 4), 0), Run((6,), 1), Run((2, 5, 7, 8, 11), 0), Run((1, 10), 2)]
    assert len(_Stack(trainer, runs).slots.tasks) < 12
    everything = Run(tuple(range(12)), 5)
    for compact, full in zip(trainer.train(runs), trainer.train([*runs, everything]), strict=False):
        assert (compact.best_epoch, compact.epochs) == (full.best_epoch, full.epochs)
        np.testing.assert_allclose(compact.history, full.history, rtol=1e-4)
        np.testing.assert_allclose(compact.test_history, full.test_history, rtol=1e-4)
        np.testing.assert_allclose(compact.test, full.test, rtol=1e-4)
        assert np.isfinite(compact.validation).nonzero()[0].tolist() == list(compact.run.tasks)
        for name, weight in compact.weights.items():
            torch.testing.assert_close(weight, full.weights[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("density", [0.05, 0.9])
def test_every_model_is_evaluated_on_its_own_rows_once(density):
    rng = np.random.default_rng(0)
    rows = [np.flatnonzero(rng.random(500) < density * share) for share in (1, 1, 0.9, 1, 0)]
    seen = [[] for _ in rows]
    parts = evaluation_parts(rows, 64, 500, "cpu")
    for part in parts:
        numbers = np.arange(len(rows))[part.models]
        for number, own in zip(numbers, part.rows.expand(len(numbers), -1).tolist(), strict=True):
            seen[number] += own
    for own, found in zip(rows, seen, strict=True):
        kept = [row for row in found if row in set(own.tolist())]
        assert kept == own.tolist()
    assert max(part.rows.shape[-1] for part in parts) <= 64
    passed = sum(len(found) for found in seen)
    assert passed <= 1.4 * sum(map(len, rows)), "examples without a label of a model's tasks are passed through it"


def test_slots_serve_the_largest_run_of_each_form():
    slots = HeadSlots.of([(0, 1), (2, 3), (3,)], SUITE.tasks)
    assert [task.name for task in slots.tasks] == ["up", "up", "level", "value"]
    assert slots.task_in.tolist() == [[0, 1, 4, 4], [4, 4, 2, 3], [4, 4, 4, 3]]
    model = build(0)
    whole, names = model.state_dict(), slots.whole_names("heads.", 1)
    shapes = {name: tuple(p.shape) for name, p in slots.compact(model).named_parameters()}
    weights = gather(whole, names, shapes)
    assert {name: tuple(weight.shape) for name, weight in weights.items()} == shapes
    torch.testing.assert_close(weights["heads.weight_2"], whole["heads.weight_2"])
    assert not weights["heads.weight_0"].any()
    back = scatter(whole, names, {name: weight + 1 for name, weight in weights.items()})
    assert list(back) == list(whole)
    for name, weight in whole.items():
        torch.testing.assert_close(back[name], weight + (0 if name.endswith(("_0", "_1")) else 1))


def with_dropout(seed):
    return build_model(MLPConfig(hidden=[6], dropout=0.5), SUITE.inputs.shape[1:], SUITE.tasks, seed)


def test_with_dropout_the_same_stack_trained_twice_is_the_same():
    runs, state = [Run((0, 1), 0), Run((2, 3), 1)], torch.random.get_rng_state()
    first = StackedTrainer(SUITE, CONFIG, with_dropout, "cpu").train(runs)
    assert (torch.random.get_rng_state() == state).all()
    torch.rand(7)
    for one, other in zip(first, StackedTrainer(SUITE, CONFIG, with_dropout, "cpu").train(runs), strict=True):
        np.testing.assert_array_equal(one.test, other.test)
        assert all((one.weights[name] == other.weights[name]).all() for name in one.weights)


def test_dropout_masks_differ_between_epochs_and_seeds():
    def drawn(seed, epoch):
        stack = _Stack(StackedTrainer(SUITE, CONFIG, with_dropout, "cpu"), [Run((0,), seed)])
        with stack._seeded(epoch):
            return torch.rand(3).tolist()

    assert drawn(0, 0) == drawn(0, 0)
    assert drawn(0, 0) != drawn(0, 1)
    assert drawn(0, 0) != drawn(1, 0)


def test_a_model_that_diverged_is_refused_by_its_tasks_and_seed():
    # A step of 1e30 makes the weights, and with them every validation loss, infinite.
    config = CONFIG.model_copy(update={"learning_rate": 1e30, "gradient_clipping": 0.0})
    with pytest.raises(UserError) as error:
        StackedTrainer(SUITE, config, build, "cpu").train([Run((0, 3), 17)])
    message = str(error.value)
    assert "`up`, `value` with seed 17 diverged" in message
    assert "lower base.learning_rate (1e+30) or set base.gradient_clipping (0)" in message
