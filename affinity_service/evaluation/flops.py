"""Floating-point operations of passes through a model, counted by torch (a multiply and an add are two)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from affinity_service.tasks.suite import TRAIN, VALIDATION, Suite


def flop_counter() -> FlopCounterMode:
    """Counts what runs inside it, with the products that torch's own counter passes over: those of oneDNN's linear
    operator, which the fits take, and those added in place."""
    mapping: dict[Any, Any] = {torch.ops.aten.addmm_: _addmm}
    # Absent from builds without oneDNN.
    if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        mapping[torch.ops.mkldnn._linear_pointwise] = _linear
    return FlopCounterMode(display=False, custom_mapping=mapping)


def _linear(x: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    """x (…, k) with weight (n, k)."""
    return 2 * math.prod(x) * weight[0]


def _addmm(_: Sequence[int], a: Sequence[int], b: Sequence[int], *__: Any, **___: Any) -> int:
    """a (m, k) with b (k, n), onto a matrix."""
    return 2 * a[0] * a[1] * b[1]


@dataclass(frozen=True)
class PassFlops:
    """FLOPs per example of one forward pass and of the backward pass that follows it."""

    forward: int
    backward: int

    @property
    def training(self) -> int:
        return self.forward + self.backward


def pass_flops(model: nn.Module, input_shape: Sequence[int], tasks: Sequence[int] | None = None) -> PassFlops:
    """Count on one example, with the heads of the tasks given or of all; leaves no gradient behind."""
    inputs = torch.zeros(1, *input_shape)
    with FlopCounterMode(display=False) as counter:
        outputs = model(inputs, tasks)
        forward = counter.get_total_flops()
        torch.autograd.grad(outputs.sum(), list(model.parameters()), allow_unused=True)
    return PassFlops(forward, counter.get_total_flops() - forward)


class RunFlops:
    """FLOPs of true trainings: passes forward and backward over a run's examples with the heads of its own tasks,
    forward over the validation ones, every epoch."""

    def __init__(self, model: nn.Module, suite: Suite) -> None:
        self.model, self.suite = model, suite
        self._passes: dict[int, PassFlops] = {}

    def __call__(self, tasks: Sequence[int], epochs: int) -> float:
        # Heads of as many outputs take as many operations.
        outputs = sum(self.suite.tasks[task].outputs for task in tasks)
        if outputs not in self._passes:
            self._passes[outputs] = pass_flops(self.model, self.suite.inputs.shape[1:], tasks)
        passes, count = self._passes[outputs], self.suite.count
        return float(epochs * (passes.training * count(TRAIN, tasks) + passes.forward * count(VALIDATION, tasks)))
