"""`cluster`: tasks into exactly k groups, with a certified upper bound."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from affinity_service.errors import UserError
from affinity_service.grouping.auto_k import choose_k
from affinity_service.grouping.baselines import agglomerative, random_partition, spectral
from affinity_service.grouping.constraints import UNCONSTRAINED, Constraints, Rules
from affinity_service.grouping.matrix import (
    Canonical,
    Floats,
    Labels,
    canonical,
    checked_affinity,
    checked_integer,
    symmetrised,
)
from affinity_service.grouping.partition import density, density_of_labels, groups_of
from affinity_service.grouping.relaxation import solve_relaxation
from affinity_service.grouping.rounding import quick_start, rounded
from affinity_service.grouping.sdp import certified_bound

Method = Literal["sdp", "spectral", "agglomerative", "random"]
METHODS: tuple[str, ...] = get_args(Method)


@dataclass(frozen=True)
class Grouping:
    """A partition of tasks 0…T−1.

    groups: k sorted lists of task integers, in the order of their first task.
    objective: Σ_groups (1/|g|) Σ_{i,j∈g} A_ij of the symmetrised affinities, in their units.
    bound: no partition into k groups has a larger objective; always ≥ objective.
    """

    groups: list[list[int]]
    objective: float
    bound: float
    method: str
    k: int


def cluster(
    affinity: ArrayLike,
    k: int | Literal["auto"],
    method: str = "sdp",
    *,
    seed: int = 0,
    bound: bool = False,
    max_k: int | None = None,
    tolerance: float = 1e-4,
    constraints: Constraints = UNCONSTRAINED,
) -> Grouping:
    """Partition tasks into exactly k groups of high mutual affinity.

    Maximises Σ_groups (1/|g|) Σ_{i,j∈g} A_ij, diagonal included, of A = (affinity + affinityᵀ)/2
    (Grad-TAG, arXiv 2409.06091, from the k-means relaxation of Peng & Wei 2007). The matrix is taken as
    given: whoever wants the objective as gain over training alone passes `centre_rows(affinity, "alone")`.

    Methods: "sdp" solves the semidefinite relaxation, rounds it and keeps the best of several polished starts
    (see `rounding.rounded`); "spectral" and "agglomerative" are scikit-learn's on the affinities; "random" is
    a random partition of near-equal sizes. T = 500 takes "sdp" some seconds (`tests/benchmarks/sdp.py`).

    Args:
        affinity: (T, T) finite; rows receive, columns give; higher is better.
        k: number of groups, 1…T; or "auto": the k from 2 to max_k whose grouping beats chance by the most
            standard deviations (see `auto_k.choose_k`).
        method: "sdp", "spectral", "agglomerative" or "random".
        seed: of all random choices; the same seed gives the same groups.
        bound: for methods other than "sdp", solve the relaxation for its tighter bound too; without it the
            bound is spectral (top eigenvalues) and cheap.
        max_k: with k="auto", the largest k tried; default max(2, T // 2): beyond it some task must be alone.
        tolerance: relative accuracy of the relaxation; the bound is valid at any.
        constraints: sizes, tasks to keep together or apart. "sdp" repairs its candidates to keep them and climbs among
            partitions that do; the other methods' groups are repaired. "auto" chooses k as without them, among those
            that the sizes leave, and then takes the nearest that is possible. The bound is that without constraints.

    Returns:
        Grouping with plain Python numbers.

    Raises:
        UserError: affinity not square, not numeric, NaN or infinite; k, max_k, seed, tolerance out of range;
            unknown method; constraints that contradict each other or that no k groups keep.
    """
    matrix = symmetrised(checked_affinity(affinity))
    if method not in METHODS:
        raise UserError(f"method: found {method!r}; expected one of {', '.join(METHODS)}")
    seed = checked_integer(seed, "seed", 0, 2**32 - 1)
    if not 0 < tolerance < 1:
        raise UserError(f"tolerance: found {tolerance!r}; expected a number between 0 and 1, such as 1e-4")
    problem = canonical(matrix)
    rules = None if constraints.trivial else Rules(constraints, len(matrix))
    groups_wanted = _checked_k(k, max_k, problem, seed, rules)
    labels, canonical_bound = _solve(matrix, problem, groups_wanted, method, seed, bound, tolerance, rules)
    upper = problem.original_units(canonical_bound, groups_wanted) + problem.rounding
    groups = groups_of(labels)
    assert len(groups) == groups_wanted
    objective = density(matrix, groups)
    # Below the smallest normal number rounding is absolute, whatever the scale.
    rounding = problem.rounding + len(matrix) * float(np.finfo(np.float64).tiny)
    assert upper >= objective - rounding, "the bound is not valid"
    # Equal up to rounding: nobody should see a bound a hair below what was reached.
    return Grouping(groups, objective, max(upper, objective), method, groups_wanted)


def _checked_k(k: object, max_k: int | None, problem: Canonical, seed: int, rules: Rules | None) -> int:
    tasks = len(problem.matrix)
    if max_k is not None:
        max_k = checked_integer(max_k, "max_k", 1, tasks, ", the number of tasks")
    if isinstance(k, str) and k == "auto":
        if rules is None:
            return choose_k(problem, min(tasks, max(2, tasks // 2)) if max_k is None else max_k, seed)
        fewest, enough, most = rules.groups_possible(max_k)
        return rules.nearest_possible(choose_k(problem, enough, seed, fewest), fewest, most)
    return checked_integer(k, "k", 1, tasks, ', the number of tasks, or "auto"')


def _solve(
    matrix: Floats,
    problem: Canonical,
    k: int,
    method: str,
    seed: int,
    bound: bool,
    tolerance: float,
    rules: Rules | None,
) -> tuple[Labels, float]:
    """The groups, and a bound on the canonical objective."""
    tasks = len(matrix)
    if k in (1, tasks) or problem.scale == 0.0:
        # One partition only, or all alike: the canonical objective is 0 and the bound exact.
        labels = np.arange(tasks) % k if method == "sdp" else _baseline(matrix, k, method, seed)
        return _kept(labels, k, rules), 0.0
    if method != "sdp" and not bound:
        return _kept(_baseline(matrix, k, method, seed), k, rules), certified_bound(problem.matrix, k)
    start = quick_start(problem.matrix, k, rules)
    reached = density_of_labels(problem.matrix, start, k)
    relaxation = solve_relaxation(problem.matrix, k, tolerance=tolerance, reached=reached)
    upper = certified_bound(problem.matrix, k, relaxation.multipliers)
    if method == "sdp":
        return rounded(problem.matrix, relaxation.solution, matrix, start, k, seed, upper, rules), upper
    return _kept(_baseline(matrix, k, method, seed), k, rules), upper


def _kept(labels: Labels, k: int, rules: Rules | None) -> Labels:
    return labels if rules is None else rules.repaired(labels, k)[rules.atom_of]


def _baseline(matrix: Floats, k: int, method: str, seed: int) -> Labels:
    if method == "spectral":
        return spectral(matrix, k, seed)
    if method == "agglomerative":
        return agglomerative(matrix, k)
    return random_partition(len(matrix), k, np.random.default_rng(seed))
