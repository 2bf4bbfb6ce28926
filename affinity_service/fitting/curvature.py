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
# Elements of temporary matrices while they change coordinates.
_CHUNK = 1 << 20
# Below this the kernels for bfloat16 take longer to start than to run.
_COARSE_DIMENSIONS = 128


def reference_point(blocks: Sequence[TaskBlock], l2: float) -> Tensor:
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

    Curvature is kept as one (d, d) matrix per task, or, where tasks have too few rows for that to pay, as weights of
    the rows. The matrices live in coordinates ω, w = basis·ω, in which the mean curvature of the tasks is the identity:
    there they are nearly diagonal, their diagonals precondition the systems of the subsets, and rounding them to
    bfloat16 does not drown directions of little curvature.
    """

    def __init__(self, blocks: Sequence[TaskBlock], w: Tensor, l2: float, exact: bool) -> None:
        """exact: systems will be solved to full precision, which rules out bfloat16."""
        d = len(w)
        n_rows = sum(float(block.counts.sum()) for block in blocks)
        n_tasks = sum(len(block.tasks) for block in blocks)
        self.w = w
        self.blocks = blocks
        self.dense = d * n_tasks <= 2 * n_rows
        weights, losses, gradients = [], [], []
        curvature = torch.empty(n_tasks if self.dense else 0, d, d, dtype=w.dtype, device=w.device)
        mean = torch.zeros(d, d, dtype=w.dtype, device=w.device)
        first = 0
        for block in blocks:
            loss, b = LOSSES[block.kind], len(block.tasks)
            u = block.scores(w.expand(b, 1, d))
            losses.append(loss.values(u).sum(-1) / block.counts[:, None])
            gradients.append(block.back(loss.slopes(u))[:, 0] / block.counts[:, None])
            weight = loss.curvatures(u)[:, 0] / block.counts[:, None]
            weights.append(weight)
            if self.dense:
                weighted = (block.rows * weight[:, :, None]).transpose(1, 2)
                multiply(weighted, block.rows, curvature[first : first + b])
                mean += curvature[first : first + b].sum(0)
                first += b
            else:
                flat = block.rows.reshape(-1, d)
                mean.addmm_(flat.t(), flat * weight.reshape(-1, 1))
        self.losses = torch.cat(losses)
        self.gradients = torch.cat(gradients)
        values, vectors = torch.linalg.eigh((mean + mean.t()) / (2 * n_tasks))
        # Eigenvalues below this are rounding, not curvature.
        floor = 10 * torch.finfo(w.dtype).eps * float(values[-1].clamp_min(0))
        scale = (values.clamp_min(0) + l2).clamp_min(max(floor, torch.finfo(w.dtype).tiny)).rsqrt()
        self.basis = vectors * scale
        self.square = scale.square()
        self.weights = weights
        self.curvature = torch.empty(curvature.shape, dtype=w.dtype if exact else _coarse_dtype(w), device=w.device)
        if self.dense:
            diagonals = []
            step = max(1, _CHUNK // (d * d))
            for begin in range(0, n_tasks, step):
                turned = self._turn(self._turn(curvature[begin : begin + step]))
                diagonals.append(turned.diagonal(dim1=1, dim2=2).clone())
                self.curvature[begin : begin + step] = turned
        else:
            squares = [(block.rows @ self.basis).square() for block in blocks]
            diagonals = [torch.bmm(a[:, None], b)[:, 0] for a, b in zip(weights, squares, strict=True)]
        self.diagonals = torch.cat(diagonals)

    def _turn(self, matrices: Tensor) -> Tensor:
        """(matrix·basis)ᵀ for each of (T, d, d): twice this is basisᵀ·matrix·basis."""
        return affine(matrices.reshape(-1, len(self.w)), self.basis.t()).view_as(matrices).transpose(1, 2)


def _coarse_dtype(like: Tensor) -> torch.dtype:
    """bfloat16 where the device multiplies it faster than float32, for products that need two digits."""
    if like.dtype != torch.float32 or len(like) < _COARSE_DIMENSIONS:
        return like.dtype
    if like.device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else like.dtype
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return torch.bfloat16 if native is not None and native() else like.dtype
