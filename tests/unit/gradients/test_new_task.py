"""A task added to a finished base model: the features it would have had among the others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from affinity_service.affinity import LinearizedEstimator
from affinity_service.affinity.added import estimator_with_added, read_added, write_added
from affinity_service.affinity.build import keep_examples
from affinity_service.affinity.calibration import Calibration
from affinity_service.affinity.network import ValidationNetworks
from affinity_service.affinity.trained import TrainedEstimator
from affinity_service.artifacts import StudyFolder
from affinity_service.config import Config
from affinity_service.gradients import new_task as module
from affinity_service.gradients.added_rows import anchor_with, rows_with
from affinity_service.gradients.features import compute_features
from affinity_service.gradients.new_task import extended_space, new_task, with_heads
from affinity_service.gradients.own_directions import OWN_DIRECTIONS
from affinity_service.gradients.per_example import PerExampleGradients
from affinity_service.gradients.reductions import build_reduction
from affinity_service.gradients.statistics import gradient_sums
from affinity_service.models import TaskLosses, build_model
from affinity_service.tasks.extend import with_task
from affinity_service.tasks.suite import TRAIN, VALIDATION, Suite, Task, seeded_split
from tests.estimating import features_of
from tests.suites import mixed_suite

SUITE = mixed_suite(rows=240, features=6)
CONFIG = Config.parse(
    {
        "name": "added",
        "data": {"source": "yeast"},
        "model": {"hidden": [8]},
        "gradients": {"dimension": 20, "landmarks": 60},
        "fits": {"evaluate": "linearized", "epochs": 3},
    }
)


def without_last(suite: Suite) -> Suite:
    return replace(suite, labels=suite.labels[:, :-1], tasks=suite.tasks[:-1])


@pytest.fixture
def known():
    """A suite without its last task, the model of it, its rows and anchor."""
    few = without_last(SUITE)
    model = build_model(CONFIG.model, few.inputs.shape[1:], few.tasks, 0)
    return (few, model, *features_of(CONFIG, few, model))


def test_its_features_and_statistics_are_those_of_a_task_among_the_others(known, monkeypatch):
    few, model, rows, anchor = known
    whole = build_model(CONFIG.model, SUITE.inputs.shape[1:], SUITE.tasks, 0)
    whole.load_state_dict({**whole.state_dict(), **model.state_dict()})
    last = len(few.tasks)
    monkeypatch.setattr(module, "_fitted_head", lambda *_: tuple(part.detach() for part in whole.heads.head(last)))
    new = new_task(model, SUITE, CONFIG, anchor)
    gradients, wide = PerExampleGradients(whole, SUITE.tasks), extended_space(model, whole, CONFIG)
    extended = anchor_with(anchor, [new])
    reduce = build_reduction(CONFIG.gradients, wide, extended["scale"], extended["basis"])
    for split, name in ((TRAIN, "train"), (VALIDATION, "validation")):
        example, task = SUITE.pairs(split)
        joined = rows_with(rows[split == VALIDATION], [new], last, name)
        expected = compute_features(gradients, reduce, SUITE, example, task, 512)
        # Of all tasks: the coordinates by the new head are zero for the others; its directions are its own.
        d, k = anchor["basis"].shape[1], new.tensors["directions"].shape[1]
        expected.features[np.ix_(task != last, range(d, d + k))] = 0
        np.testing.assert_allclose(joined.features, expected.features, atol=1e-6)
        np.testing.assert_allclose(joined.margins, expected.margins, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(joined.task_of_row, task)
        np.testing.assert_array_equal(joined.example, example)
        sums = gradient_sums(gradients, wide, SUITE, example, task, 512)
        mean = extended["mean" if split == TRAIN else "validation_mean"]
        np.testing.assert_allclose(mean, sums.first / sums.rows[:, None], rtol=1e-4, atol=1e-7)
        if split == TRAIN:
            np.testing.assert_allclose(extended["square"], sums.second / sums.rows[:, None], rtol=1e-4, atol=1e-9)
    np.testing.assert_array_equal(extended["weights"], wide.flatten(dict(whole.named_parameters())))
    assert 0 < new.energy <= 1 + 1e-6


def test_its_head_learns_what_the_body_knows(known):
    few, model, _, anchor = known
    rng = np.random.default_rng(0)
    with torch.no_grad():
        seen = model.body(torch.tensor(SUITE.inputs)).numpy()
    seen = (seen - seen.mean(axis=0)) / (seen.std(axis=0) + 1e-6)
    score = seen @ rng.normal(size=8)
    for kind, labels in (
        ("binary", (score > 0).astype(float)),
        ("regression", 3 + 5 * score),
        ("multiclass", np.digitize(score, [-1, 1])),
    ):
        suite = with_task(few, "new", labels, kind)
        found = new_task(model, suite, CONFIG, anchor)
        margins, targets = found.tensors["validation_margins"], found.tensors["validation_targets"]
        if kind == "regression":
            assert float((margins - targets).square().mean()) < 0.2
        else:
            # A multi-class margin is of the label itself.
            right = (margins > 0) == (targets > 0.5)
            assert float(right.float().mean()) > 0.75, kind


def test_subsets_of_known_and_added_tasks_are_estimated_and_those_of_known_ones_stay(known, tmp_path):
    few, model, rows, anchor = known
    folder = StudyFolder.at(tmp_path)
    write_added(folder, new_task(model, SUITE, CONFIG, anchor), None)
    added = read_added(folder)
    assert [new.task for new in added] == [SUITE.tasks[-1]]
    folder.write_bytes("base_model/model.safetensors", _saved(model))
    with_new = estimator_with_added(CONFIG, folder, rows, anchor, few.tasks, added, Calibration())
    alone = LinearizedEstimator(*rows, few.tasks, CONFIG, anchor)
    last = len(few.tasks)
    found = with_new.estimate([(0, 1), (0, last), (last,)])
    np.testing.assert_allclose(found.losses[0], alone.estimate([(0, 1)]).losses[0], rtol=1e-5)
    assert all(np.isfinite(losses).all() for losses in found.losses)


@pytest.fixture(scope="module")
def trained():
    """Three binary tasks, config, a trained model of them, its rows and anchor."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(300, 20)).astype(np.float32)
    scores = inputs @ rng.normal(size=(20, 3)) + 0.5 * rng.normal(size=(300, 3))
    tasks = tuple(Task(name, "binary") for name in "abc")
    suite = Suite(inputs, (scores > 0).astype(np.float32), seeded_split(300, 0.2, 0.2, 0), tasks)
    content = {
        "model": {"hidden": [32]},
        "base": {"batch_size": 32, "learning_rate": 0.01},
        "gradients": {"dimension": 12, "landmarks": 300},
        "fits": {"evaluate": "network", "epochs": 6},
    }
    config = Config.parse({"name": "far", "data": {"source": "yeast"}, **content})
    model, moments = _trained(config, suite)
    return (suite, config, model, *features_of(config, suite, model, moments))


def test_a_task_far_from_the_basis_is_predicted_as_it_is_trained(trained):
    """Its mean gradient, which the path runs along, lies outside the span of the other tasks'."""
    few, config, model, rows, anchor = trained
    assert anchor["basis"].shape == (771, 12)
    noise = np.random.default_rng(1).normal(size=300)
    suite = with_task(few, "new", 3 * few.inputs[:, 0] + 0.1 * noise)
    new = new_task(model, suite, config, anchor)
    assert new.energy < 0.1
    held_out = few.rows(VALIDATION)
    whole = with_heads(model, few.tasks, config, (20,), [new])
    weights = {name: p.detach().clone() for name, p in whole.named_parameters()}
    examples = (torch.tensor(part[held_out]) for part in (few.inputs, suite.labels))
    network = ValidationNetworks(whole, extended_space(model, whole, config), suite.tasks, *examples)
    train, validation = (rows_with(rows[i], [new], 3, split) for i, split in enumerate(("train", "validation")))
    estimator = LinearizedEstimator(train, validation, suite.tasks, config, anchor_with(anchor, [new]), network)
    subsets = [(3,), (0, 1, 2, 3)]
    true = TrainedEstimator(suite, config, weights).estimate(subsets).losses
    for found, expected in zip(estimator.estimate(subsets).losses, true, strict=True):
        assert found[-1] == pytest.approx(expected[-1], rel=0.4)


def test_its_directions_are_orthonormal_and_outside_the_basis_with_its_mean_gradients(known):
    _, model, _, anchor = known
    tensors = new_task(model, SUITE, CONFIG, anchor).tensors
    directions, basis = tensors["directions"], anchor["basis"]
    k = directions.shape[1]
    assert 2 < k <= OWN_DIRECTIONS
    both = torch.cat([basis, directions], dim=1)
    np.testing.assert_allclose(both.T @ both, np.eye(len(both.T)), atol=1e-5)
    for name in ("mean", "validation_mean"):
        mean = tensors[name][: len(basis)] * anchor["scale"]
        assert float((mean - both @ (both.T @ mean)).norm() / mean.norm()) < 1e-4


def test_a_basis_of_all_directions_leaves_none(known):
    few, model, _, _ = known
    whole = CONFIG.model_copy(update={"gradients": CONFIG.gradients.model_copy(update={"reduction": "exact"})})
    _, anchor = features_of(whole, few, model)
    assert new_task(model, SUITE, whole, anchor).tensors["directions"].shape[1] == 0
    anchor["basis"] = torch.eye(len(anchor["weights"]))
    new = new_task(model, SUITE, CONFIG, anchor)
    assert new.tensors["directions"].shape[1] == 0
    assert new.energy == pytest.approx(1, rel=1e-4)


def test_energy_tells_a_twin_from_noise(trained):
    few, config, model, _, anchor = trained
    noise = np.random.default_rng(0).integers(0, 2, len(few)).astype(float)
    random = new_task(model, with_task(few, "random", noise), config, anchor)
    twin = new_task(model, with_task(few, "twin", few.labels[:, 0]), config, anchor)
    assert 2 * random.energy < twin.energy <= 1


def test_energy_is_unknown_without_a_basis(known):
    few, model, _, _ = known
    signs = CONFIG.model_copy(update={"gradients": CONFIG.gradients.model_copy(update={"reduction": "rademacher"})})
    _, anchor = features_of(signs, few, model)
    assert new_task(model, SUITE, signs, anchor).energy is None


@pytest.mark.parametrize("layers", [["*weight*"], ["body.*"]])
def test_layers_may_leave_out_part_of_a_head_or_all(known, tmp_path, layers):
    few, model, _, _ = known
    config = CONFIG.model_copy(update={"gradients": CONFIG.gradients.model_copy(update={"layers": layers})})
    space = extended_space(model, model, config)
    rows, anchor = features_of(config, few, model, space=space)
    folder = StudyFolder.at(tmp_path)
    write_added(folder, new_task(model, SUITE, config, anchor), None)
    (new,) = read_added(folder)
    assert new.head_size == (8 if layers == ["*weight*"] else 0)
    folder.write_bytes("base_model/model.safetensors", _saved(model))
    for evaluate in ("linearized", "network"):
        settings = config.model_copy(update={"fits": config.fits.model_copy(update={"evaluate": evaluate})})
        keep_examples(folder, few)
        estimator = estimator_with_added(settings, folder, rows, anchor, few.tasks, [new], Calibration())
        found = estimator.estimate([(0, len(few.tasks)), (len(few.tasks),)])
        assert all(np.isfinite(losses).all() for losses in found.losses)


def test_the_network_evaluates_added_heads(known):
    few, model, _, anchor = known
    new = new_task(model, SUITE, CONFIG, anchor)
    whole = with_heads(model, few.tasks, CONFIG, SUITE.inputs.shape[1:], [new]).eval()
    out = whole(new.tensors["inputs"], [len(few.tasks)])[:, 0]
    if SUITE.tasks[-1].kind != "multiclass":
        np.testing.assert_allclose(out.detach(), new.tensors["validation_margins"], atol=1e-5)


def test_among_means_of_each_subset_it_brings_its_directions():
    """Other tasks' rows are known along them as far as the study's means span them, its own rows exactly."""
    few = without_last(SUITE)
    model = build_model(CONFIG.model, few.inputs.shape[1:], few.tasks, 0)
    settings = CONFIG.model_copy(update={"gradients": CONFIG.gradients.model_copy(update={"dimension": 6})})
    rows, anchor = features_of(settings, few, model, apart=True)
    new, again = (new_task(model, SUITE, settings, anchor) for _ in range(2))
    count, h, k = len(few.tasks), anchor["own"].shape[1], new.tensors["directions"].shape[1]
    extended = anchor_with(anchor, [new, again])
    joined = rows_with(rows[0], [new, again], count, "train", h)
    own = len(rows[0].features)
    assert joined.products.shape == (len(joined.features), count + 2 * k)
    span = new.tensors["span"].numpy()
    np.testing.assert_allclose(joined.products[:own, count : count + k], rows[0].products @ span, rtol=0.01, atol=0.01)
    part = new.tensors["train_products"].numpy()
    np.testing.assert_array_equal(joined.products[own : own + len(part), : count + k], part)
    np.testing.assert_allclose(joined.products[own : own + len(part), count + k :], part[:, :count] @ span, atol=0.05)
    # Its mean gradients lie within the basis and its directions.
    basis, directions = anchor["basis"], new.tensors["directions"]
    shared = torch.ones(len(anchor["weights"]), dtype=torch.bool)
    shared[anchor["own"][anchor["own"] < len(shared)]] = False
    mean = (new.tensors["mean"][: len(shared)] * anchor["scale"])[shared]
    within = torch.cat([basis, directions], dim=1)
    torch.testing.assert_close(within @ (within.T @ mean), mean, rtol=1e-3, atol=1e-5)
    parts = (rows_with(rows[i], [new, again], count, s, h) for i, s in enumerate(("train", "validation")))
    estimator = LinearizedEstimator(*parts, (*SUITE.tasks, SUITE.tasks[-1]), settings, extended)
    subsets = [(0, count), (count,), (count + 1,), (0, count, count + 1), (0, 1)]
    found = estimator.estimate(subsets)
    assert all(np.isfinite(losses).all() for losses in found.losses)
    np.testing.assert_allclose(found.losses[1], found.losses[2], rtol=1e-4)
    # Subsets of the study's own tasks are what they are without.
    known = LinearizedEstimator(*rows, few.tasks, settings, anchor).estimate([(0, 1)])
    np.testing.assert_allclose(found.losses[4], known.losses[0], rtol=1e-4)


def _trained(config: Config, suite: Suite) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """A model of the suite after some steps, and Adam's second moments."""
    model, losses = build_model(config.model, suite.inputs.shape[1:], suite.tasks, 0), TaskLosses(suite.tasks)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    rows = suite.rows(TRAIN)
    for _ in range(60):
        optimizer.zero_grad()
        losses(model(torch.tensor(suite.inputs[rows])), torch.tensor(suite.labels[rows])).mean().backward()
        optimizer.step()
    return model, {name: optimizer.state[p]["exp_avg_sq"] for name, p in model.named_parameters()}


def _saved(model: torch.nn.Module) -> bytes:
    from safetensors.torch import save

    return save(dict(model.state_dict()))


def test_beside_heads_apart_it_is_the_task_that_it_is_among_unreduced_gradients():
    few = without_last(SUITE)
    model = build_model(CONFIG.model, few.inputs.shape[1:], few.tasks, 0)
    subsets = [(0, len(few.tasks)), (len(few.tasks),), tuple(range(len(SUITE.tasks))), (0, 1)]
    found = []
    for gradients, apart in (({"reduction": "exact"}, False), ({"dimension": 500, "landmarks": 500}, True)):
        settings = CONFIG.model_copy(update={"gradients": CONFIG.gradients.model_copy(update=gradients)})
        rows, anchor = features_of(settings, few, model, apart=apart)
        new = new_task(model, SUITE, settings, anchor)
        head = anchor["own"].shape[1] if apart else 0
        parts = (rows_with(rows[i], [new], len(few.tasks), s, head) for i, s in enumerate(("train", "validation")))
        estimator = LinearizedEstimator(*parts, SUITE.tasks, settings, anchor_with(anchor, [new]))
        found.append(estimator.estimate(subsets).losses)
    for exact, beside in zip(*found, strict=True):
        np.testing.assert_allclose(beside, exact, rtol=5e-3)
