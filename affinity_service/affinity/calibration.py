"""Probes: a few subsets truly fine-tuned, to choose how far predictions follow the linearised model and to tell how far
they are off."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from affinity_service.affinity.correction import NONE, Correction, fit_correction, left_out
from affinity_service.affinity.stopping import AT_THE_BEST, StopRule
from affinity_service.artifacts import StudyFolder
from affinity_service.config_estimate import PROBE_SIZES, FitConfig

CALIBRATION = "fits/calibration.json"
# Factors on the rule's penalty that probes choose from.
PENALTY_FACTORS = (1 / 9, 1 / 3, 1.0, 3.0, 9.0)
# A reach or a correction must bring the mean square residual below so much of what it was: what chance gains is not
# worth it.
WORTH = 0.8
# Optimizer steps that probes choose a path's reach from.
REACHES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
# A task's own residuals weigh against the pooled ones as this many of them.
POOLED_WEIGHT = 4
LEVEL = 0.9


@dataclass(frozen=True)
class Calibration:
    """What the probes said.

    Attributes
    ----------
    probes : how many subsets were fine-tuned. flops, seconds : what they cost.
    penalty_factor : on the ridge penalty of the rule.
    reach_steps : κ by which a path's displacement after s steps counts (1 + s/κ)^−½ times; None: all of it. A network
        that bends away from its linearisation goes on as if it were pushed about.
    stop : where early stopping is expected to end a training; without probes exactly at the best predicted epoch.
    correction : what the probes' errors have in common; none where it brings those of a probe that it does not know
        hardly nearer to zero.
    residual : root mean square of predicted − true loss over the probes' members; None without probes. With a
        correction each probe's are by that of the others.
    base_residual : the same had the base model's own losses been the prediction, corrected alike.
    task_errors : (T,) standard errors of predictions per task: their own residuals drawn towards the pooled ones, and
        scaled so that nominal 90% intervals hold 90% of the probes' members; empty without probes.
    """

    probes: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    penalty_factor: float = 1.0
    reach_steps: float | None = None
    stop: StopRule = AT_THE_BEST
    correction: Correction = NONE
    residual: float | None = None
    base_residual: float | None = None
    task_errors: tuple[float, ...] = ()

    @property
    def misleads(self) -> bool:
        """Whether the base model's own losses predict the probes as well: then the linearisation tells nothing."""
        return self.residual is not None and self.base_residual is not None and self.residual >= self.base_residual

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Calibration:
        rule = StopRule(content["stop"]["noise"], tuple(content["stop"]["correction"]))
        correction = Correction.from_json(content["correction"])
        task_errors = tuple(content["task_errors"])
        return cls(**{**content, "stop": rule, "correction": correction, "task_errors": task_errors})


# Without probes the stated rules hold.
UNPROBED = Calibration()


def probes_of(fits: FitConfig, tasks: int) -> list[tuple[int, ...]]:
    """The probes of a study with so many tasks. There are few distinct subsets of most of them: then of any size."""
    sizes = fits.probe_sizes if 2 * fits.probe_sizes[0] <= tasks else PROBE_SIZES
    return probe_subsets(tasks, fits.probes, fits.seed, sizes)


def probe_subsets(tasks: int, count: int, seed: int, sizes: tuple[int, int] = PROBE_SIZES) -> list[tuple[int, ...]]:
    """`count` distinct subsets of so many tasks, fewest and most, every task as often as possible; at most a third of
    those there are, so that others are left to be validated on."""
    rng = np.random.default_rng([seed, 31])
    low, high = (min(size, tasks) for size in sizes)
    count = min(count, sum(math.comb(tasks, size) for size in range(max(2, low), high + 1)) // 3)
    chosen: dict[tuple[int, ...], None] = {}
    waiting: list[int] = []
    for _ in range(20 * count):
        if len(chosen) == count:
            break
        size = int(rng.integers(low, high + 1))
        while len(waiting) < size:
            waiting += [task for task in rng.permutation(tasks).tolist() if task not in waiting]
        chosen[tuple(sorted(waiting[:size]))] = None
        waiting = waiting[size:]
    return list(chosen)


def chosen_reach(courses: Mapping[float | None, NDArray[np.float64]], true: NDArray[np.float64]) -> float | None:
    """The reach whose predicted courses (M, epochs, T) are nearest to the true ones; NaN outside the subsets."""

    def residual(course: NDArray[np.float64]) -> float:
        square = np.square(course - true)
        return float(square[np.isfinite(square)].mean())

    residuals = {reach: residual(course) for reach, course in courses.items()}
    nearest = min(residuals, key=residuals.__getitem__)
    return nearest if residuals[nearest] < WORTH * residuals[None] else None


def calibrate(
    predicted: Mapping[float, Sequence[NDArray[np.float64]]],
    true: Sequence[NDArray[np.float64]],
    base: NDArray[np.float64],
    subsets: Sequence[Sequence[int]],
    flops: float,
    seconds: float,
    stop: StopRule = AT_THE_BEST,
    reach_steps: float | None = None,
) -> Calibration:
    """Choose the factor with the least residual, and correct what the residuals have in common.

    Parameters
    ----------
    predicted : per factor the predicted losses of each probe's members. true : the measured ones.
    base : (T,) losses of the base model.
    stop, reach_steps : with which the predictions were made.
    """
    truth = np.concatenate(list(true))
    residuals = {factor: np.concatenate(list(losses)) - truth for factor, losses in predicted.items()}
    factor = min(residuals, key=lambda each: float(np.square(residuals[each]).mean()))
    errors = [own - guess for own, guess in zip(true, predicted[factor], strict=True)]
    base_errors = [own - base[list(subset)] for own, subset in zip(true, subsets, strict=True)]
    remaining, correction = left_out(errors, subsets, len(base)), NONE
    if np.square(np.concatenate(remaining)).sum() < WORTH * np.square(residuals[factor]).sum():
        correction = fit_correction(errors, subsets, len(base))
        residuals[factor] = np.concatenate(remaining)
        base_errors = left_out(base_errors, subsets, len(base))
    square = residuals[factor] ** 2
    member = np.concatenate([np.asarray(subset) for subset in subsets])
    pooled = float(square.mean())
    variances = [
        (square[member == task].sum() + POOLED_WEIGHT * pooled) / ((member == task).sum() + POOLED_WEIGHT)
        for task in range(len(base))
    ]
    spread = np.sqrt(np.maximum(variances, np.finfo(float).tiny))
    # Residuals have heavier tails than a normal distribution of their variance, so its interval would be too wide in
    # the middle: the quantile is that of the probes themselves, as in conformal prediction.
    level = min(1.0, LEVEL * (1 + 1 / len(member)))
    spread *= np.quantile(np.abs(residuals[factor]) / spread[member], level) / stats.norm.ppf(0.5 + LEVEL / 2)
    return Calibration(
        probes=len(subsets),
        flops=flops,
        seconds=seconds,
        penalty_factor=factor,
        reach_steps=reach_steps,
        stop=stop,
        correction=correction,
        residual=pooled**0.5,
        base_residual=float(np.square(np.concatenate(base_errors)).mean()) ** 0.5,
        task_errors=tuple(spread.tolist()),
    )


def read_calibration(folder: StudyFolder) -> Calibration:
    """What the probes of a study said; the stated default rule where there were none."""
    if not folder.exists(CALIBRATION):
        return UNPROBED
    return Calibration.from_json(folder.read_json(CALIBRATION))
