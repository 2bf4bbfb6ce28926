"""Weights of subsets stacked by task, and the pass over the examples that works on the stacks."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from affinity_service.fitting.blocks import TaskBlock
from affinity_service.fitting.problem import Members

# oneDNN compiles a kernel for every new shape: shapes should recur as subsets leave.
_SLOT_MULTIPLE = 16


@dataclass(frozen=True)
class Part:
    """B tasks in m slots each: their weights x (B, m, d), and the place y (B, m, d) for what is made of them."""

    number: int
    x: Tensor
    y: Tensor


@dataclass(frozen=True)
class Stack:
    """Stacked weights. out (slots, d) holds every y. `blocks` has a part per block, with the number of the block;
    `runs` has larger parts, with their number in `Layout.runs`.
    """

    weights: Tensor
    out: Tensor
    blocks: list[Part]
    runs: list[Part]


class Layout:
    """Where the weights of each (subset, task) pair lie when they are stacked by task.

    A block of B tasks, of which the most frequent one is in about m subsets, takes B·m consecutive slots; slots that
    stay empty repeat subset 0 and are never read. Blocks lie in the order of m: those with the same m form a run, which
    can share a batched product. `runs` lists their tasks as positions, that is, places in the order of the blocks.
    """

    def __init__(self, blocks: Sequence[TaskBlock], members: Members, device: torch.device) -> None:
        tasks = [task for block in blocks for task in block.tasks]
        ends = list(accumulate(len(block.tasks) for block in blocks))
        position = torch.full((max(tasks) + 1,), -1)
        position[torch.tensor(tasks)] = torch.arange(len(tasks))
        pair_position = position[members.task]
        count = torch.bincount(pair_position, minlength=len(tasks))
        most = [int(count[end - len(block.tasks) : end].max()) for block, end in zip(blocks, ends, strict=True)]
        widths = [m + (-m % _SLOT_MULTIPLE if m > 2 * _SLOT_MULTIPLE else 0) for m in most]
        order = sorted((number for number, m in enumerate(widths) if m), key=lambda number: widths[number])
        self.runs: list[list[int]] = []
        # Block (or run), first slot, tasks, slots per task.
        self._blocks: list[tuple[int, int, int, int]] = []
        self._runs: list[tuple[int, int, int, int]] = []
        first_slot = torch.zeros(len(tasks), dtype=torch.int64)
        total = 0
        for m, run in groupby(order, key=lambda number: widths[number]):
            begin = total
            positions: list[int] = []
            for number in run:
                b = len(blocks[number].tasks)
                own = range(ends[number] - b, ends[number])
                self._blocks.append((number, total, b, m))
                first_slot[own.start : own.stop] = total + m * torch.arange(b)
                positions.extend(own)
                total += b * m
            self._runs.append((len(self.runs), begin, len(positions), m))
            self.runs.append(positions)
        by_task = torch.argsort(pair_position, stable=True)
        before = torch.cumsum(count, 0) - count
        rank = torch.empty_like(by_task)
        rank[by_task] = torch.arange(len(by_task)) - before[pair_position[by_task]]
        slot = first_slot[pair_position] + rank
        subset_of_slot = torch.zeros(total, dtype=torch.int64)
        subset_of_slot[slot] = members.subset
        self.slot = slot.to(device)
        self._positions = pair_position.to(device)
        self._subset_of_slot = subset_of_slot.to(device)
        self._offsets = (torch.cumsum(members.size, 0) - members.size).to(device)
        self._stacks: dict[torch.dtype, Stack] = {}

    def stack(self, x: Tensor) -> Stack:
        """Stacks the weights (M, d) of subsets by task.

        The next call for the same type overwrites all: fresh tensors cost page faults of the order of a product.
        """
        if x.dtype not in self._stacks:
            shape = (len(self._subset_of_slot), x.shape[1])
            weights, out = x.new_empty(shape), x.new_empty(shape)

            def part(number: int, first: int, b: int, m: int) -> Part:
                end = first + b * m
                return Part(number, weights[first:end].view(b, m, -1), out[first:end].view(b, m, -1))

            blocks, runs = [part(*place) for place in self._blocks], [part(*place) for place in self._runs]
            self._stacks[x.dtype] = Stack(weights, out, blocks, runs)
        stack = self._stacks[x.dtype]
        torch.index_select(x, 0, self._subset_of_slot, out=stack.weights)
        return stack

    def mean(self, per_slot: Tensor) -> Tensor:
        """(slots, d) → (M, d): mean over the tasks of each subset. The order of summation is fixed."""
        return embedding_bag(self.slot, per_slot, self._offsets, mode="mean")

    def mean_of_tasks(self, per_task: Tensor) -> Tensor:
        """(tasks in the order of the blocks, d) → (M, d): mean over the tasks of each subset."""
        return embedding_bag(self._positions, per_task, self._offsets, mode="mean")


def evaluate(
    blocks: Sequence[TaskBlock], layout: Layout, x: Tensor, with_losses: bool = True
) -> tuple[Tensor | None, Tensor]:
    """Per subset the mean over its tasks of mean losses (M,) and the gradient (M, d), without the penalty."""
    stack = layout.stack(x)
    losses = []
    for part in stack.blocks:
        loss = x.new_empty(part.x.shape[:2]) if with_losses else None
        blocks[part.number].evaluate(part.x, part.y, loss)
        if loss is not None:
            losses.append(loss.view(-1, 1))
    return layout.mean(torch.cat(losses))[:, 0] if with_losses else None, layout.mean(stack.out)
