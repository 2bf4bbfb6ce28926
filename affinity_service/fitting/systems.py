"""Newton systems of subsets in the task models' coordinates, solved by conjugate gradients."""

import torch
from torch import Tensor

from affinity_service.fitting.curvature import TaskModels
from affinity_service.fitting.layout import Layout
from affinity_service.fitting.products import affine, multiply


class Systems:
    """Curvature of the subsets of a layout with penalties l2 (M,), at the reference point of the models."""

    def __init__(self, models: TaskModels, layout: Layout, l2: Tensor) -> None:
        self._models = models
        self._layout = layout
        # Of the penalty and of the whole objective, along the coordinates.
        self._ridge = l2[:, None] * models.square
        diagonal = layout.mean_of_tasks(models.diagonals).add_(self._ridge)
        self._diagonal = diagonal.clamp_min_(10 * torch.finfo(l2.dtype).eps)
        self._curvature = [self._of_run(positions) for positions in layout.runs] if models.dense else []

    def _of_run(self, positions: list[int]) -> Tensor:
        curvature = self._models.curvature
        first, last = positions[0], positions[-1]
        if positions == list(range(first, last + 1)):
            return curvature[first : last + 1]
        return curvature[torch.tensor(positions, device=curvature.device)]

    def _product(self, v: Tensor) -> Tensor:
        """Curvature of each subset times v (M, d), in the coordinates."""
        models, layout = self._models, self._layout
        if models.dense:
            stack = layout.stack(v.to(models.curvature.dtype))
            for part in stack.runs:
                multiply(part.x, self._curvature[part.number], part.y)
            return layout.mean(stack.out).to(v.dtype).addcmul_(self._ridge, v)
        stack = layout.stack(affine(v, models.basis))
        for part in stack.blocks:
            block = models.blocks[part.number]
            part.y.copy_(block.back(block.products(part.x).mul_(models.weights[part.number][:, None, :])))
        return affine(layout.mean(stack.out), models.basis.t()).addcmul_(self._ridge, v)

    def precondition(self, v: Tensor) -> Tensor:
        """v (M, d) times the inverse of the diagonal of each subset's curvature in the coordinates."""
        basis = self._models.basis
        return affine(affine(v, basis.t()).div_(self._diagonal), basis)

    def solve(self, v: Tensor, tolerance: Tensor, limit: int) -> tuple[Tensor, Tensor]:
        """Per subset approximately curvature⁻¹ v, (M, d), to a relative tolerance (M,).

        Returns the solutions (M, d) and the relative residuals (M,) that were reached.
        """
        basis = self._models.basis
        residual = affine(v, basis.t())
        z = residual / self._diagonal
        rz = torch.linalg.vecdot(residual, z)
        start, goal = rz, tolerance.square() * rz
        x, direction = torch.zeros_like(v), z
        for step in range(limit):
            if step and not bool((rz > goal).any()):
                break
            along = self._product(direction)
            curvature = torch.linalg.vecdot(direction, along)
            alpha = torch.where(curvature > 0, rz / curvature, 0.0)[:, None]
            x.addcmul_(alpha, direction)
            residual.addcmul_(alpha, along, value=-1)
            z = residual / self._diagonal
            rz, before = torch.linalg.vecdot(residual, z), rz
            direction = z.addcmul(torch.where(before > 0, rz / before, 0.0)[:, None], direction)
        return affine(x, basis), torch.where(start > 0, rz / start, 0.0).clamp_min(0).sqrt()
