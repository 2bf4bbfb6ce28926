"""Examples grouped by task, and the pass over them that all subsets share.

The fits never gather the examples of a subset. Rows lie sorted by task; the weights of all subsets that contain
a task are stacked, and one product per task gives the logits of all of them, one more the gradients.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import softplus

from affinity_service.fitting.problem import Kind, Rows
from affinity_service.fitting.products import affine

# Elements of one intermediate (subsets × rows): on a CPU it should stay in the cache of a core, on a GPU it
# should fill the device.
_WORK = {"cpu": 1 << 18, "cuda": 1 << 26}
_ROWS_PER_BLOCK = {"cpu": 512, "cuda": 1 << 18}
_MIN_PIECE = 64
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

    def scores(self, x: Tensor) -> Tensor:
        """u (B, m, n) of weights x (B, m, d)."""
        if len(self.tasks) == 1:
            return affine(x[0], self.rows[0], self.offsets[0])[None]
        return affine(x, self.rows, self.offsets)

    def products(self, x: Tensor) -> Tensor:
        """rows·w without the offsets, (B, m, n)."""
        return affine(x[0], self.rows[0])[None] if len(self.tasks) == 1 else affine(x, self.rows)

    def back(self, slopes: Tensor) -> Tensor:
        """slopes (B, m, n) times the rows: (B, m, d)."""
        if len(self.tasks) == 1:
            return affine(slopes[0], self.rows[0].t())[None]
        return torch.bmm(slopes, self.rows)

    def pieces(self, rows: int) -> list["TaskBlock"]:
        """Blocks of at most so many rows per task that together are this one; counts stay those of the tasks."""
        n = self.rows.shape[1]
        if rows >= n:
            return [self]
        return [
            replace(self, rows=self.rows[:, start : start + rows], offsets=self.offsets[:, start : start + rows])
            for start in range(0, n, rows)
        ]

    def evaluate(self, x: Tensor, gradients: Tensor, losses: Tensor | None = None) -> None:
        """Writes mean gradients (B, m, d) and, if wanted, mean losses (B, m) at weights x (B, m, d)."""
        loss = LOSSES[self.kind]
        total = gradient = None
        for piece in self.pieces(max(_MIN_PIECE, work_size(x.device) // (x.shape[0] * x.shape[1]))):
            u = piece.scores(x)
            if losses is not None:
                part = loss.values(u).sum(-1)
                total = part if total is None else total.add_(part)
            part = piece.back(loss.slopes(u))
            gradient = part if gradient is None else gradient.add_(part)
        if gradient is not None:
            torch.div(gradient, self.counts[:, None, None], out=gradients)
        if losses is not None and total is not None:
            torch.div(total, self.counts[:, None], out=losses)


def build_blocks(rows: Rows, used: Sequence[int], dtype: torch.dtype) -> list[TaskBlock]:
    """Blocks of the used tasks in the given dtype; this is the only copy that is made of the features."""
    counts = torch.bincount(rows.task, minlength=rows.n_tasks).tolist()
    starts = [0]
    for count in counts:
        starts.append(starts[-1] + count)
    # Rows that lie sorted already are sliced, not gathered.
    is_sorted = bool((rows.task[1:] >= rows.task[:-1]).all())
    order = torch.argsort(rows.task, stable=True)
    places = [slice(*ends) if is_sorted else order[slice(*ends)] for ends in pairwise(starts)]
    limit = _ROWS_PER_BLOCK.get(rows.features.device.type, _ROWS_PER_BLOCK["cuda"])
    blocks = []
    for group in _groups(used, counts, rows.kinds, limit):
        n = max(counts[task] for task in group)
        kind = rows.kinds[group[0]]
        shape = (len(group), n)
        block_rows = rows.features.new_empty((*shape, rows.features.shape[1]), dtype=dtype)
        offsets = rows.features.new_full(shape, _PADDING_OFFSET if kind == "logistic" else 0.0, dtype=dtype)
        for b, task in enumerate(group):
            place, end = places[task], counts[task]
            own, margins, targets = rows.features[place], rows.margins[place], rows.targets[place]
            if kind == "logistic":
                sign = 1 - 2 * targets
                torch.mul(own, sign[:, None].to(own.dtype), out=block_rows[b, :end])
                offsets[b, :end] = sign * margins
            else:
                block_rows[b, :end] = own
                offsets[b, :end] = margins.to(torch.float64) - targets.to(torch.float64)
            block_rows[b, end:] = 0
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
