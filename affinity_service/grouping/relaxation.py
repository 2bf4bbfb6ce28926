"""A solver for the semidefinite relaxation of the density objective, for hundreds of tasks.

Alternating directions (Boyd et al. 2011, §5) between two sets that are both easy to project on: spectral, X = 11ᵀ/T + Y
with Y1 = 0, 0 ⪯ Y ⪯ I and tr Y = k − 1, and elementwise X ≥ 0. The first holds every co-membership of a partition
(they are doubly stochastic, so Y ⪯ I costs nothing), and its projection needs only the leading eigenvectors. The scaled
multipliers of X ≥ 0 are never negative, so the dual gives a valid bound at every step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from affinity_service.deadline import check_deadline
from affinity_service.grouping.matrix import Floats
from affinity_service.grouping.sdp import dual_bound

# Steps between two looks at bound and residuals, and at most.
_LOOK, _MOST = 10, 2000
# Over-relaxation; 1.5 to 1.8 is the range that Boyd et al. recommend (§3.4.3).
_OVER = 1.6
# The penalty is doubled or halved where one relative residual is so many times the other.
_UNBALANCED = 5.0


@dataclass(frozen=True)
class Relaxation:
    """What the solver left: X (T, T) near the optimum, or None where it failed, and multipliers (T, T) of X ≥ 0, never
    negative: any such give a valid bound (`sdp.dual_bound`). `steps` says how many it took."""

    solution: Floats | None
    multipliers: Floats
    steps: int = 0


def solve_relaxation(matrix: Floats, k: int, *, tolerance: float = 1e-4, reached: float | None = None) -> Relaxation:
    """max ⟨A, X⟩ subject to X = Xᵀ ⪰ 0, X ≥ 0, X1 = 1, tr X = k.

    Args:
        matrix: (T, T) canonical matrix: symmetric, zero row sums and trace, largest magnitude 1.
        k: number of groups, 1 < k < T.
        tolerance: of both residuals, relative to ‖X‖ = √k and ‖A‖.
        reached: the objective of a partition at hand; once the bound is within `tolerance`, relatively, of it, nothing
            more can be learned.

    Returns:
        Relaxation.
    """
    tasks, size = len(matrix), float(np.linalg.norm(matrix))
    project = _SpectralSet(tasks, k)
    z = np.full_like(matrix, 1 / tasks)
    # Of X ≥ 0, scaled by −1/penalty: entries ≤ 0.
    u = np.zeros_like(matrix)
    penalty = size / np.sqrt(k)
    x, best, kept = z, np.inf, u
    for step in range(1, _MOST + 1):
        check_deadline()
        try:
            x = project(z - u + matrix / penalty)
        except np.linalg.LinAlgError:
            return Relaxation(None, kept, step)
        before, ahead = z, _OVER * x + (1 - _OVER) * z + u
        z, u = np.maximum(ahead, 0), np.minimum(ahead, 0)
        if step % _LOOK:
            continue
        bound = dual_bound(matrix, k, -penalty * u)
        if bound < best:
            best, kept = bound, -penalty * u
        primal = float(np.linalg.norm(x - z)) / np.sqrt(k)
        dual = penalty * float(np.linalg.norm(z - before)) / size
        if max(primal, dual) < tolerance or (reached is not None and best - reached <= tolerance * abs(best)):
            break
        if primal > _UNBALANCED * dual:
            penalty, u = 2 * penalty, u / 2
        elif dual > _UNBALANCED * primal:
            penalty, u = penalty / 2, 2 * u
    return Relaxation(x, kept, step)


class _SpectralSet:
    """Projection on {11ᵀ/T + Y : Y = Yᵀ, Y1 = 0, 0 ⪯ Y ⪯ I, tr Y = k − 1}; remembers how many eigenvectors it takes."""

    def __init__(self, tasks: int, k: int) -> None:
        self.tasks, self.k = tasks, k
        self.wanted = min(tasks - 1, k + 10)

    def __call__(self, matrix: Floats) -> Floats:
        tasks = self.tasks
        centred = matrix - matrix.mean(axis=0)
        centred -= centred.mean(axis=1)[:, None]
        centred = (centred + centred.T) / 2
        # The direction 1 below all others: it must never be taken.
        centred -= (2 * np.linalg.norm(centred) + 1) / tasks
        while True:
            found = [tasks - self.wanted, tasks - 1]
            values, vectors = scipy.linalg.eigh(centred, subset_by_index=found, driver="evr", check_finite=False)
            parts, threshold = _capped_simplex(values, self.k - 1)
            # Those not computed are smaller still: below the threshold they have no part.
            if values[0] <= threshold or self.wanted == tasks - 1:
                break
            self.wanted = min(tasks - 1, 2 * self.wanted)
        taken = parts > 0
        self.wanted = min(tasks - 1, max(self.k, int(1.2 * taken.sum())) + 5)
        projected: Floats = (vectors[:, taken] * parts[taken]) @ vectors[:, taken].T + 1 / tasks
        return projected


def _capped_simplex(values: Floats, total: float) -> tuple[Floats, float]:
    """The nearest point with entries in [0, 1] and the given sum, clip(values − θ, 0, 1), and θ; by bisection."""
    low, high = float(values.min()) - 1, float(values.max())
    for _ in range(80):
        middle = (low + high) / 2
        if np.clip(values - middle, 0, 1).sum() > total:
            low = middle
        else:
            high = middle
    return np.clip(values - high, 0, 1), high
