"""What grouped training gains over joint, single-task and randomly grouped training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from affinity_service.config import GroupModelConfig
from affinity_service.evaluation.run import Run

GROUPS, JOINT, SINGLE, RANDOM = "groups", "joint", "single", "random"
# Test examples of a task that a language model is asked at most, and the longest answers, in tokens, that are asked
# for: to write longer ones would take longer than to train them.
ANSWERED, LONGEST_ANSWER = 50, 32


@dataclass(frozen=True)
class PlannedRun:
    """A run and why it is made. `grouping` counts random groupings, `group` the groups within one."""

    setting: str
    grouping: int
    group: int
    run: Run


def plan_runs(groups: Sequence[Sequence[int]], tasks: int, config: GroupModelConfig) -> list[PlannedRun]:
    """All trainings: the groups, all tasks jointly, tasks alone and random groups of the same sizes, every seed.

    Every seed draws its random groupings anew: an interval over seeds then carries how much the draw matters, not
    only initial weights and order of examples. Above ``config.single_tasks`` tasks a seeded sample of them is trained
    alone. Runs of equal tasks and seed may appear in several settings; they need training once.
    """
    rng = np.random.default_rng(config.seed)
    planned: list[tuple[str, int, int, tuple[int, ...]]] = []
    planned += [(GROUPS, 0, g, tuple(sorted(group))) for g, group in enumerate(groups)]
    planned.append((JOINT, 0, 0, tuple(range(tasks))))
    alone = rng.choice(tasks, size=min(tasks, config.single_tasks), replace=False)
    planned += [(SINGLE, 0, g, (int(task),)) for g, task in enumerate(sorted(alone))]
    runs = [
        PlannedRun(setting, grouping, group, Run(members, config.seed + seed))
        for setting, grouping, group, members in planned
        for seed in range(config.seeds)
    ]
    ends = np.cumsum([len(group) for group in groups])[:-1]
    for seed in range(config.seeds):
        for grouping in range(config.random_groupings):
            parts = np.split(rng.permutation(tasks), ends)
            runs += [
                PlannedRun(RANDOM, grouping, g, Run(tuple(sorted(part.tolist())), config.seed + seed))
                for g, part in enumerate(parts)
            ]
    return runs


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Mean and half-width of Student's interval; the half-width is NaN for a single value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, float("nan")
    error = float(np.std(values, ddof=1)) / np.sqrt(len(values))
    return mean, float(stats.t.ppf(0.5 + level / 2, len(values) - 1) * error)


def loss_table(results: pd.DataFrame, score: str = "test_loss") -> pd.DataFrame:
    """One row per task, per setting the mean loss over seeds and (`… ±`) the half-width of its 95% interval.

    ``results`` has columns setting, grouping, seed, task, validation_loss, test_loss. Random groupings are
    averaged per seed first. A task that was not trained alone has NaN there.
    """
    per_seed = _per_seed(results, score)
    columns = {}
    for setting in (GROUPS, JOINT, SINGLE, RANDOM):
        if setting not in per_seed.columns:
            continue
        columns[setting], columns[f"{setting} ±"] = _task_intervals(per_seed[setting])
    return pd.DataFrame(columns)


def gains(results: pd.DataFrame, tasks: Sequence[str], score: str = "test_loss") -> dict[str, tuple[float, float]]:
    """Per baseline: mean over the tasks of (baseline − groups), paired by seed, with the interval's half-width.

    Positive means that grouped training has the lower loss.
    """
    per_seed = _per_seed(results, score)
    chosen = per_seed.loc[per_seed.index.get_level_values("task").isin(tasks)]
    answer = {}
    for baseline in (JOINT, SINGLE, RANDOM):
        if baseline in chosen.columns:
            difference = (chosen[baseline] - chosen[GROUPS]).dropna().groupby("seed").mean()
            if len(difference):
                answer[baseline] = interval(difference.to_numpy())
    return answer


def task_gains(results: pd.DataFrame, baseline: str, score: str = "test_loss") -> dict[str, tuple[float, float]]:
    """The gain over one baseline of every task by itself, with the interval's half-width."""
    per_seed = _per_seed(results, score)
    if baseline not in per_seed.columns:
        return {}
    means, halves = _task_intervals((per_seed[baseline] - per_seed[GROUPS]).dropna())
    return {str(task): (float(mean), float(half)) for task, mean, half in zip(means.index, means, halves, strict=True)}


def _per_seed(results: pd.DataFrame, score: str) -> pd.DataFrame:
    """Index (task, seed), a column per setting."""
    means = results.groupby(["task", "seed", "setting"], sort=False)[score].mean()
    return means.unstack("setting")


def _task_intervals(values: pd.Series, level: float = 0.95) -> tuple[pd.Series, pd.Series]:
    """``interval`` of every task at once, from an index (task, seed); a task without values has NaN.

    Hundreds of tasks one by one would take most of the time of a report.
    """
    tasks = values.groupby("task", sort=False)
    counts = tasks.count()
    student = pd.Series(stats.t.ppf(0.5 + level / 2, counts - 1), index=counts.index)
    return tasks.mean(), student * tasks.std() / np.sqrt(counts)
