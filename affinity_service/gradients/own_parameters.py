"""Parameters that one task has for itself, its head: among many tasks they are coordinates of their own.

The gradients of hundreds of heads are orthogonal to each other: no basis of a few hundred directions holds them all.
A row's gradient by its own head, though, is a few dozen numbers, kept as they are behind its coordinates in the basis
of the shared parameters; and a subset of tasks moves no other heads than its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from affinity_service.config import LARGEST_HEAD, MANY_TASKS, Config, GradientConfig
from affinity_service.gradients.layer_factors import LayeredSubspace, LayerFactors
from affinity_service.gradients.per_example import GradientBlock
from affinity_service.gradients.reductions import Reduction, build_reduction
from affinity_service.gradients.reductions.subspace import Subspace
from affinity_service.gradients.weight_space import WeightSpace
from affinity_service.models.heads import TaskHeads, task_heads


def heads_apart(config: Config, model: nn.Module, tasks: int) -> bool:
    """Whether features keep the gradient by the row's own head as it is, beside the coordinates of the rest, and every
    subset has its own tasks' means: with few tasks one basis holds all of it, and a large head is no small part of a
    row. A language model has no heads, and a basis in two steps, which no means fit into."""
    if config.gradients.reduction != "subspace":
        return False
    found = [module for module in model.modules() if isinstance(module, TaskHeads)]
    if not found:
        return True
    if len(found) != 1 or config.gradients.layers:
        return False
    largest = max(sum(part.numel() for part in found[0].head(task)) for task in range(tasks))
    return tasks > MANY_TASKS and largest <= LARGEST_HEAD


@dataclass(frozen=True)
class OwnParameters:
    """Columns of a weight space by who has them.

    Attributes
    ----------
    shared : (p_s,) columns of the parameters outside the heads, ascending.
    own : (T, h) columns of each task's head; p, which is no column, where a head has fewer than h parameters.
    """

    shared: Tensor
    own: Tensor

    @classmethod
    def of(cls, space: WeightSpace, heads: str | None, tasks: int) -> OwnParameters:
        """heads : what the names of the heads' parameters begin with; None where there are none."""
        if heads is None:
            return cls(torch.arange(space.size), torch.zeros(tasks, 0, dtype=torch.long))
        columns = [
            torch.cat([_columns(space, heads + name) for name in TaskHeads.names(task)]) for task in range(tasks)
        ]
        own = torch.nn.utils.rnn.pad_sequence(columns, batch_first=True, padding_value=space.size)
        return cls(shared_columns(own, space.size), own)


def shared_columns(own: Tensor, size: int) -> Tensor:
    """(p_s,) of `size` columns those that no task has for itself; own (T, h) as in ``OwnParameters``."""
    mask = torch.ones(size, dtype=torch.bool, device=own.device)
    mask[own[own < size]] = False
    return mask.nonzero()[:, 0]


def heads_prefix(model: nn.Module) -> str | None:
    """What the names of the heads' parameters begin with; None where there are none."""
    return task_heads(model)[0] if any(isinstance(module, TaskHeads) for module in model.modules()) else None


def shared_space(space: WeightSpace, heads: str | None) -> WeightSpace:
    """The parameters outside the heads, in the same order."""
    if heads is None:
        return space
    return WeightSpace({name: shape for name, shape in space.shapes.items() if not name.startswith(heads)})


class SubspaceAndHead(Reduction):
    """g ↦ (Bᵀ(s∘g) of the shared parameters, s∘g of the row's own head, products of the shared s∘g with the means
    outside the basis).

    Parameters
    ----------
    basis : (p_s, d). outside : (T, p_s). scale : (p,) of the whole space. own : (T, h), see ``OwnParameters``.
    heads : what the names of the heads' parameters begin with.
    """

    def __init__(
        self, space: WeightSpace, heads: str, basis: Tensor, outside: Tensor, scale: Tensor, own: Tensor
    ) -> None:
        rest = shared_space(space, heads)
        self._shared = Subspace(rest, torch.cat([basis, outside.T], dim=1), scale[shared_columns(own, len(scale))])
        self._scale, self._space = scale, space
        self._width, self.products = basis.shape[1], len(outside)
        self._first = {}
        for task in range(len(own)):
            start = self._width
            for name in TaskHeads.names(task):
                self._first[heads + name] = start
                columns = space.slices[heads + name]
                start += columns.stop - columns.start
        self.dimension = self._width + own.shape[1]

    def add(self, block: GradientBlock, total: Tensor) -> None:
        shared = self._shared.reduced(block)
        if shared is not None:
            total[block.places, : self._width] += shared[:, : self._width]
            total[block.places, self.dimension :] += shared[:, self._width :]
        if block.name in self._first:
            values = block.dense() * self._scale[self._space.slices[block.name]]
            first = self._first[block.name]
            total[block.places, first : first + values.shape[1]] += values


class SubspaceAndMeans(Reduction):
    """g ↦ (Bᵀ(s∘g), products of s∘g with the means outside the basis), of a model without heads."""

    def __init__(self, subspace: Reduction, means: Subspace) -> None:
        self._subspace, self._means = subspace, means
        self.dimension, self.products = subspace.dimension, means.dimension

    def add(self, block: GradientBlock, total: Tensor) -> None:
        self._subspace.add(block, total[:, : self.dimension])
        self._means.add(block, total[:, self.dimension :])


def reduction_of(
    settings: GradientConfig,
    space: WeightSpace,
    model: nn.Module,
    anchor: Mapping[str, Tensor],
    device: str | torch.device,
) -> Reduction:
    """The reduction that a study's features were made with; `anchor` as ``read_anchor`` gives it."""
    scale = anchor["scale"].to(device) if settings.metric == "optimizer" or "basis" in anchor else None
    basis = anchor["basis"].to(device) if "basis" in anchor else None
    if "own" in anchor:
        assert basis is not None, "heads lie apart beside a basis"
        assert scale is not None, "and its metric"
        outside, own = (anchor[name].to(device) for name in ("outside", "own"))
        prefix = heads_prefix(model)
        if prefix is not None:
            return SubspaceAndHead(space, prefix, basis, outside, scale, own)
        factors = LayerFactors.from_tensors(anchor, device)
        shared = Subspace(space, basis, scale) if factors is None else LayeredSubspace(factors, basis, scale)
        return SubspaceAndMeans(shared, Subspace(space, outside.T, scale))
    return build_reduction(settings, space, scale, basis)


def _columns(space: WeightSpace, name: str) -> Tensor:
    columns = space.slices[name]
    return torch.arange(columns.start, columns.stop)
