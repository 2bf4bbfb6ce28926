"""Predicted losses of subsets, whichever estimator made them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from affinity_service.config import Config
from affinity_service.errors import UserError

# When a training on a subset is looked at: after so many epochs, or at its best validation loss.
Moment = int | Literal["best"]


@dataclass(frozen=True)
class SubsetEstimates:
    """Predicted validation losses of the members of M subsets.

    Attributes
    ----------
    subsets : M tuples of tasks.
    epochs : (M,) int, the epoch of fine-tuning that the losses are of.
    losses, standard_errors : one array per subset in the order of its tasks; the error is that of the mean over the
        task's validation examples.
    converged : (M,) bool.
    coordinates : per subset its displacement in feature coordinates, float32: (d,), or (d + h·|S|,) where each of its
        tasks has h of its own; (0,) without features.
    """

    subsets: list[tuple[int, ...]]
    epochs: NDArray[np.int64]
    losses: list[NDArray[np.float64]]
    standard_errors: list[NDArray[np.float64]]
    converged: NDArray[np.bool_]
    coordinates: list[NDArray[np.float32]]

    @classmethod
    def from_table_of_tasks(
        cls,
        subsets: Sequence[tuple[int, ...]],
        epochs: NDArray[np.int64],
        mean: NDArray[np.floating],
        error: NDArray[np.floating],
        converged: NDArray[np.bool_] | None = None,
        coordinates: list[NDArray[np.float32]] | None = None,
    ) -> SubsetEstimates:
        """From mean losses and errors (M, T), of which only the members' columns are read."""
        losses = [mean[i, list(s)].astype(np.float64) for i, s in enumerate(subsets)]
        errors = [error[i, list(s)].astype(np.float64) for i, s in enumerate(subsets)]
        # A single validation example tells no spread: an error as large as the loss itself claims nothing.
        errors = [np.where(np.isnan(e), np.abs(loss), e) for e, loss in zip(errors, losses, strict=True)]
        return cls(
            list(subsets),
            epochs,
            losses,
            errors,
            np.ones(len(subsets), bool) if converged is None else converged,
            [np.zeros(0, np.float32)] * len(subsets) if coordinates is None else coordinates,
        )

    def to_table(self, first: int) -> pa.Table:
        """One row per subset, numbered from `first`."""
        return pa.table(
            {
                "subset": np.arange(first, first + len(self.subsets)),
                "tasks": pa.array([list(s) for s in self.subsets], pa.list_(pa.int32())),
                "predicted_loss": pa.array(self.losses, pa.list_(pa.float64())),
                "standard_error": pa.array(self.standard_errors, pa.list_(pa.float64())),
                "epochs": self.epochs,
                "converged": self.converged,
                "weights": pa.array(self.coordinates, pa.list_(pa.float32())),
            }
        )


class Estimator(Protocol):
    def estimate(self, subsets: Sequence[Sequence[int]]) -> SubsetEstimates:
        """At the moment that `fits.stop` names. Raises UserError for a subset that names an unknown task, repeats one,
        or is empty."""
        ...

    def estimates(self, subsets: Sequence[Sequence[int]], moments: Sequence[Moment]) -> list[SubsetEstimates]:
        """The same at several moments."""
        ...


def stated_moment(config: Config) -> Moment:
    """The moment that `fits.stop` names."""
    return "best" if config.fits.stop == "best" else config.fits.epochs


def require_losses(config: Config, what: str) -> None:
    """Raises UserError where a study has affinities, but nothing that predicts losses."""
    if config.measured:
        raise UserError(
            f"{what}: this study's affinities were measured while training (affinity.estimator "
            f"{config.affinity.estimator}): they rank partners, but predict no losses. "
            "`group` works on them; for losses run the study with estimator linearized"
        )
