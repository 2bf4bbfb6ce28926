"""How well estimates tell which partners help: scores of (M, T) predicted losses against true ones.

Entry [m, t] is the loss of task t after training on subset m, NaN for tasks outside the subset. *Centred* means with
each task's own mean over the subsets removed: how hard a task is says nothing about its partners, and most of a
relative distance is that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Losses = NDArray[np.float64]

# A decision is the choice among so many subsets that contain the task; regret is the mean over so many choices.
CHOICES, DRAWS = 8, 200
BOOTSTRAPS = 300
LEVEL = 0.95


def centred(losses: Losses) -> Losses:
    """Each task's mean over the subsets removed; a task in fewer than two subsets becomes NaN."""
    present = (~np.isnan(losses)).sum(axis=0) > 1
    mean = np.divide(
        np.nansum(losses, axis=0), (~np.isnan(losses)).sum(axis=0), where=present, out=np.full(losses.shape[1], np.nan)
    )
    return losses - mean


def centred_r(predicted: Losses, true: Losses) -> float:
    """Correlation of centred losses over all (subset, task); NaN for a prediction that does not vary."""
    a, b = _pairs(centred(predicted), centred(true))
    if len(a) < 3 or not a.std() > 1e-12 or not b.std() > 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def centred_r2(predicted: Losses, true: Losses) -> float:
    """1 − the part of the centred losses' variance that the centred prediction leaves; below 0 worse than nothing."""
    a, b = _pairs(centred(predicted), centred(true))
    total = float(np.square(b).sum())
    return 1 - float(np.square(a - b).sum()) / total if total > 0 else float("nan")


def spearman(predicted: Losses, true: Losses) -> float:
    """Rank correlation over the subsets of a task, mean over the tasks where it is defined."""
    known = ~np.isnan(predicted) & ~np.isnan(true)
    varies = [
        known[:, task].sum() > 2 and np.ptp(predicted[known[:, task], task]) > 1e-12 for task in range(known.shape[1])
    ]
    a, b = (_ranks(np.where(known, losses, np.nan)[:, varies]) for losses in (predicted, true))
    deviations = [x - np.nanmean(x, axis=0) for x in (a, b)] if a.shape[1] else [a, b]
    product, first, second = (
        np.nansum(x * y, axis=0)
        for x, y in ((deviations[0], deviations[1]), (deviations[0],) * 2, (deviations[1],) * 2)
    )
    return float((product / np.sqrt(first * second)).mean()) if a.shape[1] else float("nan")


def _ranks(losses: Losses) -> Losses:
    """Ranks within each column, NaN where there is none; equal losses in the order of their rows."""
    ranks = losses.argsort(axis=0, kind="stable").argsort(axis=0).astype(float)
    return np.where(np.isnan(losses), np.nan, ranks)


def relative_distance(predicted: Losses, true: Losses) -> float:
    """‖T̂ − T‖ / ‖T‖ over all entries, the published measure (Grad-TAG, arXiv 2409.06091, §4)."""
    a, b = _pairs(predicted, true)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def skill(predicted: Losses, true: Losses, base: Losses) -> float:
    """1 − ‖T̂ − T‖ / ‖T_base − T‖, with T_base the base model's own losses for every subset."""
    return 1 - relative_distance(predicted, true) / relative_distance(np.where(np.isnan(true), np.nan, base), true)


def regret(predicted: Losses, true: Losses, seed: int = 0) -> float:
    """Decision regret in units of the loss: how much worse the subset is that the prediction picks for a task, out of
    eight drawn from those that contain it, than the truly best of them; mean over many draws and all tasks.

    Equal predictions are broken at random, so a prediction blind to partners picks blindly.
    """
    per_task = []
    for task in range(true.shape[1]):
        known = np.flatnonzero(~np.isnan(true[:, task]))
        if len(known) < 2:
            continue
        # Seeded per task, so that every prediction faces the same choices.
        choice = known[np.random.default_rng([seed, task]).integers(0, len(known), size=(DRAWS, CHOICES))]
        a, b = predicted[:, task][choice], true[:, task][choice]
        tied = np.abs(a - a.min(axis=1, keepdims=True)) <= 1e-12
        picked = (b * tied).sum(axis=1) / tied.sum(axis=1)
        per_task.append(float((picked - b.min(axis=1)).mean()))
    return float(np.mean(per_task)) if per_task else float("nan")


def row_means(true: Losses) -> Losses:
    """Each task's true mean for every subset: an oracle of difficulty, blind to partners."""
    with np.errstate(invalid="ignore"):
        return np.where(np.isnan(true), np.nan, np.nanmean(true, axis=0))


def scores(predicted: Losses, true: Losses, base: Losses) -> dict[str, float]:
    """Every measure by name."""
    distance = relative_distance(predicted, true)
    return {
        "centred_r": centred_r(predicted, true),
        "centred_r2": centred_r2(predicted, true),
        "regret": regret(predicted, true),
        "spearman": spearman(predicted, true),
        "relative_distance": distance,
        "relative_distance_squared": distance**2,
        "skill": skill(predicted, true, base),
    }


def compare(
    estimates: Mapping[str, Sequence[Losses]], true: Losses, base: Losses, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Scores and 95% intervals of several estimators, by one bootstrap over subsets that is paired among them.

    Parameters
    ----------
    estimates : per estimator one or more predictions, such as those of several projection seeds; its scores are their
        mean.
    """
    rng = np.random.default_rng(seed)
    draws = [rng.integers(0, len(true), size=len(true)) for _ in range(BOOTSTRAPS)]
    answer = {}
    for name, predictions in estimates.items():

        def mean_scores(rows: NDArray[np.int64], own: Sequence[Losses] = predictions) -> dict[str, float]:
            each = [scores(p[rows], true[rows], base) for p in own]
            return {metric: float(np.mean([s[metric] for s in each])) for metric in each[0]}

        found = mean_scores(np.arange(len(true)))
        resampled = [mean_scores(rows) for rows in draws]
        entry: dict[str, Any] = {}
        for metric, value in found.items():
            entry[metric] = _number(value)
            entry[f"{metric}_interval"] = _interval([each[metric] for each in resampled])
        answer[name] = entry
    return answer


def coverage(predicted: Losses, error: Losses, true: Losses, level: float = 0.9) -> float:
    """Part of the true losses inside the prediction's nominal interval."""
    a, b = _pairs(predicted, true)
    half = (
        stats.norm.ppf(0.5 + level / 2)
        * np.broadcast_to(error, predicted.shape)[~np.isnan(true) & ~np.isnan(predicted)]
    )
    return float((np.abs(a - b) <= half).mean())


def _pairs(a: Losses, b: Losses) -> tuple[Losses, Losses]:
    known = ~np.isnan(a) & ~np.isnan(b)
    return a[known], b[known]


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _interval(values: Sequence[float]) -> list[float] | None:
    finite = [value for value in values if np.isfinite(value)]
    if len(finite) < len(values) / 2:
        return None
    low, high = np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return [float(low), float(high)]
