"""Sentences from numbers: what is claimed is computed, and the interval decides the word."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from affinity_service.affinity.matrix import AffinityMatrix
from affinity_service.evaluation import outcomes
from affinity_service.evaluation.outcomes import GROUPS, JOINT, RANDOM, SINGLE, gains
from affinity_service.report.wording import count, decimals_for, number, percent, signed

BETTER, WORSE, UNCLEAR, SAME, ONE_SEED = "better", "worse", "unclear", "same", "one seed"

# Setting → (what stands in "against …", what it is, column title).
SETTINGS = {
    GROUPS: ("grouped training", "one model per group", "its group"),
    JOINT: ("joint training", "one model for all tasks", "all jointly"),
    SINGLE: ("single-task training", "one model per task", "alone"),
    RANDOM: ("random groups", "groups of the same sizes, drawn at random", "random group"),
}

_PARTNERS = "beyond the task's average partner"


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
        # An interval narrower than the digits shown is not one of no width.
        shown = max(self.half, 10.0**-decimals) if self.half > 0 else self.half
        half = "" if math.isnan(self.half) else f" ± {number(shown, decimals)}"
        return signed(self.mean, decimals) + half


def decimals_of(gains: Iterable[Gain]) -> int:
    """One choice for gains shown together: three digits of the largest number, one of the smallest half-width.

    Of many half-widths the smallest tenth is left out: a lucky one would widen every column by digits of noise.
    """
    gains = list(gains)
    halves = sorted(gain.half for gain in gains if gain.half > 0)
    largest = decimals_for([*(gain.mean for gain in gains), *halves])
    return max(largest, decimals_for([halves[len(halves) // 10]], 1)) if halves else largest


def score_of(results: pd.DataFrame) -> str:
    """The test loss; where no task has a test label, the validation loss."""
    return "test_loss" if results["test_loss"].notna().any() else "validation_loss"


def gains_of(results: pd.DataFrame, tasks: Sequence[str]) -> dict[str, Gain]:
    """Per baseline the mean gain over these tasks, paired by seed."""
    rows = results[results["task"].isin(tasks)]
    return {name: Gain(*pair) for name, pair in gains(rows, tasks, score_of(results)).items()}


def task_gains(results: pd.DataFrame, baseline: str) -> dict[str, Gain]:
    """The gain of every task by itself."""
    return {task: Gain(*pair) for task, pair in outcomes.task_gains(results, baseline, score_of(results)).items()}


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
    mean_loss = results.groupby(["task", "setting"])[score_of(results)].mean().unstack("setting")
    level = float(mean_loss[[GROUPS, baseline]].dropna()[baseline].mean())
    return gain.mean / level if level > 0 else math.nan


def summary(verdicts: Mapping[str, str]) -> str:
    """What all comparisons say in half a sentence: verdict per baseline → words."""
    words = {
        BETTER: "better than",
        WORSE: "worse than",
        UNCLEAR: "not clearly different from",
        SAME: "the same as",
        ONE_SEED: "compared in one seed only with",
    }
    parts = []
    for verdict, word in words.items():
        against = [SETTINGS[baseline][0] for baseline, found in verdicts.items() if found == verdict]
        if against:
            parts.append(f"{word} {' and '.join([', '.join(against[:-1]), against[-1]] if against[1:] else against)}")
    return "; ".join(parts)


def bound_sentences(
    grouping: dict[str, Any], matrix: AffinityMatrix | None, unit: str, measured: bool = False
) -> list[str]:
    """How good the partition is, against the certified bound and against chance.

    The objective is a sum over tasks; shown as a mean it is in the unit of a gain and does not grow with the study.
    """
    k, tasks = len(grouping["groups"]), sum(len(group) for group in grouping["groups"])
    score = grouping["objective"] / tasks
    bound = None if grouping["bound"] is None else grouping["bound"] / tasks
    alone = grouping.get("centre", "alone") == "alone"
    # Shrunk affinities have a chance level of their own, which is not stored.
    chance = None if grouping.get("shrink") else _chance(matrix, tasks, k, alone)
    known = [value for value in (score, bound, chance) if value is not None]
    decimals = max(4, decimals_for(known))
    over = "over training alone" if alone else _PARTNERS
    what = "affinity" if measured else "estimated gain"
    over += ", uncertain ones drawn towards 0" if grouping.get("shrink") else ""
    sentences = [
        f"The score of a grouping is the {what} {over}, averaged over "
        "tasks: each task takes its mean over the members of its group, itself included with 0. This grouping "
        f"scores {signed(score, decimals)} {unit}."
    ]
    # A relaxation is solved to a tolerance: differences below that of all the numbers shown say nothing.
    tight = bound is not None and bound - score <= 1e-4 * max(abs(value - score) for value in [*known, 0.0])
    if tight:
        sentences.append(
            f"It is proved that no division into {count(k, 'group')} can score noticeably higher: the certified "
            f"bound is {signed(bound or 0.0, decimals)} too."
        )
    elif bound is not None:
        relative = f"; the score lies {percent((bound - score) / bound)} below it" if bound > 0 else ""
        sentences.append(
            f"It is proved that no division into {count(k, 'group')} can score above {signed(bound, decimals)}, the "
            f"certified bound{relative}."
        )
        if grouping.get("constrained"):
            sentences.append("The bound is of all divisions; this one also had to keep the sizes or links asked for.")
    if chance is not None:
        sentence = f"Random groups of the same sizes score {signed(chance, decimals)} on average"
        if bound is not None and not tight and score > chance:
            share = (score - chance) / (bound - chance)
            sentence += (
                f": of what any grouping could gain over them, this one has {math.floor(1000 * share) / 10} % or more"
            )
        sentences.append(sentence + ".")
    return sentences


def direct_sentences(grouping: dict[str, Any]) -> list[str]:
    """What the groups' own losses say, where the groups were chosen by them."""
    if "predicted_loss" not in grouping:
        return []
    values = [grouping["predicted_loss"], grouping["start_predicted_loss"]]
    sentences = [
        f"Their own predicted loss is {values[0]:.4f} per task, against {values[1]:.4f} of the clusters of pairs that "
        f"the descent began with; {count(grouping['evaluated'], 'group')} were predicted."
    ]
    if "probed_loss" in grouping:
        loss, start = grouping["probed_loss"], grouping["start_probed_loss"]
        kept = "so they were kept" if loss < start else "so the clusters of pairs were taken instead"
        sentences.append(f"Truly fine-tuned, the two reached {loss:.4f} and {start:.4f}, {kept}.")
    return sentences


def _chance(matrix: AffinityMatrix | None, tasks: int, k: int, alone: bool) -> float | None:
    """The mean score of random groups of the same sizes: T − k of T tasks' worth of the mean gain, exactly."""
    if matrix is None or len(matrix.names) != tasks or not 1 < k < tasks:
        return None
    # Against the average partner the mean gain is 0 by construction.
    mean = float(matrix.gains()[~np.eye(tasks, dtype=bool)].mean()) if alone else 0.0
    return (tasks - k) * mean / tasks
