"""The anchored path against a loop over examples and against torch's own optimizers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from affinity_service.fitting import path
from affinity_service.fitting.optimizers import SGD, AdamW, clipping
from affinity_service.fitting.path import Paths, Training
from affinity_service.fitting.path_reference import follow_subset_reference
from affinity_service.fitting.subset_weights import Anchor, SubsetWeights
from affinity_service.fitting.task_rows import TaskRows

P, SIZES = 9, (30, 20, 40)
RATE, DECAY = 0.02, 0.1


class Problem:
    """Three logistic tasks; gradients (n, p) of the margins, of which tasks 0 and 2 never touch the last weight."""

    def __init__(self, basis: bool = False, scale: bool = False, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.gradients = [rng.normal(size=(n, P)) for n in SIZES]
        for task in (0, 2):
            self.gradients[task][:, -1] = 0
        self.margins = [rng.normal(size=n) for n in SIZES]
        self.targets = [(rng.random(n) < 0.5).astype(float) for n in SIZES]
        self.weights = rng.normal(size=P)
        self.scale = np.exp(rng.normal(size=P)) if scale else np.ones(P)
        self.basis = np.linalg.qr(rng.normal(size=(P, P)))[0] if basis else None

    def anchor(self) -> Anchor:
        slopes = [1 / (1 + np.exp(-h)) - y for h, y in zip(self.margins, self.targets, strict=True)]
        losses = [s[:, None] * g for s, g in zip(slopes, self.gradients, strict=True)]
        tensors = {
            "weights": self.weights,
            "scale": self.scale,
            "mean": np.stack([x.mean(axis=0) for x in losses]),
            "square": np.stack([(x**2).mean(axis=0) for x in losses]),
            **({} if self.basis is None else {"basis": self.basis}),
        }
        return Anchor.from_tensors({name: torch.tensor(x) for name, x in tensors.items()}, "cpu")

    def paths(self, optimizer) -> Paths:
        rows = []
        for g, h, y in zip(self.gradients, self.margins, self.targets, strict=True):
            features = g * self.scale if self.basis is None else g * self.scale @ self.basis
            rows.append(TaskRows(torch.tensor(features), torch.tensor(h), torch.tensor(y), squared=False))
        return Paths(rows, self.anchor(), optimizer)

    def follow(self, optimizer, subsets, steps, batch_size, epochs=1) -> tuple[np.ndarray, np.ndarray]:
        """Displacements and coordinates at the end; `steps` an epoch, one number or one per subset."""
        examples = torch.tensor([max(SIZES[t] for t in s) for s in subsets])
        counts = [steps] * len(subsets) if isinstance(steps, int) else steps
        seen = []
        training = Training(batch_size, torch.tensor(counts), examples)
        layout = SubsetWeights(self.anchor(), subsets)
        self.paths(optimizer).run(layout, training, epochs, lambda _, w, c: seen.append((w.clone(), c.clone())))
        return tuple(x.numpy() for x in seen[-1])


@pytest.fixture(autouse=True)
def exactly(monkeypatch):
    """float64, looking at the examples before every step: then the loops must agree to rounding."""
    monkeypatch.setattr(path, "LONGEST_STRIDE", 1)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("batch_size", [5, 40])
@pytest.mark.parametrize(("basis", "scale"), [(False, False), (False, True), (True, True)])
@pytest.mark.parametrize("subset", [(0, 1, 2), (1,), (1, 2)])
def test_the_path_is_the_loop_over_examples(subset, basis, scale, batch_size):
    problem = Problem(basis, scale)
    w, c = problem.follow(AdamW(RATE, DECAY), [subset], 12, batch_size)
    expected = follow_subset_reference(
        *([part[t] for t in subset] for part in (problem.gradients, problem.margins, problem.targets)),
        problem.weights,
        12,
        batch_size=batch_size,
        examples=max(SIZES[t] for t in subset),
        learning_rate=RATE,
        weight_decay=DECAY,
    )
    # The last weight belongs to task 1 alone; for others the loop would only let it decay.
    kept = slice(None) if 1 in subset else slice(0, -1)
    np.testing.assert_allclose(w[0, kept], expected[kept], rtol=1e-5, atol=1e-9)
    moved = w[0] / problem.scale
    np.testing.assert_allclose(c[0], moved if problem.basis is None else moved @ problem.basis, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_whole_batches_are_what_torch_does_to_the_linear_model(name):
    """Batches as large as the data have no variance: the path is torch's optimizer on the whole objective."""
    problem = Problem()
    theta = torch.tensor(problem.weights).requires_grad_()
    if name == "adamw":
        own, theirs = AdamW(RATE, DECAY), torch.optim.AdamW([theta], lr=RATE, weight_decay=DECAY)
    else:
        own, theirs = SGD(RATE, DECAY, 0.8), torch.optim.SGD([theta], lr=RATE, weight_decay=DECAY, momentum=0.8)
    w, _ = problem.follow(own, [(0, 1)], 15, 1000)
    for _ in range(15):
        theirs.zero_grad()
        moved = theta - torch.tensor(problem.weights)
        losses = []
        for task in (0, 1):
            z = torch.tensor(problem.margins[task]) + torch.tensor(problem.gradients[task]) @ moved
            losses.append(torch.nn.functional.binary_cross_entropy_with_logits(z, torch.tensor(problem.targets[task])))
        torch.stack(losses).mean().backward()
        theirs.step()
    np.testing.assert_allclose(w[0], (theta.detach() - torch.tensor(problem.weights)).numpy(), rtol=1e-6, atol=1e-10)


def test_weights_that_no_example_of_the_subset_reaches_stay():
    w, _ = Problem(basis=True).follow(AdamW(RATE, DECAY), [(0, 2), (0, 1)], 10, 5)
    assert w[0, -1] == 0
    assert w[1, -1] != 0


def test_a_subset_does_not_depend_on_the_others():
    problem = Problem(basis=True, scale=True)
    subsets, steps = [(0,), (0, 1), (1, 2), (0, 1, 2), (2,)], [2, 7, 4, 7, 3]
    together, _ = problem.follow(AdamW(RATE, DECAY), subsets, steps, 5, epochs=2)
    for index, subset in enumerate(subsets):
        alone, _ = problem.follow(AdamW(RATE, DECAY), [subset], steps[index], 5, epochs=2)
        np.testing.assert_allclose(together[index], alone[0], rtol=1e-9, atol=1e-15)


def test_strides_lengthen_where_little_changes_only(monkeypatch):
    problem = Problem()
    exact, _ = problem.follow(AdamW(1e-3, 0.0), [(0, 1, 2)], 40, 5)
    monkeypatch.setattr(path, "LONGEST_STRIDE", 5)
    looks = []
    honest = path._State._look

    def counting(self, due):
        looks.append(len(due))
        honest(self, due)

    monkeypatch.setattr(path._State, "_look", counting)
    rough, _ = problem.follow(AdamW(1e-3, 0.0), [(0, 1, 2)], 40, 5)
    assert len(looks) < 20
    np.testing.assert_allclose(rough, exact, rtol=0.02, atol=1e-4)
    looks.clear()
    problem.follow(AdamW(0.5, 0.0), [(0, 1, 2)], 40, 5)
    assert len(looks) > 20, "long steps must be watched"


def _looks_and_errors(monkeypatch, rate: float, **constants) -> tuple[float, float]:
    """Means over three problems: looks of 150 steps, and how far weights are from the loop over examples."""
    looks, errors = 0, []
    honest = path._State._look

    def counting(self, due):
        nonlocal looks
        looks += len(due)
        honest(self, due)

    with monkeypatch.context() as patch:
        patch.setattr(path._State, "_look", counting)
        for name, value in constants.items():
            patch.setattr(path, name, value)
        for seed in range(3):
            problem = Problem(basis=True, scale=True, seed=seed)
            expected = follow_subset_reference(
                problem.gradients,
                problem.margins,
                problem.targets,
                problem.weights,
                150,
                batch_size=5,
                examples=max(SIZES),
                learning_rate=rate,
                weight_decay=0.01,
            )
            w, _ = problem.follow(AdamW(rate, 0.01), [(0, 1, 2)], 30, 5, epochs=5)
            errors.append(float(np.abs(w[0] - expected).max() / np.abs(expected).max()))
    return looks / 3, float(np.mean(errors))


@pytest.mark.parametrize(("rate", "tolerance"), [(1e-3, 3e-5), (5e-3, 3e-4)])
def test_changing_gradients_need_fewer_looks_and_stay_closer_to_every_step(monkeypatch, rate, tolerance):
    """Than gradients that are held between looks at every fifth step."""
    held = _looks_and_errors(monkeypatch, rate, LONGEST_STRIDE=5, TOLERANCE=math.inf, CARRIED=0.0)
    carried = _looks_and_errors(monkeypatch, rate, LONGEST_STRIDE=50, TOLERANCE=tolerance)
    assert carried[0] < 0.7 * held[0]
    assert carried[1] < 0.7 * held[1]
    assert carried[1] < 5e-3


def test_with_strides_of_its_own_a_subset_goes_where_it_goes_alone(monkeypatch):
    monkeypatch.setattr(path, "LONGEST_STRIDE", 50)
    problem = Problem(basis=True, scale=True)
    subsets = [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]
    together, _ = problem.follow(AdamW(2e-3, 0.01), subsets, 30, 5, epochs=5)
    for index, subset in enumerate(subsets):
        alone, _ = problem.follow(AdamW(2e-3, 0.01), [subset], 30, 5, epochs=5)
        np.testing.assert_allclose(together[index], alone[0], rtol=1e-3, atol=1e-3 * np.abs(alone).max())


@pytest.mark.parametrize("rate", [1e-3, 5e-3])
def test_the_tolerance_decides_how_close_the_path_stays(monkeypatch, rate):
    found = [_looks_and_errors(monkeypatch, rate, LONGEST_STRIDE=50, TOLERANCE=t) for t in (1e-3, 1e-4, 1e-5)]
    looks, errors = zip(*found, strict=True)
    assert looks[0] < looks[1] < looks[2]
    assert errors[0] > errors[1] > errors[2]


def test_clipping_shortens_to_the_expected_length():
    gradient, noise = torch.tensor([[3.0, 0.0], [0.1, 0.0]]), torch.tensor([[0.0, 16.0], [0.0, 0.0]])
    torch.testing.assert_close(clipping(gradient, noise, 1.0), torch.tensor([[0.2], [1.0]]))
    assert (clipping(gradient, noise, 0.0) == 1).all()


def test_the_mean_square_of_changes_whether_rows_or_coordinates_are_more():
    rng = np.random.default_rng(0)
    features, change = (torch.tensor(rng.normal(size=shape)) for shape in ((40, 7), (3, 7)))
    for rows in (features, features[:7], features[:5]):
        found = path._mean_square(path._curvature(rows), change)
        np.testing.assert_allclose(found, (rows @ change.T).square().mean(dim=0), atol=1e-12)


def test_what_depends_on_a_task_alone_is_computed_for_those_named():
    paths = Problem().paths(SGD(RATE, DECAY))
    training = Training(5, torch.tensor([2, 2]), torch.tensor([40, 40]))
    paths.run(SubsetWeights(paths.anchor, [(0, 2), (2,)]), training, 1, lambda *_: None)
    assert set(paths._curvatures) == set(paths._base) == {0, 2}
