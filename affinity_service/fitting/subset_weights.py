"""The weights that each of many subsets moves, as one matrix: those that all share, then those of its own tasks.

A subset is known by its coordinates: d in the basis that all share, then by its tasks' heads, then along its tasks'
means outside the basis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from affinity_service.fitting.own_means import OwnMeans
from affinity_service.gradients.basis import Basis, stored_basis
from affinity_service.gradients.own_parameters import shared_columns

Table = Literal["mean", "square", "squared_mean"]


@dataclass(frozen=True)
class Anchor:
    """The base model as the path sees it.

    Attributes
    ----------
    weights : (p,) of the base model.
    scale : (p,) the metric s of the features.
    basis : orthonormal, features = Bᵀ(s∘gradient) of the shared weights; None for the identity (d = p).
    mean, square : (T, p), per task the mean over training rows of the loss gradient, and of its squared entries.
    own : (T, h) columns of the weights that one task alone has, whose scaled gradients follow the d coordinates as they
        are; p where a task has fewer. None where all weights are shared (p_s = p).
    outside : (W, p_s), beside ``own``: means outside the basis, see ``gradients/outside_means.py``.
    outside_of : (T, w) rows of it that a subset with the task has; W where a task has fewer.
    """

    weights: Tensor
    scale: Tensor
    basis: Basis | None
    mean: Tensor
    square: Tensor
    own: Tensor | None = None
    outside: Tensor | None = None
    outside_of: Tensor | None = None

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], device: str | torch.device) -> Anchor:
        """From tensors by attribute name, as the gradient stage stores them: a row of `outside` per task, where no
        `outside_of` says otherwise."""
        names = [name for name in cls.__dataclass_fields__ if name in tensors and name != "basis"]
        found = {name: tensors[name].to(device) for name in names}
        if "outside" in found:
            found.setdefault("outside_of", torch.arange(len(found["outside"]))[:, None])
        return cls(basis=stored_basis(tensors, device), **found)

    def of_shared(self) -> Anchor:
        """Of the shared weights alone, as if they were all."""
        tables = (table[:, self.shared] for table in (self.mean, self.square))
        return Anchor(self.weights[self.shared], self.scale[self.shared], self.basis, *tables)

    def table(self, name: Table) -> Tensor:
        """(T, p) one of the numbers per task and weight."""
        return self.mean**2 if name == "squared_mean" else getattr(self, name)

    @cached_property
    def shared(self) -> Tensor:
        """(p_s,) columns of the weights outside ``own``."""
        none = torch.zeros(0, 0, dtype=torch.long, device=self.weights.device)
        return shared_columns(none if self.own is None else self.own, len(self.weights))

    @cached_property
    def tables(self) -> dict[Table, tuple[Tensor, Tensor]]:
        """Every table's part of the shared weights (T, p_s) and of each task's own (T + 1, h), 0 in the last row."""
        assert self.own is not None, "only where a task has weights of its own"
        inside = self.own < len(self.weights)
        found: dict[Table, tuple[Tensor, Tensor]] = {}
        for name in ("mean", "square", "squared_mean"):
            if name == "squared_mean":
                found[name] = found["mean"][0] ** 2, found["mean"][1] ** 2
                continue
            table = self.table(name)
            own = table.gather(1, self.own.clamp(max=len(self.weights) - 1)).masked_fill(~inside, 0)
            found[name] = table[:, self.shared], F.pad(own, (0, 0, 0, 1))
        return found

    def width(self, tasks: int) -> int:
        """Weights that a subset of so many tasks moves."""
        return len(self.weights) if self.own is None else len(self.shared) + tasks * self.own.shape[1]

    def means_of(self, subset: Sequence[int]) -> list[int]:
        """Rows of `outside` that a subset has."""
        return [row for task in subset for row in self._outside_rows[task]]

    @cached_property
    def _outside_rows(self) -> list[list[int]]:
        if self.outside is None or self.outside_of is None:
            return [[] for _ in range(len(self.mean))]
        return [[row for row in rows if row < len(self.outside)] for rows in self.outside_of.tolist()]

    @property
    def dimension(self) -> int:
        """d, coordinates of the shared weights."""
        return len(self.scale) if self.basis is None else self.basis.width

    def displacement(self, c: Tensor) -> Tensor:
        """(M, d) coordinates → (M, p), the displacement within the basis that has them."""
        return (c if self.basis is None else self.basis.lift(c)) * self.scale


class SubsetWeights:
    """What M subsets have of an anchor: P = p_s + S·h columns, S the tasks of the largest subset.

    Attributes
    ----------
    width : P. coordinates : d + S·h + m, what a subset is known by in the features.
    first_mean : d + S·h, where the coordinates along its own means begin.
    means : those of the subsets, where the anchor has any.
    """

    def __init__(self, anchor: Anchor, subsets: Sequence[Sequence[int]], means: OwnMeans | None = None) -> None:
        """means : as made before for the same subsets; made here when None."""
        self.anchor, self.subsets, tasks = anchor, subsets, len(anchor.mean)
        device = anchor.weights.device
        holders: dict[int, list[tuple[int, int]]] = {}
        for number, subset in enumerate(subsets):
            for slot, task in enumerate(subset):
                holders.setdefault(task, []).append((number, slot))
        self._holders = {
            task: (torch.tensor([n for n, _ in own], device=device), torch.tensor([s for _, s in own], device=device))
            for task, own in sorted(holders.items())
        }
        self.share = torch.zeros(len(subsets), tasks, device=device)
        for number, subset in enumerate(subsets):
            self.share[number, list(subset)] = 1 / len(subset)
        d = anchor.dimension
        self.means: OwnMeans | None = None
        if anchor.own is None:
            self.head, self.slots, self.width = 0, 0, len(anchor.weights)
            self.coordinates = self.first_mean = d
            return
        self.head, self.slots = anchor.own.shape[1], max(map(len, subsets))
        p = len(anchor.weights)
        self._shared = anchor.shared
        self._task_in = torch.full((len(subsets), self.slots), tasks, device=device)
        for number, subset in enumerate(subsets):
            self._task_in[number, : len(subset)] = torch.tensor(list(subset), device=device)
        # One task more, which has no weights, fills the slots that stay empty.
        self.columns = F.pad(anchor.own, (0, 0, 0, 1), value=p)[self._task_in].flatten(1)
        self.width = anchor.width(self.slots)
        self._scale_shared = anchor.scale[self._shared]
        self.coordinates = self.first_mean = d + self.slots * self.head
        if anchor.outside is not None:
            columns = [anchor.means_of(subset) for subset in subsets]
            self.means = means or OwnMeans.of(anchor.outside, self._scale_shared, columns)
            self.coordinates += self.means.width
        self._scale_own = torch.cat([anchor.scale, anchor.scale.new_ones(1)])[self.columns]

    def reordered(self, order: Tensor) -> SubsetWeights:
        """The same subsets in another order, with the same coordinates."""
        means = None if self.means is None else self.means.taken(order)
        return SubsetWeights(self.anchor, [self.subsets[i] for i in order.tolist()], means)

    def of(self, vector: Tensor) -> Tensor:
        """(p,) → (M, P), 0 in empty slots; (P,) to be broadcast where all weights are shared."""
        if self.anchor.own is None:
            return vector
        own = torch.cat([vector, vector.new_zeros(1)])[self.columns]
        return torch.cat([vector[self._shared].expand(len(own), -1), own], dim=1)

    def mixed(self, factors: Tensor, name: Table) -> Tensor:
        """(M, P) Σ_t factors[m, t] · table[t]."""
        if self.anchor.own is None:
            return factors @ self.anchor.table(name)
        shared, own = self.anchor.tables[name]
        factor = F.pad(factors, (0, 1)).gather(1, self._task_in)
        return torch.cat([factors @ shared, (own[self._task_in] * factor[:, :, None]).flatten(1)], dim=1)

    def to_coordinates(self, w: Tensor, index: Tensor | None = None) -> Tensor:
        """(m, P) displacements of all subsets, or those in `index` → (m, d + S·h + m)."""
        anchor = self.anchor
        if anchor.own is None:
            scaled = w / anchor.scale
            return scaled if anchor.basis is None else anchor.basis.project(scaled)
        assert anchor.basis is not None, "weights of one task's own lie beside a basis"
        shared = len(self._shared)
        scale = self._scale_own if index is None else self._scale_own[index]
        parts = [anchor.basis.project(w[:, :shared] / self._scale_shared), w[:, shared:] / scale]
        if self.means is not None:
            parts.append((self.means if index is None else self.means.taken(index)).coordinates(w[:, :shared]))
        return torch.cat(parts, dim=1)

    def to_gradient(self, a: Tensor, index: Tensor | None = None) -> Tensor:
        """(m, d + S·h + m) sums Φᵀr → (m, P), the gradients they stand for."""
        anchor = self.anchor
        if anchor.own is None:
            return (a if anchor.basis is None else anchor.basis.lift(a)) / anchor.scale
        assert anchor.basis is not None, "weights of one task's own lie beside a basis"
        d = anchor.dimension
        scale = self._scale_own if index is None else self._scale_own[index]
        of_shared = anchor.basis.lift(a[:, :d]) / self._scale_shared
        if self.means is not None:
            means = self.means if index is None else self.means.taken(index)
            of_shared += means.gradient(a[:, self.first_mean :])
        return torch.cat([of_shared, a[:, d : self.first_mean] / scale], dim=1)

    def whole(self, w: Tensor) -> Tensor:
        """(M, P) → (M, p)."""
        if self.anchor.own is None:
            return w
        shared, p = len(self._shared), len(self.anchor.weights)
        found = w.new_zeros(len(w), p + 1)
        found[:, self._shared] = w[:, :shared]
        return found.scatter_(1, self.columns, w[:, shared:])[:, :p]

    def tasks(self) -> Sequence[int]:
        """Those that any subset has, ascending."""
        return list(self._holders)

    def holders(self, task: int) -> tuple[Tensor, Tensor]:
        """(k,) subsets with the task, and its slot in each."""
        return self._holders[task]

    def of_task(self, c: Tensor, rows: Tensor, slots: Tensor) -> Tensor:
        """(k, d + h) coordinates that the task's features are multiplied with, of rows of c (m, d + S·h + m)."""
        if self.anchor.own is None:
            return c[rows]
        d = self.anchor.dimension
        own = c[:, d : self.first_mean].unflatten(1, (self.slots, self.head))[rows, slots]
        return torch.cat([c[rows, :d], own], dim=1)

    def add_of_task(self, total: Tensor, rows: Tensor, slots: Tensor, values: Tensor) -> None:
        """Add (k, d + h) to the places that ``of_task`` reads."""
        if self.anchor.own is None:
            total.index_add_(0, rows, values)
            return
        d = self.anchor.dimension
        total[:, :d].index_add_(0, rows, values[:, :d])
        total[:, d : self.first_mean].unflatten(1, (self.slots, self.head))[rows, slots] += values[:, d:]

    def by_slot(self, c: Tensor) -> Tensor:
        """(S or 1, d + h) coordinates that each slot's features are multiplied with, of one subset's (d + S·h + m,)."""
        if self.anchor.own is None:
            return c.expand(max(map(len, self.subsets)), -1)
        d = self.anchor.dimension
        return torch.cat([c[:d].expand(self.slots, d), c[d : self.first_mean].view(self.slots, self.head)], dim=1)

    def add_slots(self, total: Tensor, sums: Tensor) -> None:
        """Add the slots' sums (S, d + h), where all weights are shared (1, d), to the places of one subset's
        (d + S·h + m,) that ``by_slot`` reads."""
        d = self.anchor.dimension
        total[:d] += sums[:, :d].sum(dim=0)
        if self.anchor.own is not None:
            total[d : self.first_mean] += sums[:, d:].flatten()

    def stored(self, c: Tensor) -> list[NDArray[np.float32]]:
        """Of every subset its coordinates (M, …) as they are kept: d shared ones, of every task those by its head, and
        what the rows' products with the subset's means, in the order of its tasks, are multiplied with."""
        if self.anchor.own is None:
            return list(c.float().cpu().numpy())
        d, found = self.anchor.dimension, []
        whole = c.float().cpu()
        more = c[:, :0] if self.means is None else self.means.coefficients(c[:, self.first_mean :])
        for subset, row, along in zip(self.subsets, whole, more.float().cpu(), strict=True):
            parts = [row[: d + self.head * len(subset)], along[: len(self.anchor.means_of(subset))]]
            found.append(torch.cat(parts).numpy())
        return found
