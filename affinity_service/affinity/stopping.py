"""Where a training stops, and what is expected of it there.

Early stopping takes the epoch with the lowest validation loss of one training, whose losses fluctuate from epoch to
epoch with the order of its examples. An estimate knows the course but not the fluctuation, so it averages over the
epochs, each as likely as that the lowest loss falls on it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def stop_noise(losses: Sequence[NDArray[np.float64]]) -> float:
    """Standard deviation of the validation loss of one training around the course that it shares with others, from one
    epoch to the next; 0 where one training of each subset is all there is.

    Parameters
    ----------
    losses : per seed (M, epochs, T), NaN for tasks outside the subset.
    """
    if len(losses) < 2 or losses[0].shape[1] < 2:
        return 0.0
    member = ~np.isnan(losses[0]).all(axis=1, keepdims=True)
    scores = np.stack([np.where(member, each, 0).sum(axis=2) / member.sum(axis=2) for each in losses])
    apart = np.diff(scores - scores.mean(axis=0), axis=2)
    apart = apart[np.isfinite(apart)]
    if not apart.size:
        return 0.0
    return math.sqrt(float(np.square(apart).mean()) / 2 * len(losses) / (len(losses) - 1))


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
