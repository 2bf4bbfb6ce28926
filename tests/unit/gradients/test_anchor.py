"""Statistics and bases of gradients, against autograd and against the singular vectors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from affinity_service.artifacts import StudyFolder
from affinity_service.config import Config
from affinity_service.errors import UserError
from affinity_service.gradients import subspace_size
from affinity_service.gradients.energy import captured_energy, total_energy
from affinity_service.gradients.features import Features
from affinity_service.gradients.landmarks import LandmarkGradients, landmark_pairs
from affinity_service.gradients.per_example import PerExampleGradients
from affinity_service.gradients.reductions import Exact, Factorised, Rademacher
from affinity_service.gradients.statistics import combine, gradient_sums, loss_slopes
from affinity_service.gradients.subspace_basis import subspace_basis
from affinity_service.gradients.sums_file import read_sums, write_sums
from affinity_service.gradients.weight_space import WeightSpace, optimizer_metric
from affinity_service.models.losses import TaskLosses
from affinity_service.tasks.suite import TRAIN, VALIDATION
from tests.estimating import features_of, model_of, space_of
from tests.suites import mixed_suite

SUITE = mixed_suite(rows=150)


def config(**gradients) -> Config:
    return Config.parse({"name": "x", "data": {"source": "yeast"}, "model": {"hidden": [7, 5]}, "gradients": gradients})


def loss_gradients(model, task: int) -> torch.Tensor:
    """(n, p) gradients of every training example's loss, one autograd call each."""
    found = []
    for row in SUITE.rows(TRAIN, [task]):
        model.zero_grad()
        outputs = model(torch.tensor(SUITE.inputs[row : row + 1]))
        TaskLosses(SUITE.tasks)(outputs, torch.tensor(SUITE.labels[row : row + 1]))[0, task].backward()
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
        found.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(found)


def blocks_of(model, rows: int = 20):
    example, task = SUITE.pairs(TRAIN)
    chosen = np.linspace(0, len(task) - 1, rows).astype(int)
    tasks, labels = torch.tensor(task[chosen]).long(), torch.tensor(SUITE.labels[example[chosen], task[chosen]])
    return PerExampleGradients(model, SUITE.tasks)(torch.tensor(SUITE.inputs[example[chosen]]), tasks, labels)[1]


@pytest.mark.parametrize("hooks", [True, False])
def test_sums_are_those_of_the_loss_gradients(hooks):
    model = model_of(config(), SUITE)
    gradients, space = PerExampleGradients(model, SUITE.tasks, hooks), space_of(model)
    example, task = SUITE.pairs(TRAIN)
    half = len(task) // 2
    parts = (slice(0, half), slice(half, None))
    pieces = [gradient_sums(gradients, space, SUITE, example[part], task[part], 16) for part in parts]
    found = combine(pieces, pieces, len(SUITE.tasks))
    for index in range(len(SUITE.tasks)):
        expected = loss_gradients(model, index)
        torch.testing.assert_close(found.mean[index], expected.mean(0), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found.square[index], expected.square().mean(0), rtol=1e-4, atol=1e-7)


def test_sums_that_were_written_are_read_again_and_squares_only_where_they_are_wanted(tmp_path):
    model, folder = model_of(config(), SUITE), StudyFolder.at(tmp_path)
    gradients, space = PerExampleGradients(model, SUITE.tasks), space_of(model)
    for split, squares in ((TRAIN, True), (VALIDATION, False)):
        sums = gradient_sums(gradients, space, SUITE, *SUITE.pairs(split), 64, squares=squares)
        write_sums(folder, 7, split, sums, 12.5)
        read, flops = read_sums(folder, 7, split)
        assert flops == 12.5
        for name, value in vars(sums).items():
            np.testing.assert_array_equal(getattr(read, name), value)
        assert (read.second is None) == (not squares)
    whole = gradient_sums(gradients, space, SUITE, *SUITE.pairs(VALIDATION), 64)
    np.testing.assert_array_equal(read.first, whole.first)


def landmarks_of(model, scale) -> tuple[LandmarkGradients, torch.Tensor]:
    """The landmarks, and X itself."""
    gradients, space = PerExampleGradients(model, SUITE.tasks), space_of(model)
    found = LandmarkGradients(gradients, space, scale, SUITE, *landmark_pairs(SUITE, 120, 0), batch_rows=32)
    return found, found.transposed_times(torch.eye(len(found))).T


def test_landmarks_are_shared_among_the_tasks_and_known_by_their_products():
    model = model_of(config(), SUITE)
    scale = torch.rand(space_of(model).size) + 0.5
    landmarks, x = landmarks_of(model, scale)
    counts = np.bincount(landmarks.task, minlength=4)
    assert counts.sum() == 120
    assert np.ptp(counts) <= 1
    assert len(set(zip(landmarks.task.tolist(), landmarks.example.tolist(), strict=True))) == 120
    y = torch.randn(space_of(model).size, 6)
    torch.testing.assert_close(landmarks.times(y), x @ y, rtol=1e-4, atol=1e-4)


def test_the_kernel_of_landmarks_is_exact_and_only_for_a_plain_metric():
    model = model_of(config(), SUITE)
    size = space_of(model).size
    landmarks, x = landmarks_of(model, torch.full((size,), 1.5))
    assert landmarks.has_kernel
    torch.testing.assert_close(landmarks.kernel().float(), x @ x.T, rtol=1e-4, atol=1e-4)
    assert landmarks.energy() == pytest.approx(float(x.square().sum()), rel=1e-5)
    assert not landmarks_of(model, torch.rand(size) + 0.5)[0].has_kernel


@pytest.mark.parametrize("metric", ["optimizer", "euclidean"])
def test_the_basis_holds_the_means_and_the_leading_directions(metric):
    model = model_of(config(), SUITE)
    scale = torch.rand(space_of(model).size) + 0.5 if metric == "optimizer" else torch.ones(space_of(model).size)
    landmarks, x = landmarks_of(model, scale)
    gradients, space = landmarks.gradients, landmarks.space
    sums = {s: gradient_sums(gradients, space, SUITE, *SUITE.pairs(s), 64) for s in (TRAIN, VALIDATION)}
    found = combine([sums[TRAIN]], [sums[VALIDATION]], 4)
    basis = subspace_basis(found, landmarks, 30, 0)
    torch.testing.assert_close(basis.T @ basis, torch.eye(30), atol=1e-5, rtol=0)
    means = torch.cat([found.mean, found.validation_mean]) * scale
    torch.testing.assert_close(means @ basis @ basis.T, means, rtol=1e-3, atol=1e-5)
    # Nothing captures more of the landmarks outside the means than their singular vectors do.
    q = torch.linalg.qr(means.T)[0]
    rest = x - x @ q @ q.T
    best = torch.linalg.svdvals(rest)[: 30 - 8].square().sum()
    assert (rest @ basis).square().sum() > 0.995 * best


def test_few_dimensions_are_shared_by_the_leading_means_and_landmarks():
    _, anchor = features_of(config(dimension=6, landmarks=50), SUITE, model_of(config(), SUITE))
    assert anchor["basis"].shape[1] == 6


def test_auto_takes_the_directions_that_hold_ninety_percent_of_other_gradients():
    model = model_of(config(), SUITE)
    whole = features_of(config(reduction="exact"), SUITE, model)[0][0].features
    (rows, _), anchor = features_of(config(dimension="auto", landmarks=120), SUITE, model)
    assert int(anchor["landmarks"]) == 120
    held = np.square(rows.features).sum() / np.square(whole).sum()
    # 90% of the pairs that judge, so about as much of all.
    assert 0.87 < held < 0.97
    assert rows.features.shape[1] < space_of(model).size / 2


def test_auto_doubles_the_landmarks_while_others_show_more():
    model = model_of(config(), SUITE)
    pairs = len(SUITE.pairs(TRAIN)[0])
    assert pairs < subspace_size.FIRST_LANDMARKS
    _, anchor = features_of(config(landmarks="auto", dimension=60), SUITE, model)
    assert int(anchor["landmarks"]) == pairs, "there are no others"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subspace_size, "FIRST_LANDMARKS", 20)
        found = int(features_of(config(landmarks="auto", dimension=60), SUITE, model)[1]["landmarks"])
        patch.setattr(subspace_size, "GENERALISES", 0.0)
        undemanding = int(features_of(config(landmarks="auto", dimension=60), SUITE, model)[1]["landmarks"])
    # Twenty gradients span what they show of themselves, not of others.
    assert undemanding == 20 < found <= pairs


def test_auto_needs_a_subspace():
    with pytest.raises(UserError, match="dimension auto needs reduction subspace"):
        config(reduction="rademacher", dimension="auto")


def test_energy_is_whole_where_nothing_is_reduced_and_grows_with_the_dimension():
    model, found = model_of(config(), SUITE), []
    for settings in ({"reduction": "exact"}, {"dimension": 10}, {"dimension": 40}):
        (rows, _), anchor = features_of(config(**settings), SUITE, model)
        content = Features(rows.margins, rows.targets, rows.features)
        captured = captured_energy(content, SUITE, np.ones(len(rows.margins), bool), rows.task_of_row)
        found.append(captured / total_energy(anchor, SUITE))
    assert found[0] == pytest.approx(1, rel=1e-4)
    assert found[1] < found[2] <= 1 + 1e-6


def test_the_optimizers_metric():
    space = WeightSpace({"a": (2, 2), "b": (3,)})
    moments = {"a": torch.tensor([[1.0, 4.0], [0.0, 16.0]]), "b": torch.ones(3)}
    root = torch.tensor([1.0, 2.0, 0.0, 4.0, 1.0, 1.0, 1.0]) + 1e-8
    torch.testing.assert_close(optimizer_metric(space, moments).square(), root.mean() / root)


def test_layers_are_chosen_by_pattern():
    model = model_of(config(), SUITE)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    space = WeightSpace(shapes, ["body.*"])
    assert [name for name in shapes if name.startswith("body.")] == list(space.shapes)
    with pytest.raises(UserError, match=r"`trunk.\*` fits no parameter of the model; they are `body.0.weight`"):
        WeightSpace(shapes, ["trunk.*"])
    blocks = blocks_of(model)
    torch.testing.assert_close(Exact(space)(blocks, 20), Exact(space_of(model))(blocks, 20)[:, : space.size])
    for kind in (Rademacher, Factorised):
        assert kind(space, 8, 0)(blocks, 20).shape == (20, 8)


@pytest.mark.parametrize("kind", [Rademacher, Factorised])
def test_random_reductions_keep_scaled_inner_products_in_expectation(kind):
    model = model_of(config(), SUITE)
    space = space_of(model)
    scale = torch.ones(space.size)
    for index, columns in enumerate(space.slices.values()):
        # Constant on each parameter, so that its factors are exact.
        scale[columns] = 0.5 + 0.25 * index
    blocks = blocks_of(model)
    exact = Exact(space, scale)(blocks, 20)
    found = torch.stack([(f := kind(space, 64, seed, scale)(blocks, 20)) @ f.T for seed in range(60)])
    deviation = (found.mean(0) - exact @ exact.T) / (found.std(0) / 60**0.5 + 1e-6)
    assert deviation.abs().max() < 5, "systematically off"


def test_a_regression_slope_is_the_residual():
    margins, target, task = torch.tensor([2.0, 2.0]), torch.tensor([0.5, 1.0]), torch.tensor([3, 0])
    slopes = loss_slopes(margins, target, task, SUITE)
    torch.testing.assert_close(slopes, torch.tensor([1.5, torch.sigmoid(torch.tensor(2.0)) - 1]))


def test_a_diverged_model_is_named_before_its_basis_is_sought():
    model = model_of(config(), SUITE)
    with torch.no_grad():
        model.heads.weight_1.fill_(torch.nan)
    with pytest.raises(UserError, match=r"gradient of task `\w+` .*not finite: the base model diverged"):
        features_of(config(), SUITE, model)
