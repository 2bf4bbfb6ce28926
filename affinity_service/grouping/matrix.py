"""The affinity matrix on its way in: checked, symmetrised, centred, and in the form the solvers work on."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from affinity_service.errors import UserError

Floats = NDArray[np.float64]
Labels = NDArray[np.intp]

# Sums of T² entries must stay finite; no loss or gain of a real task comes near.
_LARGEST_ENTRY = 1e200
_EPS = float(np.finfo(np.float64).eps)


def checked_affinity(affinity: ArrayLike) -> Floats:
    """The affinity as a (T, T) float64 array; UserError unless square, non-empty, real and finite."""
    try:
        raw = np.asarray(affinity)
        if np.iscomplexobj(raw):
            raise TypeError("complex numbers")
        matrix = raw.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"affinity: found values that are not numbers ({error}); expected a (T, T) array of floats, "
            "rows receive, columns give"
        ) from error
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] == 0:
        raise UserError(
            f"affinity: found shape {matrix.shape}; expected a square (T, T) array with T ≥ 1, "
            "one row per receiving task and one column per giving task, in the same order"
        )
    bad = ~(np.abs(matrix) <= _LARGEST_ENTRY)
    if bad.any():
        receiver, source = (int(index) for index in np.argwhere(bad)[0])
        raise UserError(
            f"affinity: found {matrix[receiver, source]} at row {receiver} (receiver), column {source} "
            f"(source), one of {int(bad.sum())} such entries; expected finite numbers of magnitude up to "
            f"{_LARGEST_ENTRY:g}. Fill or drop these pairs before grouping"
        )
    return matrix


def checked_integer(value: object, name: str, low: int, high: int | None, also: str = "") -> int:
    """The value as an int; UserError unless an integer (no bool) from low to high."""
    expected = f"expected an integer ≥ {low}" if high is None else f"expected an integer from {low} to {high}"
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise UserError(f"{name}: found {value!r}; {expected}{also}")
    if value < low or (high is not None and value > high):
        raise UserError(f"{name}: found {value}; {expected}{also}")
    return int(value)


def symmetrised(matrix: Floats) -> Floats:
    """(A + Aᵀ)/2: a group holds both directions of a pair, so only their mean enters the objective."""
    mean: Floats = (matrix + matrix.T) / 2
    return mean


def centre_rows(affinity: ArrayLike, by: Literal["partners", "alone"] = "partners") -> Floats:
    """Take each task's own level out of its row, so that hard tasks do not steer the groups.

    - ``partners``: entry (i, j) becomes what partner j gives beyond i's average partner; the diagonal becomes 0, the
      average partner's value. `cluster` then asks only *which* partners fit. With one level for company and another
      for being alone in a row, the density would prefer one large group wherever company as such is estimated to
      help, and singletons wherever it is not.
    - ``alone``: each row minus its diagonal, the gain over training alone. For "sdp" this cannot change the groups:
      each task carries total weight 1 in the objective whatever its group, so a shift of a whole row adds the same
      to every partition. "spectral" and "agglomerative" have no such invariance.

    Args:
        affinity: (T, T); rows receive, columns give; higher is better; diagonal = the task alone.

    Returns:
        (T, T) float64 with zero diagonal, in the units of the input.

    Raises:
        UserError: not square, not numeric, NaN or infinite entries, or another `by`.
    """
    matrix = checked_affinity(affinity)
    if by == "alone":
        level = np.diag(matrix)
    elif by == "partners":
        level = (matrix.sum(axis=1) - np.diag(matrix)) / max(len(matrix) - 1, 1)
    else:
        raise UserError(f"by: found {by!r}; expected 'partners' or 'alone'")
    centred: Floats = matrix - level[:, None]
    np.fill_diagonal(centred, 0.0)
    return centred


@dataclass(frozen=True)
class Canonical:
    """What is left of a symmetric matrix A once all that every partition shares is taken out.

    For the normalised co-membership X of any partition into k groups (X_ij = 1/|g| inside a group; X1 = 1,
    tr X = k) ⟨A, X⟩ = level + (k − 1)·diagonal + scale·⟨matrix, X⟩, up to ±rounding. The matrix has zero row
    sums, zero trace and largest magnitude 1 (or is all zero), so solvers and tolerances see one scale
    whatever the units of A.
    """

    matrix: Floats
    scale: float
    level: float
    diagonal: float
    rounding: float

    def original_units(self, value: float, k: int) -> float:
        """The objective in units of A whose canonical value this is."""
        return self.level + (k - 1) * self.diagonal + self.scale * value


def canonical(symmetric: Floats) -> Canonical:
    """Take out row offsets, the common diagonal and the scale of a symmetric matrix."""
    tasks = len(symmetric)
    peak = float(np.abs(symmetric).max())
    if peak == 0.0 or tasks == 1:
        return Canonical(np.zeros_like(symmetric), 0.0, float(symmetric.sum()) / tasks, 0.0, 0.0)
    unit = symmetric / peak
    row_means = unit.mean(axis=1)
    centred = unit - row_means[:, None] - row_means[None, :] + row_means.mean()
    diagonal = float(np.trace(centred)) / (tasks - 1)
    centred -= diagonal * (np.eye(tasks) - 1 / tasks)
    centred = (centred + centred.T) / 2
    scale = float(np.abs(centred).max())
    # Entries of X sum to T, so an error of e in each entry moves ⟨A, X⟩ by at most T·e.
    rounding = tasks * 32 * _EPS
    if scale <= 64 * _EPS:
        rounding += tasks * scale
        centred, scale = np.zeros_like(centred), 0.0
    else:
        centred /= scale
    level = float(row_means.mean()) * tasks
    return Canonical(centred, scale * peak, level * peak, diagonal * peak, rounding * peak)
