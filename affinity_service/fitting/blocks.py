"""Examples grouped by task, and the pass over them that all subsets share.

The fits never gather the examples of a subset. Rows lie sorted by task; the weights of all subsets that contain
a task are stacked, and one product per task gives the logits of all of them, one more the gradients.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, softplus

from affinity_service.fitting.problem import Kind, Members, Rows
from affinity_service.fitting.products import affine

# Elements of one intermediate (subsets × rows): on a CPU it should stay in the cache of a core, on a GPU it
# should fill the device.
_WORK = {"cpu": 1 << 18, "cuda": 1 << 26}
_ROWS_PER_BLOCK = {"cpu": 512, "cuda": 1 << 18}
_MIN_PIECE = 64
# oneDNN compiles a kernel for every new shape: shapes should recur as subsets leave.
_SLOT_MULTIPLE = 16
# A padded logistic row has zero features and this offset: its loss and gradient vanish.
_PADDING_OFFSET = -80.0


def work_size(device: torch.device) -> int:
    """How many elements an intermediate should have on the device."""
    return _WORK.get(device.type, _WORK["cuda"])


@dataclass(frozen=True)
class Loss:
    """Losses of a kind as functions of u (see TaskBlock), and their first and second derivatives."""

    values: Callable[[Tensor], Tensor]
    slopes: Callable[[Tensor], Tensor]
    curvatures: Callable[[Tensor], Tensor]


LOSSES: dict[Kind, Loss] = {
    "logistic": Loss(softplus, torch.sigmoid, lambda u: torch.sigmoid(u) * torch.sigmoid(-u)),
    "squared": Loss(lambda u: 0.5 * u.square(), lambda u: u, torch.ones_like),
}


@dataclass(frozen=True)
class TaskBlock:
    """B tasks of one kind and similar size. rows (B, n, d) and offsets (B, n) hold, for a logistic task,
    −s·features and −s·margin with s = ±1, so that u = rows·w + offset has loss softplus(u) and slope σ(u); for a
    squared task features and margin − target, so that u has loss u²/2 and slope u. counts (B,) are true row counts.
    """

    tasks: tuple[int, ...]
    kind: Kind
    rows: Tensor
    offsets: Tensor
    counts: Tensor

    @property
    def padded(self) -> bool:
        return len(self.tasks) > 1

    def scores(self, x: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """u (B, m, n') of weights x (B, m, d) on the rows from start to stop."""
        rows, offsets = self.rows[:, start:stop], self.offsets[:, start:stop]
        if len(self.tasks) == 1:
            return affine(x[0], rows[0], offsets[0])[None]
        return affine(x, rows, offsets)

    def products(self, x: Tensor) -> Tensor:
        """rows·w without the offsets, (B, m, n)."""
        return affine(x[0], self.rows[0])[None] if len(self.tasks) == 1 else affine(x, self.rows)

    def back(self, slopes: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """slopes (B, m, n') times the rows: (B, m, d)."""
        rows = self.rows[:, start:stop].transpose(1, 2)
        if len(self.tasks) == 1:
            return affine(slopes[0], rows[0])[None]
        return affine(slopes, rows)

    def evaluate(self, x: Tensor, gradients: Tensor, losses: Tensor | None = None) -> None:
        """Writes mean gradients (B, m, d) and, if wanted, mean losses (B, m) at weights x (B, m, d)."""
        loss, n = LOSSES[self.kind], self.rows.shape[1]
        piece = max(_MIN_PIECE, work_size(x.device) // max(1, x.shape[0] * x.shape[1]))
        total = gradient = None
        for start in range(0, n, piece):
            u = self.scores(x, start, start + piece)
            if losses is not None:
                part = loss.values(u).sum(-1)
                total = part if total is None else total.add_(part)
            part = self.back(loss.slopes(u), start, start + piece)
            gradient = part if gradient is None else gradient.add_(part)
        if gradient is not None:
            torch.div(gradient, self.counts[:, None, None], out=gradients)
        if losses is not None and total is not None:
            torch.div(total, self.counts[:, None], out=losses)


def build_blocks(rows: Rows, used: Sequence[int], dtype: torch.dtype) -> list[TaskBlock]:
    """Blocks of the used tasks in the given dtype; this is the only copy that is made of the features."""
    order = torch.argsort(rows.task, stable=True)
    counts = torch.bincount(rows.task, minlength=rows.n_tasks).tolist()
    starts = [0]
    for count in counts:
        starts.append(starts[-1] + count)
    limit = _ROWS_PER_BLOCK.get(rows.features.device.type, _ROWS_PER_BLOCK["cuda"])
    blocks = []
    for group in _groups(used, counts, rows.kinds, limit):
        n = max(counts[task] for task in group)
        kind = rows.kinds[group[0]]
        shape = (len(group), n)
        block_rows = rows.features.new_zeros((*shape, rows.features.shape[1]), dtype=dtype)
        offsets = rows.features.new_full(shape, _PADDING_OFFSET if kind == "logistic" else 0.0, dtype=dtype)
        for b, task in enumerate(group):
            index = order[starts[task] : starts[task + 1]]
            own, margins, targets = rows.features[index], rows.margins[index], rows.targets[index]
            if kind == "logistic":
                sign = 1 - 2 * targets
                torch.mul(own, sign[:, None].to(own.dtype), out=block_rows[b, : len(index)])
                offsets[b, : len(index)] = sign * margins
            else:
                block_rows[b, : len(index)] = own
                offsets[b, : len(index)] = margins.to(torch.float64) - targets.to(torch.float64)
        size = torch.tensor([counts[task] for task in group], dtype=dtype, device=rows.features.device)
        blocks.append(TaskBlock(tuple(group), kind, block_rows, offsets, size))
    return blocks


def _groups(used: Sequence[int], counts: Sequence[int], kinds: Sequence[Kind], limit: int) -> list[list[int]]:
    """Tasks of one kind and nearly one size together, up to `limit` rows: small tasks share a batched product."""
    groups: list[list[int]] = []
    for task in sorted(used, key=lambda t: (kinds[t], counts[t], t)):
        last = groups[-1] if groups else None
        if (
            last is not None
            and kinds[last[0]] == kinds[task]
            and counts[task] <= 1.25 * counts[last[0]]
            and counts[task] * (len(last) + 1) <= limit
        ):
            last.append(task)
        else:
            groups.append([task])
    return groups


class Layout:
    """Where the weights of each (subset, task) pair lie when they are stacked by task.

    A block of B tasks, of which the most frequent one is in about m subsets, takes B·m consecutive slots; slots that
    stay empty repeat subset 0 and are never read.
    """

    def __init__(self, blocks: Sequence[TaskBlock], members: Members, device: torch.device) -> None:
        tasks = [task for block in blocks for task in block.tasks]
        position = torch.full((max(tasks) + 1,), -1)
        position[torch.tensor(tasks)] = torch.arange(len(tasks))
        pair_position = position[members.task]
        count = torch.bincount(pair_position, minlength=len(tasks))
        slots: list[Tensor] = []
        self._parts: list[tuple[int, int, int, int]] = []
        total = first = 0
        for number, block in enumerate(blocks):
            n_tasks = len(block.tasks)
            m = int(count[first : first + n_tasks].max())
            m += -m % _SLOT_MULTIPLE if m > 2 * _SLOT_MULTIPLE else 0
            slots.append(total + m * torch.arange(n_tasks))
            if m:
                self._parts.append((number, total, n_tasks, m))
            total += n_tasks * m
            first += n_tasks
        order = torch.argsort(pair_position, stable=True)
        begin = torch.cumsum(count, 0) - count
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order)) - begin[pair_position[order]]
        slot = torch.cat(slots)[pair_position] + rank
        subset_of_slot = torch.zeros(total, dtype=torch.int64)
        subset_of_slot[slot] = members.subset
        self.positions = pair_position.to(device)
        self.slot = slot.to(device)
        self.subset_of_slot = subset_of_slot.to(device)
        self._buffers: dict[torch.dtype, tuple[Tensor, Tensor, list[tuple[int, Tensor, Tensor]]]] = {}
        self.offsets = (torch.cumsum(members.size, 0) - members.size).to(device)

    def stack(self, x: Tensor) -> tuple[Tensor, list[tuple[int, Tensor, Tensor]]]:
        """Stacks the weights (M, d) of subsets by task.

        Returns a tensor (slots, d) for what is made of them, and per block its number, its weights (B, m, d) and
        its part of that tensor. The next call overwrites all: fresh tensors cost page faults of the order of a product.
        """
        if x.dtype not in self._buffers:
            shape = (len(self.subset_of_slot), x.shape[1])
            stacked, out = x.new_empty(shape), x.new_empty(shape)
            views = [
                (k, stacked[i : i + b * m].view(b, m, -1), out[i : i + b * m].view(b, m, -1))
                for k, i, b, m in self._parts
            ]
            self._buffers[x.dtype] = (stacked, out, views)
        stacked, out, views = self._buffers[x.dtype]
        torch.index_select(x, 0, self.subset_of_slot, out=stacked)
        return out, views

    def mean(self, per_slot: Tensor) -> Tensor:
        """(slots, d) → (M, d): mean over the tasks of each subset. The order of summation is fixed."""
        return embedding_bag(self.slot, per_slot, self.offsets, mode="mean")

    def mean_of_tasks(self, per_task: Tensor) -> Tensor:
        """(tasks in the order of the blocks, d) → (M, d): mean over the tasks of each subset."""
        return embedding_bag(self.positions, per_task, self.offsets, mode="mean")


def evaluate(
    blocks: Sequence[TaskBlock], layout: Layout, x: Tensor, with_losses: bool = True
) -> tuple[Tensor | None, Tensor]:
    """Per subset the mean over its tasks of mean losses (M,) and the gradient (M, d), without the penalty."""
    out, parts = layout.stack(x)
    losses = []
    for number, weights, gradients in parts:
        loss = weights.new_empty(weights.shape[:2]) if with_losses else None
        blocks[number].evaluate(weights, gradients, loss)
        if loss is not None:
            losses.append(loss.view(-1, 1))
    return layout.mean(torch.cat(losses))[:, 0] if with_losses else None, layout.mean(out)
