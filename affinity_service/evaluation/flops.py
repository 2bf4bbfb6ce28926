"""Floating-point operations of passes through a model, counted by torch (a multiply and an add are two)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class PassFlops:
    """FLOPs per example of one forward pass and of the backward pass that follows it."""

    forward: int
    backward: int

    @property
    def training(self) -> int:
        return self.forward + self.backward


def pass_flops(model: nn.Module, input_shape: Sequence[int]) -> PassFlops:
    """Count on one example; leaves no gradient behind."""
    inputs = torch.zeros(1, *input_shape)
    with FlopCounterMode(display=False) as counter:
        outputs = model(inputs)
        forward = counter.get_total_flops()
        torch.autograd.grad(outputs.sum(), list(model.parameters()), allow_unused=True)
    return PassFlops(forward, counter.get_total_flops() - forward)
