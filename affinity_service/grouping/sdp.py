"""The semidefinite relaxation of the density objective and upper bounds certified by its dual.

Peng & Wei, "Approximating K-means-type clustering via semidefinite programming" (SIAM J. Optim. 2007), as
used for tasks by Grad-TAG (arXiv 2409.06091).
"""

import warnings
from dataclasses import dataclass

import numpy as np
from scipy.linalg import helmert

from affinity_service.grouping.matrix import Floats

_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Relaxation:
    """What the solver left: X (T, T) near the optimum, or None where it failed, and multipliers of X ≥ 0."""

    solution: Floats | None
    multipliers: Floats


def solve_relaxation(matrix: Floats, k: int, *, tolerance: float = 1e-5) -> Relaxation:
    """max ⟨A, X⟩ subject to X = Xᵀ ⪰ 0, X ≥ 0, X1 = 1, tr X = k, by CVXPY and SCS.

    Args:
        matrix: (T, T) symmetric, entries of magnitude about 1 (a canonical matrix).
        k: number of groups, 1 < k < T.
        tolerance: absolute and relative accuracy asked of SCS.

    Returns:
        the approximate X and the (T, T) multipliers of X ≥ 0; zeros where the solver gave none. Nothing here
        is trusted later: X only suggests groups, and any multipliers N ≥ 0 give a valid bound.
    """
    # CVXPY takes a second to import; spectral or random groups should not wait for it.
    import cvxpy as cp

    tasks = len(matrix)
    rows, columns = np.triu_indices(tasks, 1)
    x = cp.Variable((tasks, tasks), PSD=True)
    # X is symmetric and has a non-negative diagonal already: half the inequalities say it all.
    nonnegative = cp.upper_tri(x) >= 0
    problem = cp.Problem(
        cp.Maximize(cp.sum(cp.multiply(matrix, x))), [nonnegative, cp.sum(x, axis=1) == 1, cp.trace(x) == k]
    )
    with warnings.catch_warnings():
        # "Solution may be inaccurate": the bound is certified whatever the accuracy.
        warnings.simplefilter("ignore")
        try:
            problem.solve(solver=cp.SCS, eps_abs=tolerance, eps_rel=tolerance, max_iters=20_000)
        except cp.error.SolverError:
            return Relaxation(None, np.zeros_like(matrix))

    multipliers = np.zeros_like(matrix)
    if nonnegative.dual_value is not None and np.isfinite(nonnegative.dual_value).all():
        # One multiplier stands for the two equal entries (i, j) and (j, i).
        multipliers[rows, columns] = np.maximum(np.asarray(nonnegative.dual_value).ravel(), 0) / 2
        multipliers += multipliers.T
    solution = x.value
    if solution is None or not np.isfinite(solution).all():
        return Relaxation(None, multipliers)
    return Relaxation((solution + solution.T) / 2, multipliers)


def dual_bound(matrix: Floats, k: int, multipliers: Floats) -> float:
    """An upper bound on ⟨A, X⟩ over all partitions into k groups, for any symmetric multipliers N ≥ 0.

    Dual feasibility bounds the optimum, with M = μI + ½(y1ᵀ + 1yᵀ) − A − N, by kμ + Σy + k·max(0, −λ_min(M)).
    This is the same bound with the best y and μ put in and one step sharper: ⟨A, X⟩ ≤ ⟨A + N, X⟩ as N, X ≥ 0;
    X1 = 1 splits X = 11ᵀ/T + Y with Y1 = 0; and X is doubly stochastic, so 0 ⪯ Y ⪯ I with tr Y = k − 1. Hence

        ⟨A, X⟩ ≤ 1ᵀ(A + N)1/T + the sum of the k − 1 largest eigenvalues of A + N on the complement of 1.

    N = 0 gives a cheap spectral bound; the multipliers of the solved relaxation give its value. A guard for
    float64 eigenvalues is included.

    Args:
        matrix: (T, T) symmetric.
        k: number of groups, 1 ≤ k ≤ T.
        multipliers: (T, T) symmetric, entries ≥ 0.
    """
    tasks = len(matrix)
    raised = matrix + multipliers
    mean = float(raised.sum()) / tasks
    if k == 1:
        return mean + tasks * 32 * _EPS * float(np.abs(raised).max())
    complement = helmert(tasks)
    eigenvalues = np.linalg.eigvalsh(complement @ raised @ complement.T)
    guard = 32 * _EPS * tasks * k * float(np.linalg.norm(raised))
    return mean + float(eigenvalues[-(k - 1) :].sum()) + guard


def certified_bound(matrix: Floats, k: int, multipliers: Floats | None = None) -> float:
    """The better of the spectral bound and, given multipliers, the dual bound on ⟨matrix, X⟩."""
    spectral = dual_bound(matrix, k, np.zeros_like(matrix))
    return spectral if multipliers is None else min(spectral, dual_bound(matrix, k, multipliers))
