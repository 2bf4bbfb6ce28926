"""Where a training stops, and what is expected of it there.

Early stopping takes the epoch with the lowest validation loss of one training, whose losses fluctuate from epoch to
epoch with the order of its examples. An estimate knows the course but not the fluctuation, so it averages over the
epochs, each as likely as that the lowest loss falls on it. Where features hold only part of the gradients the predicted
course overfits more slowly than real ones do: what the probes share of that is added to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class StopRule:
    """Where early stopping is expected to end a training.

    Attributes
    ----------
    noise : standard deviation of its validation loss around its course; 0: it ends exactly at the lowest epoch.
    correction : per epoch, from the first, what is added to a predicted validation loss before epochs are compared.
    """

    noise: float = 0.0
    correction: tuple[float, ...] = ()

    def score(self, losses: Tensor, epoch: int) -> Tensor:
        """(M,) what epochs (from 1) are compared by, from the predicted losses (M, T), NaN outside the subset."""
        return losses.nanmean(dim=1) + (self.correction[epoch - 1] if self.correction else 0.0)


AT_THE_BEST = StopRule()


def mean_course(losses: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """(M, epochs) validation losses over each subset's tasks and the seeds, from (M, epochs, T) per seed."""
    return np.mean([_scores(each) for each in losses], axis=0)


def course_correction(true: NDArray[np.float64], predicted: NDArray[np.float64]) -> tuple[float, ...]:
    """What the subsets' courses (M, epochs) share in how they deviate from the predicted ones, up to a constant.

    Drawn towards zero by the part that chance explains: with m the mean deviation and s its standard error,
    m · max(0, 1 − Σs² / Σm²), as James and Stein shrink a mean (1961). Empty where nothing is left.
    """
    deviation = true - predicted
    deviation = deviation[np.isfinite(deviation).all(axis=1)]
    if len(deviation) < 2:
        return ()
    deviation = deviation - deviation.mean(axis=1, keepdims=True)
    mean, chance = deviation.mean(axis=0), deviation.var(axis=0, ddof=1) / len(deviation)
    signal = float(np.square(mean).sum())
    kept = max(0.0, 1 - float(chance.sum()) / signal) if signal > 0 else 0.0
    return tuple((kept * mean).tolist()) if kept else ()


def stop_noise(losses: Sequence[NDArray[np.float64]]) -> float:
    """Standard deviation of the validation loss of one training around the course that it shares with others, from one
    epoch to the next; 0 where one training of each subset is all there is.

    Parameters
    ----------
    losses : per seed (M, epochs, T), NaN for tasks outside the subset.
    """
    if len(losses) < 2 or losses[0].shape[1] < 2:
        return 0.0
    scores = np.stack([_scores(each) for each in losses])
    apart = np.diff(scores - scores.mean(axis=0), axis=2)
    apart = apart[np.isfinite(apart)]
    if not apart.size:
        return 0.0
    return math.sqrt(float(np.square(apart).mean()) / 2 * len(losses) / (len(losses) - 1))


def _scores(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """(M, epochs), the mean over the subset's tasks; not finite where one of them is not."""
    member = ~np.isnan(losses).all(axis=1, keepdims=True)
    return np.where(member, losses, 0).sum(axis=2) / member.sum(axis=2)


class ExpectedStop:
    """Sums of what is seen at several epochs of M trainings, weighed by the chance that each stops there.

    The chance is that of independent Gumbel fluctuations of the given standard deviation, exp(−loss / t) with
    t = √6 σ / π; without fluctuation all of it is the best epoch's. Epochs come one by one and are not kept.
    """

    def __init__(self, noise: float) -> None:
        self.temperature = max(math.sqrt(6) / math.pi * noise, 1e-12)
        self.sums: dict[str, Tensor] = {}
        self.mass = self.least = torch.empty(0)

    def add(self, score: Tensor, seen: Mapping[str, Tensor]) -> None:
        """The scores (M,) of an epoch, lower is better and NaN never, and tensors (M, ...) seen there."""
        score = torch.where(score.isfinite(), score, torch.inf).double()
        if not self.sums:
            self.least, self.mass = score, torch.ones_like(score)
            self.sums = {name: values.clone() for name, values in seen.items()}
            return
        least = torch.minimum(self.least, score)
        old, new = (self._chance(part - least) for part in (self.least, score))
        self.least, self.mass = least, old * self.mass + new
        for name, values in seen.items():
            kept = self.sums[name]
            # What has no chance counts for nothing, also where it is infinite.
            before, now = (_rows(chance, kept) for chance in (old, new))
            if not bool((old > 0).all()):
                kept[old == 0] = 0
            kept.mul_(before).addcmul_(torch.where(now > 0, values, 0), now)

    def _chance(self, behind: Tensor) -> Tensor:
        # Both infinite: nothing was finite so far, and the later epoch is as good.
        return torch.exp(-torch.nan_to_num(behind, nan=0.0, posinf=torch.inf) / self.temperature)

    def means(self) -> dict[str, Tensor]:
        """(M, ...) what is expected where the training stops, by name."""
        return {name: values / _rows(self.mass, values) for name, values in self.sums.items()}


def _rows(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.dtype).view(-1, *[1] * (like.dim() - 1))
