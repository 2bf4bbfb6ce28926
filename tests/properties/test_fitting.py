"""What must hold for the subset fits whatever the examples are."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from affinity_service.fitting import (
    balanced_subsets,
    fit_subset_reference,
    fit_subsets,
    pair_coverage,
    predicted_losses,
    solve_subsets,
)

# Every fit promises 1e-4 of its largest weight; two of them may differ by twice that.
TOLERANCE = 1e-4
BOTH = 2 * TOLERANCE


@dataclass
class Problem:
    features: np.ndarray
    margins: np.ndarray
    targets: np.ndarray
    task: np.ndarray
    subsets: list[list[int]]
    l2: np.ndarray
    kinds: list[str]
    seed: int

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        return self.features, self.margins, self.targets, self.task

    def fit(self) -> np.ndarray:
        # Left alone, problems of this size run in double precision.
        return fit_subsets(*self.arrays, self.subsets, self.l2, kinds=self.kinds, precision="mixed")


@st.composite
def problems(draw: st.DrawFn, smallest: int = 15) -> Problem:
    n_tasks, d = draw(st.integers(1, 6)), draw(st.integers(1, 25))
    counts = draw(st.lists(st.integers(smallest, 80), min_size=n_tasks, max_size=n_tasks))
    kinds = draw(st.lists(st.sampled_from(["logistic", "squared"]), min_size=n_tasks, max_size=n_tasks))
    subset = st.lists(st.integers(0, n_tasks - 1), min_size=1, max_size=n_tasks, unique=True)
    subsets = draw(st.lists(subset, min_size=1, max_size=6))
    exponents = draw(st.lists(st.floats(-4, 1), min_size=len(subsets), max_size=len(subsets)))
    seed = draw(st.integers(0, 2**32 - 1))
    decay, margin = draw(st.sampled_from([0, -1, -2])), draw(st.sampled_from([0.0, 1.0, 5.0]))
    rng = np.random.default_rng(seed)
    task = rng.permutation(np.repeat(np.arange(n_tasks), counts))
    features = rng.standard_normal((len(task), d)) * np.logspace(0, decay, d)
    margins = margin * rng.standard_normal(len(task))
    z = margins + np.einsum("nd,nd->n", features, rng.standard_normal((n_tasks, d))[task])
    labels = (rng.random(len(task)) < 1 / (1 + np.exp(-z))).astype(float)
    squared = np.array([kind == "squared" for kind in kinds])[task]
    targets = np.where(squared, z + rng.standard_normal(len(task)), labels)
    return Problem(features, margins, targets, task, subsets, 10.0 ** np.array(exponents), kinds, seed)


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference, relative to the largest weight of each subset or to 1e-6 where that is larger."""
    scale = np.abs(expected).max(axis=1, keepdims=True).clip(1e-6)
    return float((np.abs(found - expected) / scale).max())


@settings(max_examples=60, deadline=None)
@given(problems())
def test_agrees_with_the_reference(problem: Problem) -> None:
    expected = [
        fit_subset_reference(*problem.arrays, subset, l2, problem.kinds)
        for subset, l2 in zip(problem.subsets, problem.l2, strict=True)
    ]
    assert distance(problem.fit(), np.stack(expected)) < TOLERANCE


@settings(max_examples=40, deadline=None)
@given(problems(smallest=1))
def test_agrees_with_the_reference_on_the_smallest_problems(problem: Problem) -> None:
    weights = fit_subsets(*problem.arrays, problem.subsets, problem.l2, kinds=problem.kinds)
    expected = [
        fit_subset_reference(*problem.arrays, subset, l2, problem.kinds)
        for subset, l2 in zip(problem.subsets, problem.l2, strict=True)
    ]
    assert distance(weights, np.stack(expected)) < TOLERANCE


@settings(max_examples=25, deadline=None)
@given(problems())
def test_order_of_rows_and_of_tasks_in_a_subset_does_not_matter(problem: Problem) -> None:
    rng = np.random.default_rng(problem.seed)
    order = rng.permutation(len(problem.task))
    shuffled = replace(
        problem,
        features=problem.features[order],
        margins=problem.margins[order],
        targets=problem.targets[order],
        task=problem.task[order],
        subsets=[rng.permutation(subset).tolist() for subset in problem.subsets],
    )
    assert distance(shuffled.fit(), problem.fit()) < BOTH


@settings(max_examples=25, deadline=None)
@given(problems())
def test_names_of_tasks_do_not_matter(problem: Problem) -> None:
    name = np.random.default_rng(problem.seed).permutation(len(problem.kinds))
    renamed = replace(
        problem,
        task=name[problem.task],
        subsets=[name[subset].tolist() for subset in problem.subsets],
        kinds=[problem.kinds[old] for old in np.argsort(name)],
    )
    assert distance(renamed.fit(), problem.fit()) < BOTH


@settings(max_examples=25, deadline=None)
@given(problems())
def test_a_fit_does_not_depend_on_its_company(problem: Problem) -> None:
    together = problem.fit()
    for number, subset in enumerate(problem.subsets):
        alone = replace(problem, subsets=[subset], l2=problem.l2[number : number + 1]).fit()
        assert distance(alone, together[number : number + 1]) < BOTH


@settings(max_examples=25, deadline=None)
@given(problems(), st.integers(-10, 10))
def test_scale_of_the_features_only_scales_the_weights(problem: Problem, exponent: int) -> None:
    scale = 2.0**exponent
    scaled = replace(problem, features=problem.features * scale, l2=problem.l2 * scale**2).fit()
    assert distance(scaled * scale, problem.fit()) < BOTH


@settings(max_examples=25, deadline=None)
@given(problems())
def test_doubling_all_examples_changes_nothing(problem: Problem) -> None:
    names = ("features", "margins", "targets", "task")
    twice = replace(problem, **{name: np.concatenate([getattr(problem, name)] * 2) for name in names})
    assert distance(twice.fit(), problem.fit()) < BOTH


@settings(max_examples=25, deadline=None)
@given(problems())
def test_flipping_labels_margins_and_features_changes_nothing(problem: Problem) -> None:
    squared = np.array([kind == "squared" for kind in problem.kinds])[problem.task]
    flipped = replace(
        problem,
        features=-problem.features,
        margins=-problem.margins,
        targets=np.where(squared, -problem.targets, 1 - problem.targets),
    )
    assert distance(flipped.fit(), problem.fit()) < BOTH


@settings(max_examples=25, deadline=None)
@given(problems())
def test_precision_and_kind_of_array_do_not_matter(problem: Problem) -> None:
    mixed = problem.fit()
    double = fit_subsets(*problem.arrays, problem.subsets, problem.l2, kinds=problem.kinds)
    assert distance(mixed, double) < BOTH
    tensors = [torch.from_numpy(array) for array in problem.arrays]
    as_torch = fit_subsets(*tensors, problem.subsets, torch.from_numpy(problem.l2), kinds=problem.kinds)
    assert np.array_equal(as_torch.numpy(), double)


@settings(max_examples=25, deadline=None)
@given(problems(), st.integers(1, 10_000))
def test_tiles_do_not_matter(problem: Problem, memory: int) -> None:
    subsets, l2 = problem.subsets * 8, np.tile(problem.l2, 8)
    tiled = fit_subsets(*problem.arrays, subsets, l2, kinds=problem.kinds, memory_bytes=memory, precision="mixed")
    assert distance(tiled, np.tile(problem.fit(), (8, 1))) < BOTH


@settings(max_examples=25, deadline=None)
@given(problems())
def test_no_other_weights_have_a_lower_objective(problem: Problem) -> None:
    result = solve_subsets(*problem.arrays, problem.subsets, problem.l2, kinds=problem.kinds)
    rng = np.random.default_rng(problem.seed)

    def objectives(weights: np.ndarray) -> np.ndarray:
        losses = predicted_losses(*problem.arrays, weights, problem.subsets, kinds=problem.kinds)
        data = np.bincount(losses.subset, losses.loss) / [len(subset) for subset in problem.subsets]
        return data + 0.5 * problem.l2 * (weights**2).sum(1)

    best = objectives(result.weights)
    assert np.allclose(best, result.objective, rtol=1e-4, atol=1e-6)
    for size in (1e-1, 1e-2):
        other = result.weights + size * rng.standard_normal(result.weights.shape)
        assert (objectives(other) > best).all()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 30),
    st.integers(0, 60),
    st.tuples(st.integers(1, 8), st.integers(1, 8)).map(sorted),
    st.integers(0, 99),
)
def test_designs_are_distinct_and_within_their_sizes(n_tasks: int, count: int, sizes: list[int], seed: int) -> None:
    subsets = balanced_subsets(n_tasks, count, (sizes[0], sizes[1]), seed)
    assert len(set(subsets)) == len(subsets) <= count
    assert all(sizes[0] <= len(s) <= min(sizes[1], n_tasks) and list(s) == sorted(set(s)) for s in subsets)
    counts = pair_coverage(subsets, n_tasks)
    assert counts.sum() == sum(len(subset) ** 2 for subset in subsets)
    if count * sizes[0] >= 2 * n_tasks and len(subsets) == count:
        assert counts.diagonal().min() >= 1
