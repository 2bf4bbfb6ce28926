"""Which part of a long list stands open: of hundreds of tasks the page shows the telling ones and folds the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# More tasks than this make a table nobody reads from top to bottom.
MANY = 60
# Rows that stand open at each end of a sorted table.
ENDS = 10
# Names of a group that stand open; the others unfold.
NAMES = 6


def ends(names: Sequence[str], key: Mapping[str, float]) -> tuple[list[str], list[str]]:
    """The names with the largest values and those with the smallest, each most extreme first, none in both."""
    ranked = sorted(names, key=lambda name: key[name], reverse=True)
    shown = min(ENDS, len(ranked) // 2)
    return ranked[:shown], ranked[::-1][:shown]


def thinnest(tasks: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Entries of the suite with the least to learn from, fewest first."""
    return sorted(tasks, key=_examples)[:ENDS]


def _examples(task: Mapping[str, Any]) -> int:
    """Training labels, of two classes those of the rarer one: a task of a thousand negatives teaches nothing."""
    if task["kind"] != "binary":
        return int(task["train"])
    return int(min(task["train_positives"], task["train"] - task["train_positives"]))
