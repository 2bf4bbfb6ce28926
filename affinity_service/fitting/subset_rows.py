"""Rows of one subset's tasks, one below the other: for questions asked one at a time.

``MemberRows`` goes from task to task, as many subsets share them. One subset has one displacement for all of its rows,
so all but the products with a task's own features are single operations on all rows together, and no rows are copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from affinity_service.fitting.subset_weights import SubsetWeights
from affinity_service.fitting.task_rows import TaskRows


class SubsetRows:
    """Margins of the rows of the one subset of a layout.

    Parameters
    ----------
    rows : per task its rows; None for a task without any.
    """

    def __init__(self, rows: Sequence[TaskRows | None], layout: SubsetWeights) -> None:
        (subset,) = layout.subsets
        self.layout, self.tasks = layout, len(rows)
        members = [(slot, task, own) for slot, task in enumerate(subset) if (own := rows[task]) is not None]
        self.slots, self.members = [slot for slot, _, _ in members], [task for _, task, _ in members]
        self.rows = [own for _, _, own in members]
        ends = torch.tensor([0, *map(len, self.rows)]).cumsum(0).tolist()
        self._parts = [slice(*both) for both in pairwise(ends)]
        self.margins = torch.cat([own.margins for own in self.rows])
        self.targets = torch.cat([own.targets for own in self.rows])
        self._number = torch.repeat_interleave(
            torch.arange(len(self.rows)), torch.tensor([len(own) for own in self.rows])
        ).to(self.margins.device)
        sizes = torch.tensor([len(own) for own in self.rows], device=self.margins.device)
        # What a row counts in the mean over the subset's tasks of their means.
        self._counts = sizes.to(self.margins.dtype)
        self.weight = (1 / (len(subset) * sizes.to(self.margins.dtype)))[self._number]
        squared = torch.tensor([own.squared for own in self.rows], device=self.margins.device)
        self._squared = squared[self._number] if any(own.squared for own in self.rows) else None
        self._base = self._response(self.margins)
        self._along: Tensor | None = None
        if layout.means is not None:
            products = [own.products for own in self.rows]
            assert all(own is not None for own in products), "rows beside means have products with them"
            first = torch.zeros(1, dtype=torch.long, device=self.margins.device)
            self._along = layout.means.features(torch.cat(products), first)[0]  # type: ignore[arg-type]

    def at(self, c: Tensor) -> Tensor:
        """(n,) margins of all rows at coordinates (d + S·h + m,)."""
        z, own = torch.empty_like(self.margins), self.layout.by_slot(c)
        for slot, rows, part in zip(self.slots, self.rows, self._parts, strict=True):
            torch.addmv(self.margins[part], rows.features, own[slot], out=z[part])
        return z if self._along is None else z.addmv_(self._along, c[self.layout.first_mean :])

    def sums(self, z: Tensor) -> Tensor:
        """(d + S·h + m,) sums Φᵀr over the rows as they count in the subset's loss, where r is by how much the slopes
        at margins z (n,) differ from those at the base model."""
        residuals = (self._response(z) - self._base).mul_(self.weight)
        total = z.new_zeros(self.layout.coordinates)
        found = z.new_zeros(self.layout.slots or 1, self.rows[0].features.shape[1])
        for slot, rows, part in zip(self.slots, self.rows, self._parts, strict=True):
            if self.layout.slots:
                torch.mv(rows.features.T, residuals[part], out=found[slot])
            else:
                found[0].addmv_(rows.features.T, residuals[part])
        self.layout.add_slots(total, found)
        if self._along is not None:
            torch.mv(self._along.T, residuals, out=total[self.layout.first_mean :])
        return total

    def mean_square(self, change: Tensor) -> Tensor:
        """() of changes (n,) of margins, as rows count in the subset's loss."""
        return torch.dot(change.square(), self.weight)

    def losses(self, coordinates: Tensor) -> tuple[Tensor, Tensor]:
        """As ``MemberRows.losses``, (1, T) each, at coordinates (1, …)."""
        z = self.at(coordinates[0])
        losses = -F.logsigmoid((2 * self.targets - 1) * z)
        if self._squared is not None:
            losses = torch.where(self._squared, 0.5 * (z - self.targets).square(), losses)
        mean = z.new_full((1, self.tasks), torch.nan)
        error = mean.clone()
        means = self._sums(losses) / self._counts
        squares = self._sums((losses - means[self._number]).square())
        mean[0, self.members] = means
        # Of a single example nothing is known: 0 / 0.
        error[0, self.members] = (squares / (self._counts - 1) / self._counts).sqrt()
        return mean, error

    def _sums(self, values: Tensor) -> Tensor:
        """Of rows (n,), by task."""
        return values.new_zeros(len(self.rows)).index_add_(0, self._number, values)

    def _response(self, z: Tensor) -> Tensor:
        """The slope of the loss up to the target."""
        slopes = torch.sigmoid(z)
        return slopes if self._squared is None else torch.where(self._squared, z, slopes)
