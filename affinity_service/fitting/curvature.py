"""The quadratic model of every task at one common reference point, and Newton systems of subsets solved with it.

The reference is the minimiser for all tasks together (on a sample of the rows). Expanding each task there makes the
first step of every subset a Newton step that reads no example, and its curvature the preconditioner of all later
ones: on two data sets it saved half of the passes over the examples against an expansion at w = 0.
"""

import torch
from torch import Tensor

from affinity_service.fitting.blocks import LOSSES, Layout, Loss, TaskBlock
from affinity_service.fitting.problem import Kind
from affinity_service.fitting.products import affine

_REFERENCE_ROWS = 20  # rows of the sample per dimension
_REFERENCE_STEPS = 8


def reference_point(blocks: list[TaskBlock], l2: float) -> Tensor:
    """Minimiser (d,) of the mean over all tasks on a sample of their rows, to a few per cent."""
    d = blocks[0].rows.shape[2]
    n_tasks = sum(len(block.tasks) for block in blocks)
    wanted = max(16, -(-_REFERENCE_ROWS * d // n_tasks))
    # One stack of rows per kind. Evenly spaced rows: callers often sort the rows of a task by label.
    parts: dict[Kind, list[tuple[Tensor, Tensor, Tensor]]] = {}
    for block in blocks:
        n = block.rows.shape[1]
        index = torch.linspace(0, n - 1, min(n, wanted), device=block.rows.device).round().long()
        rows, offsets = block.rows[:, index].reshape(-1, d), block.offsets[:, index].reshape(-1)
        share = torch.full_like(offsets, 1 / (n_tasks * len(index)))
        parts.setdefault(block.kind, []).append((rows, offsets, share))
    samples: list[tuple[Loss, Tensor, Tensor, Tensor]] = []
    for kind, part in parts.items():
        stacked = [torch.cat(column) for column in zip(*part, strict=True)]
        samples.append((LOSSES[kind], stacked[0], stacked[1], stacked[2]))

    def objective(w: Tensor) -> Tensor:
        value = 0.5 * l2 * w.square().sum()
        for loss, rows, offsets, share in samples:
            value = value + torch.dot(share, loss.values(torch.mv(rows, w) + offsets))
        return value

    w = blocks[0].rows.new_zeros(d)
    value = objective(w)
    for _ in range(_REFERENCE_STEPS):
        gradient = l2 * w
        hessian = torch.zeros(d, d, dtype=w.dtype, device=w.device)
        for loss, rows, offsets, share in samples:
            u = torch.mv(rows, w) + offsets
            gradient = gradient + torch.mv(rows.t(), share * loss.slopes(u))
            hessian.addmm_(rows.t(), rows * (share * loss.curvatures(u))[:, None])
        floor = max(l2, 1e-6 * float(hessian.diagonal().mean()), torch.finfo(w.dtype).tiny)
        hessian.diagonal().add_(floor)
        factor, failed = torch.linalg.cholesky_ex(hessian)
        if int(failed) or not bool(torch.isfinite(value)):
            return torch.zeros_like(w)
        step = torch.cholesky_solve(gradient[:, None], factor)[:, 0]
        scale = 1.0
        while scale > 1e-3:
            trial = w - scale * step
            trial_value = objective(trial)
            if bool(trial_value < value):
                break
            scale /= 2
        else:
            break
        w, value = trial, trial_value
        if float(step.abs().max()) <= 0.03 * float(w.abs().max()):
            break
    return w


class TaskModels:
    """Losses, gradients and curvature of the tasks at the reference point w (d,).

    Curvature is kept as one (d, d) matrix per task, or, where tasks have too few rows for that to pay, as
    weights of the rows. `basis` diagonalises the mean curvature; in it every task's curvature is nearly diagonal,
    and those diagonals precondition the systems of the subsets.
    """

    def __init__(self, blocks: list[TaskBlock], w: Tensor) -> None:
        d = len(w)
        n_rows = sum(float(block.counts.sum()) for block in blocks)
        n_tasks = sum(len(block.tasks) for block in blocks)
        self.w = w
        self.dense = d * n_tasks <= 2 * n_rows
        self.blocks = blocks
        self.curvature: list[Tensor] = []
        losses, gradients = [], []
        mean = torch.zeros(d, d, dtype=w.dtype, device=w.device)
        for block in blocks:
            b = len(block.tasks)
            u = block.scores(w.expand(b, 1, d))
            losses.append(LOSSES[block.kind].values(u).sum(-1) / block.counts[:, None])
            gradients.append(block.back(LOSSES[block.kind].slopes(u))[:, 0] / block.counts[:, None])
            weight = LOSSES[block.kind].curvatures(u)[:, 0] / block.counts[:, None]
            if self.dense:
                blockwise = _gram(block.rows, weight)
                self.curvature.append(blockwise)
                mean += blockwise.sum(0)
            else:
                self.curvature.append(weight)
                flat = block.rows.reshape(-1, d)
                mean.addmm_(flat.t(), flat * weight.reshape(-1, 1))
        self.losses = torch.cat(losses)
        self.gradients = torch.cat(gradients)
        mean = (mean + mean.t()) / (2 * n_tasks)
        values, self.basis = torch.linalg.eigh(mean)
        self.diagonals = torch.cat([self._diagonals(k) for k in range(len(blocks))])
        # In single precision eigenvalues below this are rounding, not curvature.
        self.floor = 10 * torch.finfo(w.dtype).eps * float(values[-1].clamp_min(0)) if d else 0.0

    def _diagonals(self, k: int) -> Tensor:
        """Curvature of the tasks of block k along the basis, (B, d)."""
        block, curvature = self.blocks[k], self.curvature[k]
        if self.dense:
            turned = affine(curvature.view(-1, len(self.w)), self.basis.t()).view_as(curvature)
            return turned.mul_(self.basis).sum(1)
        return torch.einsum("bnj,bn->bj", (block.rows @ self.basis).square(), curvature)

    def product(self, layout: Layout, v: Tensor, l2: Tensor) -> Tensor:
        """Curvature of each subset times v (M, d)."""
        out, parts = layout.stack(v)
        for number, x, y in parts:
            block, curvature = self.blocks[number], self.curvature[number]
            if not self.dense:
                y.copy_(block.back(block.products(x).mul_(curvature[:, None, :])))
            elif len(block.tasks) == 1:
                y[0] = affine(x[0], curvature[0])
            else:
                torch.bmm(x, curvature, out=y)
        return layout.mean(out).addcmul_(l2[:, None], v)

    def diagonal(self, layout: Layout, l2: Tensor) -> Tensor:
        """Curvature of each subset along the basis, (M, d)."""
        return layout.mean_of_tasks(self.diagonals).add_(l2[:, None]).clamp_min_(self.floor)

    def precondition(self, v: Tensor, diagonal: Tensor) -> Tensor:
        return affine(affine(v, self.basis.t()).div_(diagonal), self.basis)

    def solve(self, layout: Layout, v: Tensor, l2: Tensor, tolerance: Tensor, limit: int) -> Tensor:
        """Per subset approximately curvature⁻¹ v, by conjugate gradients to a relative tolerance (M,)."""
        diagonal = self.diagonal(layout, l2)
        residual = v.clone()
        z = self.precondition(residual, diagonal)
        rz = (residual * z).sum(1)
        goal = tolerance.square() * rz
        x, direction = torch.zeros_like(v), z
        for step in range(limit):
            if step and not bool((rz > goal).any()):
                break
            along = self.product(layout, direction, l2)
            curvature = (direction * along).sum(1)
            alpha = torch.where(curvature > 0, rz / curvature, 0.0)[:, None]
            x.addcmul_(alpha, direction)
            residual.addcmul_(alpha, along, value=-1)
            z = self.precondition(residual, diagonal)
            rz, before = (residual * z).sum(1), rz
            direction = z.addcmul(torch.where(before > 0, rz / before, 0.0)[:, None], direction)
        return x


def _gram(rows: Tensor, weight: Tensor) -> Tensor:
    """rowsᵀ·diag(weight)·rows for stacks: rows (B, n, d), weight (B, n) → (B, d, d)."""
    if len(rows) > 1:
        return torch.bmm((rows * weight[:, :, None]).transpose(1, 2), rows)
    columns = rows[0].t().contiguous()
    return affine(columns * weight, columns)[None]
