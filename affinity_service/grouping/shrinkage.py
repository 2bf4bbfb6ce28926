"""Uncertain affinities drawn towards the receiver's average partner."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from affinity_service.errors import UserError
from affinity_service.grouping.matrix import Floats, checked_affinity


def shrink_rows(centred: ArrayLike, error: ArrayLike) -> Floats:
    """Each entry times τ² / (τ² + s²), with s its standard error and τ² what the row varies beyond chance.

    The posterior mean where a receiver's true affinities are normal around its average partner (Efron & Morris 1975);
    τ² is the row's variance less the mean of s², at least 0. Receivers whose partners differ by chance only no longer
    steer the groups.

    Parameters
    ----------
    centred : (T, T) as ``centre_rows(affinity, "partners")`` gives it: zero diagonal, rows around 0.
    error : (T, T) standard errors of the entries, not negative.

    Raises
    ------
    UserError
        Other shapes, or values that are not finite.
    """
    matrix, deviation = checked_affinity(centred), np.asarray(error, dtype=np.float64)
    if deviation.shape != matrix.shape or not bool((deviation >= 0).all()):
        raise UserError(
            f"error: found shape {deviation.shape}, least {np.min(deviation, initial=0):g}; expected the standard "
            f"errors, not negative, of the {matrix.shape} affinities"
        )
    others = ~np.eye(len(matrix), dtype=bool)
    noise = deviation**2
    # A row of T − 1 partners around their own mean has T − 2 degrees of freedom.
    squares = np.where(others, matrix**2, 0).sum(axis=1) / max(1, len(matrix) - 2)
    beyond = squares - np.where(others, noise, 0).sum(axis=1) / max(1, len(matrix) - 1)
    signal = np.maximum(beyond, 0)[:, None]
    kept: Floats = np.divide(signal, signal + noise, out=np.ones_like(matrix), where=signal + noise > 0)
    return matrix * kept
