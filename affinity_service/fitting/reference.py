"""The slow, obvious fit of one subset in double precision, which tests compare the fast one with."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit


def fit_subset_reference(
    features: Any,
    margins: Any,
    targets: Any,
    task_of_row: Any,
    subset: Sequence[int],
    l2: float,
    kinds: Sequence[str] | None = None,
) -> np.ndarray:
    """Minimiser (d,) float64 of one subset's objective: gathers its rows and hands them to scipy.

    Arguments are those of `fit_subsets`, with one subset (tasks) and one penalty. Subsets of squared losses only are
    solved as linear systems. Source: Grad-TAG, arXiv 2409.06091, section 3; the objective is in `fit_subsets`.
    """
    x = np.asarray(features, dtype=np.float64)
    h = np.asarray(margins, dtype=np.float64)
    y = np.asarray(targets, dtype=np.float64)
    task = np.asarray(task_of_row)
    gathered = [np.flatnonzero(task == t) for t in subset]
    share = np.concatenate([np.full(len(index), 1 / (len(subset) * len(index))) for index in gathered])
    squared = np.concatenate(
        [
            np.full(len(index), kinds is not None and kinds[t] == "squared")
            for t, index in zip(subset, gathered, strict=True)
        ]
    )
    rows = np.concatenate(gathered)
    x, h, y = x[rows], h[rows], y[rows]
    if squared.all():
        system = x.T @ (share[:, None] * x) + l2 * np.eye(x.shape[1])
        return np.linalg.solve(system, x.T @ (share * (y - h)))

    def objective(w: np.ndarray) -> float:
        z = h + x @ w
        losses = np.where(squared, 0.5 * (z - y) ** 2, np.logaddexp(0, np.where(y > 0, -z, z)))
        return float(share @ losses + 0.5 * l2 * w @ w)

    def gradient(w: np.ndarray) -> np.ndarray:
        z = h + x @ w
        # σ(z) − y without cancellation for confident examples.
        slopes = np.where(squared, z - y, np.where(y > 0, -expit(-z), expit(z)))
        return np.asarray(x.T @ (share * slopes) + l2 * w)

    def hessian(w: np.ndarray) -> np.ndarray:
        z = h + x @ w
        curvatures = np.where(squared, 1.0, expit(z) * expit(-z))
        return np.asarray(x.T @ ((share * curvatures)[:, None] * x) + l2 * np.eye(len(w)))

    start = np.zeros(x.shape[1])
    found = minimize(
        objective, start, jac=gradient, hess=hessian, method="trust-exact", options={"gtol": 1e-10, "maxiter": 1000}
    ).x
    # The trust region stops where the objective no longer changes; two Newton steps reach the last digits.
    for _ in range(2):
        found = found - np.linalg.solve(hessian(found), gradient(found))
    return np.asarray(found)
