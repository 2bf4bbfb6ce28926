"""The quadratic model of every task at one common reference point.

The reference is the minimiser for all tasks together (on a sample of the rows). Expanding each task there makes the
first step of every subset a Newton step that reads no example, and its curvature the preconditioner of all later
ones: on two data sets it saved half of the passes over the examples against an expansion at w = 0.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from affinity_service.fitting.blocks import LOSSES, Loss, TaskBlock
from affinity_service.fitting.problem import Kind
from affinity_service.fitting.products import affine, multiply

_REFERENCE_ROWS = 20  # rows of the sample per dimension
_REFERENCE_STEPS = 8
# Below this the kernels for bfloat16 take longer to start than to run.
_COARSE_DIMENSIONS = 128


def reference_point(blocks: Sequence[TaskBlock], l2: float) -> tuple[Tensor, Tensor]:
    """Minimiser (d,) of the mean over all tasks on a sample of their rows, to a few per cent, and the curvature (d, d)
    of the mean loss on the sample at or near that point."""
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

    def derivatives(w: Tensor) -> tuple[Tensor, Tensor]:
        gradient, curvature = l2 * w, w.new_zeros(d, d)
        for loss, rows, offsets, share in samples:
            u = torch.mv(rows, w) + offsets
            gradient = gradient + torch.mv(rows.t(), share * loss.slopes(u))
            curvature.addmm_(rows.t(), rows * (share * loss.curvatures(u))[:, None])
        return gradient, curvature

    w = blocks[0].rows.new_zeros(d)
    value = objective(w)
    for _ in range(_REFERENCE_STEPS):
        gradient, curvature = derivatives(w)
        floor = max(l2, 1e-6 * float(curvature.diagonal().mean()), torch.finfo(w.dtype).tiny)
        factor, failed = torch.linalg.cholesky_ex(curvature + floor * torch.eye(d, dtype=w.dtype, device=w.device))
        if int(failed) or not bool(torch.isfinite(value)):
            return torch.zeros_like(w), derivatives(torch.zeros_like(w))[1]
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
    return w, curvature


class TaskModels:
    """Losses, gradients and curvature of the tasks at the reference point w (d,).

    Curvature is kept as one (d, d) matrix per task, or, where tasks have too few rows for that to pay, as weights of
    the rows. The matrices live in coordinates ω, w = basis·ω, in which the mean curvature of the tasks is about the
    identity: there they are nearly diagonal, their diagonals precondition the systems of the subsets, and rounding them
    to bfloat16 does not drown directions of little curvature.
    """

    def __init__(self, blocks: Sequence[TaskBlock], w: Tensor, mean: Tensor, l2: float, exact: bool) -> None:
        """w and mean as from `reference_point`; exact: systems will be solved to full precision, which rules out
        bfloat16.
        """
        d = len(w)
        n_rows = sum(float(block.counts.sum()) for block in blocks)
        n_tasks = sum(len(block.tasks) for block in blocks)
        self.w = w
        self.blocks = blocks
        self.dense = d * n_tasks <= 2 * n_rows
        values, vectors = torch.linalg.eigh((mean + mean.t()) / 2)
        # Eigenvalues below this are rounding, not curvature.
        floor = 10 * torch.finfo(w.dtype).eps * float(values[-1].clamp_min(0))
        scale = (values.clamp_min(0) + l2).clamp_min(max(floor, torch.finfo(w.dtype).tiny)).rsqrt()
        self.basis = vectors * scale
        self.square = scale.square()
        self.weights: list[Tensor] = []
        coarse = w.dtype if exact else _coarse_dtype(w)
        self.curvature = torch.empty(n_tasks if self.dense else 0, d, d, dtype=coarse, device=w.device)
        losses, gradients, diagonals = [], [], []
        first = 0
        for block in blocks:
            loss, b = LOSSES[block.kind], len(block.tasks)
            u = block.scores(w.expand(b, 1, d))
            losses.append(loss.values(u).sum(-1) / block.counts[:, None])
            gradients.append(block.back(loss.slopes(u))[:, 0] / block.counts[:, None])
            weight = loss.curvatures(u)[:, 0] / block.counts[:, None]
            self.weights.append(weight)
            turned = affine(block.rows.reshape(-1, d), self.basis.t()).view_as(block.rows)
            if self.dense:
                # Rooted weights on both sides, so that what rounding leaves is a curvature.
                root = turned.mul_(weight.sqrt()[:, :, None]).to(coarse)
                own = self.curvature[first : first + b]
                multiply(root.transpose(1, 2), root, own)
                diagonals.append(own.diagonal(dim1=1, dim2=2).to(w.dtype))
                first += b
            else:
                diagonals.append(torch.bmm(weight[:, None], turned.square_())[:, 0])
        self.losses = torch.cat(losses)
        self.gradients = torch.cat(gradients)
        self.diagonals = torch.cat(diagonals)


def _coarse_dtype(like: Tensor) -> torch.dtype:
    """bfloat16 where the device multiplies it faster than float32, for products that need two digits."""
    if like.dtype != torch.float32 or len(like) < _COARSE_DIMENSIONS:
        return like.dtype
    if like.device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else like.dtype
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return torch.bfloat16 if native is not None and native() else like.dtype
