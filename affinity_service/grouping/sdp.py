"""Upper bounds on the density objective, certified by the dual of its semidefinite relaxation.

Peng & Wei, "Approximating K-means-type clustering via semidefinite programming" (SIAM J. Optim. 2007), as
used for tasks by Grad-TAG (arXiv 2409.06091).
"""

import numpy as np
import scipy.linalg
from scipy.linalg import helmert

from affinity_service.grouping.matrix import Floats

_EPS = float(np.finfo(np.float64).eps)


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
    eigenvalues = scipy.linalg.eigh(
        complement @ raised @ complement.T, eigvals_only=True, subset_by_index=[tasks - k, tasks - 2], driver="evr"
    )
    guard = 32 * _EPS * tasks * k * float(np.linalg.norm(raised))
    return mean + float(eigenvalues.sum()) + guard


def certified_bound(matrix: Floats, k: int, multipliers: Floats | None = None) -> float:
    """The better of the spectral bound and, given multipliers, the dual bound on ⟨matrix, X⟩."""
    spectral = dual_bound(matrix, k, np.zeros_like(matrix))
    return spectral if multipliers is None else min(spectral, dual_bound(matrix, k, multipliers))
