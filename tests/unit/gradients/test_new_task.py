"""A task added to a finished base model: the features it would have had among the others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from affinity_service.affinity.added import estimator_with_added, read_added, write_added
from affinity_service.affinity.calibration import Calibration
from affinity_service.artifacts import StudyFolder
from affinity_service.config import Config
from affinity_service.gradients import new_task as module
from affinity_service.gradients.features import compute_features
from affinity_service.gradients.new_task import anchor_with, extended_space, new_task, rows_with, with_heads
from affinity_service.gradients.per_example import PerExampleGradients
from affinity_service.gradients.reductions import build_reduction
from affinity_service.gradients.statistics import gradient_sums
from affinity_service.models import build_model
from affinity_service.tasks.extend import with_task
from affinity_service.tasks.suite import TRAIN, VALIDATION, Suite
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
        # Of all tasks: the coordinates by the new head are zero for the others.
        expected = compute_features(gradients, reduce, SUITE, example, task, 512)
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
    write_added(folder, new_task(model, SUITE, CONFIG, anchor))
    added = read_added(folder)
    assert [new.task for new in added] == [SUITE.tasks[-1]]
    folder.write_bytes("base_model/model.safetensors", _saved(model))
    with_new = estimator_with_added(CONFIG, folder, rows, anchor, few.tasks, added, Calibration())
    from affinity_service.affinity import LinearizedEstimator

    alone = LinearizedEstimator(*rows, few.tasks, CONFIG, anchor)
    last = len(few.tasks)
    found = with_new.estimate([(0, 1), (0, last), (last,)])
    np.testing.assert_allclose(found.losses[0], alone.estimate([(0, 1)]).losses[0], rtol=1e-5)
    assert all(np.isfinite(losses).all() for losses in found.losses)


def test_added_tasks_of_other_features_are_not_read(known, tmp_path):
    _, model, _, anchor = known
    folder = StudyFolder.at(tmp_path)
    new = new_task(model, SUITE, CONFIG, anchor)
    write_added(folder, new)
    write_added(folder, new)
    assert len(read_added(folder)) == 2
    folder.write_json("stages/gradients.json", {"identity": "another"})
    assert read_added(folder) == []


def test_the_network_evaluates_added_heads(known):
    few, model, _, anchor = known
    new = new_task(model, SUITE, CONFIG, anchor)
    whole = with_heads(model, few.tasks, CONFIG, SUITE.inputs.shape[1:], [new]).eval()
    out = whole(new.tensors["inputs"], [len(few.tasks)])[:, 0]
    if SUITE.tasks[-1].kind != "multiclass":
        np.testing.assert_allclose(out.detach(), new.tensors["validation_margins"], atol=1e-5)


def _saved(model: torch.nn.Module) -> bytes:
    from safetensors.torch import save

    return save(dict(model.state_dict()))
