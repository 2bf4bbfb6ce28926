"""Subsets that bring their own tasks' means, against one subset and one example after the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from affinity_service.fitting import path
from affinity_service.fitting.member_rows import MemberRows
from affinity_service.fitting.optimizers import AdamW
from affinity_service.fitting.path import Paths, Training
from affinity_service.fitting.path_reference import follow_subset_reference, held_reference
from affinity_service.fitting.subset_weights import Anchor, SubsetWeights
from affinity_service.fitting.task_rows import TaskRows
from affinity_service.gradients.basis import DenseBasis
from affinity_service.gradients.outside_means import LEAST_SQUARE, outside_means

RATE, DECAY, STEPS, BATCH, EXAMPLES = 0.02, 0.1, 6, 5, 40


@dataclass
class Problem:
    """Logistic tasks over p shared weights and h of each one's own; gradients (n, p + T·h) of the margins."""

    gradients: list[np.ndarray]
    margins: list[np.ndarray]
    targets: list[np.ndarray]
    weights: np.ndarray
    scale: np.ndarray
    basis: np.ndarray
    own: np.ndarray
    subsets: list[list[int]]

    @property
    def shared(self) -> int:
        return len(self.basis)

    def losses(self, task: int) -> np.ndarray:
        slopes = 1 / (1 + np.exp(-self.margins[task])) - self.targets[task]
        return slopes[:, None] * self.gradients[task]

    def mean(self, task: int) -> np.ndarray:
        """(p,) of the shared weights."""
        return self.losses(task).mean(axis=0)[: self.shared]

    def held(self, task: int, subset: list[int]) -> np.ndarray:
        p = self.shared
        found = self.gradients[task].copy()
        means = [self.mean(mate) for mate in subset]
        found[:, :p] = held_reference(found[:, :p], self.scale[:p], self.basis, means, LEAST_SQUARE)
        return found

    def anchor(self) -> Anchor:
        tasks, p = range(len(self.margins)), self.shared
        mean = np.stack([self.losses(task).mean(axis=0) for task in tasks])
        tensors = {
            "weights": self.weights,
            "scale": self.scale,
            "basis": self.basis,
            "mean": mean,
            "square": np.stack([(self.losses(task) ** 2).mean(axis=0) for task in tasks]),
            "own": self.own,
        }
        found = {name: torch.tensor(value) for name, value in tensors.items()}
        found["outside"] = outside_means(found["mean"][:, :p], found["scale"][:p], DenseBasis(found["basis"]))
        return Anchor.from_tensors(found, "cpu")

    def rows(self, anchor: Anchor) -> list[TaskRows]:
        found = []
        for task, (g, h, y) in enumerate(zip(self.gradients, self.margins, self.targets, strict=True)):
            scaled = torch.tensor(g * self.scale)
            shared = scaled[:, : self.shared]
            features = torch.cat([anchor.basis.project(shared), scaled[:, self.own[task]]], dim=1)
            found.append(TaskRows(features, torch.tensor(h), torch.tensor(y), False, shared @ anchor.outside.T))
        return found

    def follow(self, subsets: list[list[int]], steps: list[int]) -> tuple[SubsetWeights, np.ndarray, torch.Tensor]:
        anchor, seen = self.anchor(), []
        paths = Paths(self.rows(anchor), anchor, AdamW(RATE, DECAY))
        training = Training(BATCH, torch.tensor(steps), torch.tensor([EXAMPLES] * len(subsets)))
        layout = SubsetWeights(anchor, subsets)
        paths.run(layout, training, 1, lambda _, w, c: seen.append((w.clone(), c.clone())))
        return layout, layout.whole(seen[-1][0]).numpy(), seen[-1][1]

    def reference(self, subset: list[int], steps: int) -> np.ndarray:
        return follow_subset_reference(
            *([part[task] for task in subset] for part in (self.gradients, self.margins, self.targets)),
            self.weights,
            steps,
            batch_size=BATCH,
            examples=EXAMPLES,
            learning_rate=RATE,
            weight_decay=DECAY,
            held=[self.held(task, subset) for task in subset],
        )

    def moved(self, subset: list[int]) -> np.ndarray:
        """Weights that the subset moves: the loop would let those of other heads decay."""
        return np.concatenate([np.arange(self.shared), *(self.own[task] for task in subset)])


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    tasks, p, h = draw(st.integers(1, 5)), draw(st.integers(3, 9)), draw(st.integers(1, 3))
    d = draw(st.integers(0, p))
    sizes = draw(st.lists(st.integers(2, 12), min_size=tasks, max_size=tasks))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    own = p + np.arange(tasks * h).reshape(tasks, h)
    gradients = [np.zeros((n, p + tasks * h)) for n in sizes]
    for task, g in enumerate(gradients):
        g[:, :p], g[:, own[task]] = rng.normal(size=(len(g), p)), rng.normal(size=(len(g), h))
    margins = [rng.normal(size=n) for n in sizes]
    targets = [(rng.random(n) < 0.5).astype(float) for n in sizes]
    last = tasks - 1
    if draw(st.booleans()):
        # A mean that is zero: the same row twice, of either label.
        gradients[last] = gradients[last][:1].repeat(2, axis=0)
        margins[last], targets[last] = np.zeros(2), np.array([0.0, 1.0])
    elif tasks > 1 and draw(st.booleans()):
        # Two means along one line, and a subset with both.
        gradients[last] = np.zeros((sizes[0], p + tasks * h))
        gradients[last][:, :p] = -2 * gradients[0][:, :p]
        gradients[last][:, own[last]] = rng.normal(size=(sizes[0], h))
        margins[last], targets[last] = margins[0], targets[0]
    subset = st.lists(st.integers(0, last), min_size=1, max_size=tasks, unique=True)
    subsets = [*draw(st.lists(subset, min_size=1, max_size=4)), list(range(tasks))]
    basis = np.linalg.qr(rng.normal(size=(p, p)))[0][:, :d]
    weights, scale = rng.normal(size=p + tasks * h), np.exp(rng.normal(size=p + tasks * h))
    return Problem(gradients, margins, targets, weights, scale, basis, own, subsets)


class EveryStep:
    """float64, looking at the examples before every step: then the loops must agree to rounding."""

    def __enter__(self) -> None:
        self.stride, path.LONGEST_STRIDE = path.LONGEST_STRIDE, 1
        torch.set_default_dtype(torch.float64)

    def __exit__(self, *_: object) -> None:
        path.LONGEST_STRIDE = self.stride
        torch.set_default_dtype(torch.float32)


@settings(max_examples=40, deadline=None)
@given(problems())
def test_the_path_is_the_loop_over_examples(problem):
    with EveryStep():
        steps = [STEPS + 2 * (index % 2) for index in range(len(problem.subsets))]
        layout, whole, c = problem.follow(problem.subsets, steps)
        rows = problem.rows(layout.anchor)
        mean, _ = MemberRows(rows, layout).losses(c)
    for number, subset in enumerate(problem.subsets):
        expected = problem.reference(subset, steps[number])
        moved = problem.moved(subset)
        np.testing.assert_allclose(whole[number, moved], expected[moved], rtol=1e-5, atol=1e-8)
        for task in subset:
            z = problem.margins[task] + problem.held(task, subset) @ np.where(
                np.isin(range(len(expected)), moved), expected, 0
            )
            losses = np.log1p(np.exp(z)) - problem.targets[task] * z
            np.testing.assert_allclose(mean[number, task], losses.mean(), rtol=1e-5, atol=1e-8)


@settings(max_examples=30, deadline=None)
@given(problems())
def test_stored_coordinates_tell_the_margins_by_features_and_products(problem):
    with EveryStep():
        layout, _, c = problem.follow(problem.subsets, [STEPS] * len(problem.subsets))
        rows, d, h = problem.rows(layout.anchor), problem.basis.shape[1], problem.own.shape[1]
        members = MemberRows(rows, layout)
        for number, (subset, stored) in enumerate(zip(problem.subsets, layout.stored(c), strict=True)):
            assert len(stored) == d + (h + 1) * len(subset)
            for slot, task in enumerate(subset):
                own = np.concatenate([stored[:d], stored[d + slot * h : d + (slot + 1) * h]])
                z = rows[task].margins + rows[task].features @ torch.tensor(own, dtype=torch.float64)
                z += rows[task].products[:, subset] @ torch.tensor(stored[-len(subset) :], dtype=torch.float64)
                place = torch.tensor([number])
                chosen = (layout.holders(task)[0] == number).nonzero()[:, 0]
                expected = members.margins(task, c, place, torch.tensor([slot]), chosen)[:, 0]
                np.testing.assert_allclose(z, expected, rtol=1e-3, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(problems())
def test_a_subset_does_not_depend_on_the_others(problem):
    with EveryStep():
        steps = [STEPS + number for number in range(len(problem.subsets))]
        _, together, _ = problem.follow(problem.subsets, steps)
        for number, subset in enumerate(problem.subsets):
            _, alone, _ = problem.follow([subset], [steps[number]])
            np.testing.assert_allclose(together[number], alone[0], rtol=1e-7, atol=1e-10)
