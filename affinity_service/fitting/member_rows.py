"""Rows of the tasks of many subsets, as each of the subsets sees them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from affinity_service.fitting.subset_weights import SubsetWeights
from affinity_service.fitting.task_rows import TaskRows

# Entries of one (rows × subsets) intermediate.
_ENTRIES = 1 << 24


class MemberRows:
    """Margins of the rows of every member of a layout's subsets.

    A row's features along the shared directions and its own head are the same in every subset; along a subset's own
    means they are the subset's, so they are made once per (subset, task in it) and kept.

    Parameters
    ----------
    rows : per task its rows; None for a task without any.
    """

    def __init__(self, rows: Sequence[TaskRows | None], layout: SubsetWeights) -> None:
        self.rows, self.layout = rows, layout
        self.tasks = [task for task in layout.tasks() if rows[task] is not None]
        self._along: dict[int, Tensor] = {}
        if layout.means is not None:
            for task in self.tasks:
                products = self.of(task).products
                assert products is not None, "rows beside means have products with them"
                self._along[task] = layout.means.features(products, layout.holders(task)[0])

    def of(self, task: int) -> TaskRows:
        rows = self.rows[task]
        assert rows is not None, "only tasks with rows"
        return rows

    def margins(self, task: int, c: Tensor, places: Tensor, slots: Tensor, chosen: Tensor | slice) -> Tensor:
        """(n, k) margins of a task's rows at coordinates.

        Parameters
        ----------
        c : (m, …) coordinates of some subsets. places : (k,) rows of it. slots : (k,) of the task in each.
        chosen : which of the task's holders in the layout those are.
        """
        z = self.of(task).margins_at(self.layout.of_task(c, places, slots))
        if self.layout.means is None:
            return z
        own = c[places, self.layout.first_mean :]
        return z + torch.bmm(self._along[task][chosen], own[:, :, None])[:, :, 0].T

    def add_sums(
        self,
        total: Tensor,
        task: int,
        places: Tensor,
        slots: Tensor,
        chosen: Tensor | slice,
        residuals: Tensor,
        factor: Tensor,
    ) -> None:
        """Add factor · Φᵀr, residuals (n, k) and factor (k,), to the places of the task's rows in total (m, …)."""
        sums = (residuals.T @ self.of(task).features) * factor[:, None]
        self.layout.add_of_task(total, places, slots, sums)
        if self.layout.means is not None:
            along = torch.bmm(residuals.T[:, None, :], self._along[task][chosen])[:, 0] * factor[:, None]
            total[:, self.layout.first_mean :].index_add_(0, places, along)

    def losses(self, coordinates: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss and its standard error over examples, (M, T) each, of every member of the layout's M subsets at
        coordinates (M, …); NaN for tasks outside a subset. The error is NaN for a single example."""
        mean = torch.full((len(self.layout.subsets), len(self.rows)), torch.nan, device=coordinates.device)
        error = torch.full_like(mean, torch.nan)
        for task in self.tasks:
            own, (holders, slots) = self.of(task), self.layout.holders(task)
            together = max(1, _ENTRIES // len(own))
            for start in range(0, len(holders), together):
                part = slice(start, start + together)
                losses = own.losses(self.margins(task, coordinates, holders[part], slots[part], part))
                mean[holders[part], task] = losses.mean(dim=0)
                error[holders[part], task] = losses.std(dim=0) / len(own) ** 0.5 if len(own) > 1 else torch.nan
        return mean, error
