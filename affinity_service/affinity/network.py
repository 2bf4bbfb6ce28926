"""Losses of the network itself at displaced weights: `evaluate: network` (Grad-TAG, arXiv 2409.06091, §3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from affinity_service.gradients.weight_space import WeightSpace
from affinity_service.models.losses import TaskLosses
from affinity_service.tasks.suite import Task

# Entries of a layer's output in one forward pass of many networks.
_ENTRIES = 1 << 24
_ROWS = 2048


class ValidationNetworks:
    """Runs many displaced copies of one model over the validation examples.

    Parameters
    ----------
    model : the base model, with its weights.
    space : the parameters that displacements (M, p) speak of; others stay as they are.
    inputs, labels : (V, ...) and (V, T) of the validation examples.
    """

    def __init__(
        self,
        model: nn.Module,
        space: WeightSpace,
        tasks: Sequence[Task],
        inputs: Tensor,
        labels: Tensor,
        device: str = "cpu",
    ) -> None:
        self.model, self.space = model.to(device).eval(), space
        self.weights = {name: p.detach() for name, p in self.model.named_parameters()}
        self.inputs, self.labels = inputs.to(device), labels.to(device)
        self.losses = TaskLosses(tasks)
        self.counts = (~self.labels.isnan()).sum(dim=0)
        widest = max(max(p.shape[0] for p in self.weights.values()), self.losses.columns)
        self._together = max(1, _ENTRIES // (min(_ROWS, len(inputs)) * widest))

    @torch.no_grad()
    def __call__(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Mean losses (M, T) at weights + w (M, p), and their standard errors over examples."""
        parts = [self._some(part) for part in w.split(self._together)]
        return torch.cat([mean for mean, _ in parts]), torch.cat([error for _, error in parts])

    def _some(self, w: Tensor) -> tuple[Tensor, Tensor]:
        moved = {name: w[:, columns].view(-1, *self.space.shapes[name]) for name, columns in self.space.slices.items()}

        def forward(displaced: dict[str, Tensor], inputs: Tensor) -> Tensor:
            weights = {name: p + displaced[name] if name in displaced else p for name, p in self.weights.items()}
            return torch.func.functional_call(self.model, weights, (inputs,))

        call = torch.func.vmap(forward, in_dims=(0, None))
        total = torch.zeros(len(w), len(self.counts), dtype=torch.float64, device=w.device)
        squares = torch.zeros_like(total)
        for inputs, labels in zip(self.inputs.split(_ROWS), self.labels.split(_ROWS), strict=True):
            losses = self.losses(call(moved, inputs), labels).double()
            total += losses.sum(dim=1)
            squares += losses.square().sum(dim=1)
        mean = total / self.counts
        variance = (squares / self.counts - mean**2).clamp(min=0) * self.counts / (self.counts - 1)
        return mean.float(), (variance / self.counts).sqrt().float()
