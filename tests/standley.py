"""Measured losses of all networks of five tasks (Standley et al. 2020), where the data is beside the repository."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from affinity_service.grouping import select_networks
from affinity_service.grouping.selection_exact import best_selection, mates_scores

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data" / "task_selection"
# Standley's settings 1 to 4 by the name of their tables.
SETTINGS = ("results", "results_large", "results_small_data", "results_alt")
TASKS = 5


def measured(name: str) -> np.ndarray:
    """(32, 5) losses of the full-size networks by bit mask; inf outside the network."""
    losses = np.full((2**TASKS, TASKS), np.inf)
    # The first line holds half-size networks of single tasks.
    for line in (FOLDER / f"standley_{name}.txt").read_text().splitlines()[1:]:
        cells = [cell.strip() for cell in line.split("\t")]
        present = [task for task, cell in enumerate(cells) if cell]
        for task in present:
            losses[sum(1 << other for other in present), task] = float(cells[task])
    return losses


def totals(setting: str, budget: int) -> tuple[float, float]:
    """Total test loss of the networks that are optimal on validation losses, and of those that the higher-order
    approximation (HOA) chooses from single tasks and pairs."""
    validation, test = measured(setting), measured(f"{setting}_test")
    singles = np.diag(validation[2 ** np.arange(TASKS)])
    pairs = np.array([[validation[1 << i | 1 << j, i] for j in range(TASKS)] for i in range(TASKS)])

    def tested(chosen: list[list[int]], chooser: np.ndarray) -> float:
        masks = [sum(1 << task for task in group) for group in chosen]
        return float(sum(test[masks[int(chooser[masks, task].argmax())], task] for task in range(TASKS)))

    approximate = select_networks(-pairs, budget, singleton_score=-singles).groups
    return (
        tested(best_selection(-validation, budget), -validation),
        tested(approximate, mates_scores(-pairs, -singles)),
    )
