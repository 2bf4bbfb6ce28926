"""Which other tasks to train a target task with: forward selection on predicted losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from affinity_service.grouping.direct import Predict


@dataclass(frozen=True)
class Partner:
    """One step: the task taken, and the target's predicted loss with all taken so far."""

    task: int
    predicted_loss: float


def forward_selection(predict: Predict, target: int, tasks: int, size: int) -> tuple[float, list[Partner]]:
    """The target's predicted loss alone, and at most `size` partners, each the one that lowers it most beside those
    taken before; it ends early where none lowers it."""
    (own,) = predict([(target,)])
    alone = reached = float(own[0])
    chosen: list[Partner] = []
    while len(chosen) < size:
        taken = [target, *(partner.task for partner in chosen)]
        others = [task for task in range(tasks) if task not in taken]
        if not others:
            break
        subsets = [tuple(sorted([*taken, task])) for task in others]
        losses = predict(subsets)
        found = [float(each[subset.index(target)]) for subset, each in zip(subsets, losses, strict=True)]
        best = int(np.argmin(found))
        if not found[best] < reached:
            break
        reached = found[best]
        chosen.append(Partner(others[best], reached))
    return alone, chosen


def partners_table(alone: float, chosen: Sequence[Partner], names: Sequence[str]) -> pd.DataFrame:
    """By task name, as ``Study.best_partners`` gives them."""
    losses = [partner.predicted_loss for partner in chosen]
    table = pd.DataFrame(
        {
            "partner": [names[partner.task] for partner in chosen],
            "predicted_loss": losses,
            "gain": [before - after for before, after in zip([alone, *losses], losses, strict=False)],
        }
    )
    table.attrs["alone"] = alone
    return table
