import numpy as np
import pytest
import torch

from affinity_service.config import MLPConfig, TrainConfig
from affinity_service.errors import UserError
from affinity_service.evaluation.stacked import Run, StackedTrainer, _Stack, split_losses
from affinity_service.models import TaskLosses, build_model
from affinity_service.models.losses import task_weights
from affinity_service.tasks import TEST, TRAIN, VALIDATION
from affinity_service.tasks.sampling import epoch_batches
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
