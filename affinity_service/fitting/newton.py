"""Newton's method with exact Hessians in double precision, one subset at a time: for the few that resist."""

from collections.abc import Sequence

import torch
from torch import Tensor

from affinity_service.deadline import check_deadline
from affinity_service.fitting.blocks import LOSSES, build_blocks
from affinity_service.fitting.descent import Outcome
from affinity_service.fitting.problem import Rows

_STEPS = 200
_TOLERANCE = 1e-9


def newton_fit(rows: Rows, tasks: Sequence[int], l2: float, start: Tensor) -> Outcome:
    """Fit of one subset from start (d,), with halved steps until the objective decreases."""
    blocks = build_blocks(rows, tasks, torch.float64)
    share = 1 / len(tasks)

    def objective(w: Tensor) -> Tensor:
        value = 0.5 * l2 * w.square().sum()
        for block in blocks:
            losses = LOSSES[block.kind].values(block.scores(w.expand(len(block.tasks), 1, -1)))[:, 0].sum(1)
            value = value + share * (losses / block.counts).sum()
        return value

    w = torch.where(torch.isfinite(start), start, 0).to(torch.float64)
    value = objective(w)
    if not bool(torch.isfinite(value)):
        w = torch.zeros_like(w)
        value = objective(w)
    converged, steps, gradient = False, 0, torch.zeros_like(w)
    while steps < _STEPS:
        check_deadline()
        steps += 1
        gradient = l2 * w
        hessian = torch.zeros(len(w), len(w), dtype=w.dtype, device=w.device)
        hessian.diagonal().fill_(l2)
        for block in blocks:
            u = block.scores(w.expand(len(block.tasks), 1, -1))
            slopes = block.back(LOSSES[block.kind].slopes(u))[:, 0] / block.counts[:, None]
            gradient = gradient + share * slopes.sum(0)
            for b in range(len(block.tasks)):
                weighted = block.rows[b] * LOSSES[block.kind].curvatures(u)[b, 0, :, None]
                hessian.addmm_(block.rows[b].t(), weighted, alpha=share / float(block.counts[b]))
        factor, failed = torch.linalg.cholesky_ex(hessian)
        if int(failed):
            break
        step = torch.cholesky_solve(gradient[:, None], factor)[:, 0]
        converged = bool(step.abs().max() <= _TOLERANCE * w.abs().max())
        decrease = float(gradient @ step)
        scale = 1.0
        while scale > 1e-10:
            trial_value = objective(w - scale * step)
            if bool(trial_value <= value - 1e-4 * scale * decrease + 1e-15 * value.abs()):
                w, value = w - scale * step, trial_value
                break
            scale /= 2
        if converged or scale <= 1e-10:
            break
    return Outcome(
        w[None],
        torch.tensor([steps], device=w.device),
        torch.tensor([converged], device=w.device),
        gradient.norm()[None],
        value[None],
    )
