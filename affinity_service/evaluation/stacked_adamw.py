"""AdamW over stacked models, each with its own step count and gradient clipping."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from affinity_service.config import TrainConfig

BETAS = (0.9, 0.999)
EPSILON = 1e-8


class StackedAdamW:
    """Decoupled weight decay (Loshchilov and Hutter 2019), the same numbers as torch's AdamW for each model alone.

    torch's own counts one step for all; here models that sit a step out keep parameters, moments and count.

    Parameters
    ----------
    parameters : stacked leaves, the first dimension being the M models; updated in place from their ``.grad``.
    """

    def __init__(self, parameters: Mapping[str, Tensor], config: TrainConfig) -> None:
        self.parameters = list(parameters.values())
        self.config = config
        self.steps = torch.zeros(len(self.parameters[0]), device=self.parameters[0].device)
        self.first = [torch.zeros_like(p) for p in self.parameters]
        self.second = [torch.zeros_like(p) for p in self.parameters]

    @torch.no_grad()
    def step(self, takes_part: Tensor) -> None:
        """One step of the models with ``takes_part`` (M,) bool; clears the gradients of all."""
        gradients = [p.grad for p in self.parameters]
        scale = self._clipping(gradients)
        self.steps += takes_part
        one, two = (1 - beta**self.steps for beta in BETAS)
        rate = self.config.learning_rate
        for p, m, v, g in zip(self.parameters, self.first, self.second, gradients, strict=True):
            p.grad = None
            if g is None:
                continue
            g = g * _like(scale, g)
            active = _like(takes_part, g)
            m.copy_(torch.where(active, BETAS[0] * m + (1 - BETAS[0]) * g, m))
            v.copy_(torch.where(active, BETAS[1] * v + (1 - BETAS[1]) * g * g, v))
            denominator = (v / _like(two, v)).sqrt() + EPSILON
            updated = p * (1 - rate * self.config.weight_decay) - rate * (m / _like(one, m)) / denominator
            p.copy_(torch.where(active, updated, p))

    def _clipping(self, gradients: list[Tensor | None]) -> Tensor:
        """(M,) factor per model, as torch.nn.utils.clip_grad_norm_ has it."""
        if not self.config.gradient_clipping:
            return torch.ones_like(self.steps)
        squares = sum(g.flatten(1).square().sum(dim=1) for g in gradients if g is not None)
        return (self.config.gradient_clipping / (torch.as_tensor(squares).sqrt() + 1e-6)).clamp(max=1.0)


def _like(values: Tensor, shape_of: Tensor) -> Tensor:
    return values.view(-1, *[1] * (shape_of.dim() - 1))
