"""What the probes' errors have in common, taken off predicted losses.

A task's losses are often predicted too high or too low whatever its company, as its training bends away from the
linearised one in its own way, and predictions for large subsets are off otherwise than those for small ones. Errors of
the probes' members are modelled as a common mean, a random effect per task, one of the tasks' share 1/|S| and noise:
the effects are best linear unbiased predictions (Henderson 1975), their variances found by expectation maximisation
(Laird and Ware 1982). Where errors have nothing in common the variances vanish, and the effects with them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Rounds of expectation maximisation at most. Variances are in units of the errors' mean square: they are found when
# they change by so little, and none is smaller than the least.
ROUNDS, SETTLED, LEAST = 200, 1e-4, 1e-6
# Fewer probes tell nothing of each other.
FEWEST = 3


@dataclass(frozen=True)
class Correction:
    """Added to a predicted loss.

    Attributes
    ----------
    offsets : (T,) per task; empty: nothing is added.
    of_share : times how much 1/|S| differs from the middle of `shares`.
    shares : least, mean and largest 1/|S| of the probes; others count as the nearest of these.
    """

    offsets: tuple[float, ...] = ()
    of_share: float = 0.0
    shares: tuple[float, float, float] = (0.0, 0.5, 1.0)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Correction:
        least, mean, largest = content["shares"]
        return cls(tuple(content["offsets"]), content["of_share"], (least, mean, largest))

    def __bool__(self) -> bool:
        return bool(self.offsets)

    def of(self, subset: Sequence[int], tasks: int) -> Array:
        """(T,) what is added to the subset's losses. Tasks beyond those of the probes get the mean offset."""
        if not self.offsets:
            return np.zeros(tasks)
        offsets = np.full(tasks, np.mean(self.offsets))
        offsets[: len(self.offsets)] = self.offsets
        least, mean, largest = self.shares
        return offsets + self.of_share * (min(max(1 / len(subset), least), largest) - mean)

    def applied(self, losses: Array, subsets: Sequence[Sequence[int]]) -> Array:
        """(M, T) predicted losses of M subsets, corrected; none below 0."""
        if not self.offsets:
            return losses
        return np.maximum(losses + [self.of(subset, losses.shape[1]) for subset in subsets], 0)


NONE = Correction()


def fit_correction(errors: Sequence[Array], subsets: Sequence[Sequence[int]], tasks: int) -> Correction:
    """From the errors (true − predicted) of each probe's members; none with fewer than three probes."""
    if len(subsets) < FEWEST:
        return NONE
    error, task = np.concatenate(list(errors)), np.concatenate([np.asarray(subset) for subset in subsets])
    unit = float(np.sqrt(np.square(error).mean()))
    if not np.isfinite(unit) or unit == 0:
        return NONE
    shares = np.array([1 / len(subset) for subset in subsets])
    share = np.repeat(shares - shares.mean(), [len(subset) for subset in subsets])
    spread = float(share.std())
    designs = [np.eye(tasks)[task]]
    if spread > 1e-9:
        designs.append(share[:, None] / spread)
    mean, effects = _mixed_model(error / unit, designs)
    return Correction(
        tuple((unit * (mean + effects[0])).tolist()),
        float(unit * effects[1][0] / spread) if len(effects) > 1 else 0.0,
        (float(shares.min()), float(shares.mean()), float(shares.max())),
    )


def left_out(errors: Sequence[Array], subsets: Sequence[Sequence[int]], tasks: int) -> list[Array]:
    """The errors that remain of each probe after a correction by the others."""
    remaining = []
    for number, (error, subset) in enumerate(zip(errors, subsets, strict=True)):
        others = [i for i in range(len(subsets)) if i != number]
        correction = fit_correction([errors[i] for i in others], [subsets[i] for i in others], tasks)
        remaining.append(error - correction.of(subset, tasks)[list(subset)])
    return remaining


def _mixed_model(y: Array, designs: Sequence[Array]) -> tuple[float, list[Array]]:
    """The mean of y (n,) and the random effects of each design (n, q): y = mean + Σ Z u + e, u ~ N(0, v I)."""
    n, ones = len(y), np.ones(len(y))
    products = [z @ z.T for z in designs]
    # Of each design, and of the noise.
    variances, mean = np.full(len(designs) + 1, 0.3), 0.0
    effects = [np.zeros(z.shape[1]) for z in designs]
    for _ in range(ROUNDS):
        covariance = variances[-1] * np.eye(n) + np.tensordot(variances[:-1], products, axes=1)
        inverse = np.linalg.inv(covariance)
        mean = float(ones @ inverse @ y / (ones @ inverse @ ones))
        weighed = inverse @ (y - mean)
        effects = [v * z.T @ weighed for v, z in zip(variances, designs, strict=False)]
        rest = y - mean - sum(z @ u for z, u in zip(designs, effects, strict=True))
        # Expected squares given y: of what is predicted, and of what is still unknown about it.
        found = [
            (u @ u + v * z.shape[1] - v * v * (inverse * product).sum()) / z.shape[1]
            for v, z, u, product in zip(variances, designs, effects, products, strict=False)
        ]
        found.append((rest @ rest + variances[-1] * n - variances[-1] ** 2 * np.trace(inverse)) / n)
        before, variances = variances, np.maximum(found, LEAST)
        if np.abs(variances - before).max() < SETTLED:
            break
    return mean, effects
