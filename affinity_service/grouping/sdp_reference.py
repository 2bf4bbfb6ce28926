"""The relaxation by CVXPY and SCS: slow and obvious, what the solver of our own is tested against."""

import warnings

import numpy as np

from affinity_service.grouping.matrix import Floats
from affinity_service.grouping.relaxation import Relaxation


def solve_relaxation_reference(matrix: Floats, k: int, *, tolerance: float = 1e-5) -> Relaxation:
    """max ⟨A, X⟩ subject to X = Xᵀ ⪰ 0, X ≥ 0, X1 = 1, tr X = k, by CVXPY and SCS.

    Args:
        matrix: (T, T) symmetric, entries of magnitude about 1 (a canonical matrix).
        k: number of groups, 1 < k < T.
        tolerance: absolute and relative accuracy asked of SCS.

    Returns:
        the approximate X and the (T, T) multipliers of X ≥ 0; zeros where the solver gave none. Nothing here
        is trusted later: X only suggests groups, and any multipliers N ≥ 0 give a valid bound.
    """
    # Of the extra `dev`, and a second to import.
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
