"""Sentences from numbers: what is claimed is computed, and the interval decides the word."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from affinity_service.affinity.matrix import AffinityMatrix
from affinity_service.evaluation.outcomes import GROUPS, JOINT, RANDOM, SINGLE, gains, loss_table
from affinity_service.report.wording import decimals_for, number, percent, signed

BETTER, WORSE, UNCLEAR, SAME, ONE_SEED = "better", "worse", "unclear", "same", "one seed"

# Setting → (what stands in "against …", what it is, column title).
SETTINGS = {
    GROUPS: ("grouped training", "one model per group", "its group"),
    JOINT: ("joint training", "one model for all tasks", "all jointly"),
    SINGLE: ("single-task training", "one model per task", "alone"),
    RANDOM: ("random groups", "groups of the same sizes, drawn at random", "random group"),
}


@dataclass(frozen=True)
class Gain:
    """Loss of a baseline minus loss of grouped training, with the half-width of its 95% interval."""

    mean: float
    half: float

    @property
    def verdict(self) -> str:
        if self.mean == 0 and self.half == 0:
            return SAME
        if math.isnan(self.half):
            return ONE_SEED
        if self.mean - self.half > 0:
            return BETTER
        return WORSE if self.mean + self.half < 0 else UNCLEAR

    def text(self, decimals: int) -> str:
        half = "" if math.isnan(self.half) else f" ± {number(self.half, decimals)}"
        return signed(self.mean, decimals) + half


def score_of(results: pd.DataFrame) -> str:
    """The test loss; where no task has a test label, the validation loss."""
    return "test_loss" if results["test_loss"].notna().any() else "validation_loss"


def gains_of(results: pd.DataFrame, tasks: Sequence[str]) -> dict[str, Gain]:
    """Per baseline the mean gain over these tasks, paired by seed."""
    rows = results[results["task"].isin(tasks)]
    return {name: Gain(*pair) for name, pair in gains(rows, tasks, score_of(results)).items()}


def task_gains(results: pd.DataFrame, baseline: str) -> dict[str, Gain]:
    """The gain of every task by itself."""
    rows = results[results["setting"].isin([GROUPS, baseline])]
    return {
        task: Gain(*pair)
        for task, part in rows.groupby("task", sort=False)
        for pair in gains(part, [str(task)], score_of(results)).values()
    }


def comparison(gain: Gain, baseline: str, decimals: int, unit: str, share: float, score: str) -> str:
    """One sentence against one baseline.

    Parameters
    ----------
    share : the gain as a share of the baseline's loss; NaN leaves it out.
    score : `test loss` or `validation loss`.
    """
    against = f"{SETTINGS[baseline][0]} ({SETTINGS[baseline][1]})"
    size = number(abs(gain.mean), decimals)
    part = "" if math.isnan(share) else f", {percent(abs(share))} of the loss"
    if gain.verdict == SAME:
        return f"The groups are the same trainings as {against}, so there is no difference."
    if gain.verdict == ONE_SEED:
        way = "lower" if gain.mean > 0 else "higher"
        return f"The mean {score} is {way} by {size} {unit} than with {against}{part}; one seed gives no interval."
    low, high = (signed(gain.mean + side * gain.half, decimals) for side in (-1, 1))
    if gain.verdict == UNCLEAR:
        return (
            f"No clear difference from {against}: the 95% interval of the gain, {low} to {high} {unit}, includes zero."
        )
    way = "lower" if gain.verdict == BETTER else "higher"
    return (
        f"Grouped training is {gain.verdict} than {against}: its mean {score} is {way} by {size} {unit}{part}. "
        f"The 95% interval of the gain, {low} to {high}, excludes zero."
    )


def share_of_loss(gain: Gain, results: pd.DataFrame, baseline: str) -> float:
    """The gain over the baseline's mean loss on the tasks that both settings have."""
    table = loss_table(results, score_of(results))[[GROUPS, baseline]].dropna()
    level = float(table[baseline].mean()) if len(table) else 0.0
    return gain.mean / level if level > 0 else math.nan


def bound_sentences(grouping: dict[str, Any], matrix: AffinityMatrix | None) -> list[str]:
    """How good the partition is, against the certified bound and against chance."""
    score, bound, k = grouping["objective"], grouping["bound"], len(grouping["groups"])
    tasks = sum(len(group) for group in grouping["groups"])
    gap = 0.0 if bound is None else bound - score
    exact = gap <= 1e-9 * max(abs(bound or 0.0), abs(score))
    # The score is a sum over tasks; shown as a mean it is in the unit of a gain and does not grow with the study.
    decimals = decimals_for([score / tasks])
    if not exact:
        decimals = max(decimals, decimals_for([gap / tasks], 1))
    sentences = [
        f"The score of a grouping is the estimated gain over training alone, averaged over tasks: each task takes "
        f"its mean gain over the members of its group, itself included with 0. This grouping scores "
        f"{signed(score / tasks, decimals)}."
    ]
    if bound is None:
        return sentences
    if exact:
        sentences.append(f"No division into {k} groups can score higher: the certified bound equals the score.")
    else:
        relative = f", so the score lies within {percent(gap / bound)} of the best possible" if bound > 0 else ""
        sentences.append(
            f"It is proved that no division into {k} groups can score above {signed(bound / tasks, decimals)} "
            f"(the certified bound){relative}."
        )
    if matrix is not None and len(matrix.names) == tasks and 1 < k < tasks:
        off_diagonal = matrix.gains()[~np.eye(tasks, dtype=bool)]
        # A random partition of these sizes keeps Σ_g (|g| − 1) = T − k pairs per direction, each of the mean gain.
        chance = float((tasks - k) * off_diagonal.mean())
        sentence = f"Random groups of the same sizes score {signed(chance / tasks, decimals)} on average"
        if bound - chance > 1e-9 * abs(bound) and score > chance:
            sentence += f"; this grouping takes at least {percent((score - chance) / (bound - chance))} of the way up"
        sentences.append(sentence + ".")
    return sentences
