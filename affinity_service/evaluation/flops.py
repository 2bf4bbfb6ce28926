"""Floating-point operations of passes through a model, counted by torch (a multiply and an add are two)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from affinity_service.tasks.suite import TRAIN, VALIDATION, Suite
from affinity_service.tasks.tokens import TokenRows


def flop_counter() -> FlopCounterMode:
    """Counts what runs inside it, with the products that torch's own counter passes over: those of oneDNN's linear
    operator, which the fits take, those added in place and those with vectors."""
    mapping: dict[Any, Any] = {torch.ops.aten.addmm_: _addmm, torch.ops.aten.mv: _mv}
    mapping |= dict.fromkeys((torch.ops.aten.addmv, torch.ops.aten.addmv_), _addmv)
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


def _mv(a: Sequence[int], _: Sequence[int], **__: Any) -> int:
    """a (m, k) with a vector (k,)."""
    return 2 * a[0] * a[1]


def _addmv(_: Sequence[int], a: Sequence[int], *__: Any, **___: Any) -> int:
    """a (m, k) with a vector (k,), onto a vector."""
    return 2 * a[0] * a[1]


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
    return _counted(model, torch.zeros(1, *input_shape), tasks)


def example_flops(model: nn.Module, suite: Suite, tasks: Sequence[int] | None = None) -> PassFlops:
    """The same for an example of the suite; of sequences, for one of median length."""
    if not isinstance(suite.inputs, TokenRows):
        return pass_flops(model, suite.inputs.shape[1:], tasks)
    by_length = np.argsort(suite.inputs.lengths, kind="stable")
    return _counted(model, torch.tensor(suite.inputs[by_length[[len(suite) // 2]]]), tasks)


def examples_worth(suite: Suite, rows: NDArray[np.int64]) -> float:
    """How many times ``example_flops`` the rows cost: sequences by their tokens."""
    if not isinstance(suite.inputs, TokenRows):
        return float(len(rows))
    lengths = suite.inputs.lengths
    return float(lengths[rows].sum() / np.sort(lengths)[len(lengths) // 2])


def _counted(model: nn.Module, inputs: Tensor, tasks: Sequence[int] | None) -> PassFlops:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # The counter does not know every fused attention of a CPU; as plain products it is counted.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        outputs = model(inputs, tasks)
        forward = counter.get_total_flops()
        torch.autograd.grad(outputs.sum(), trained, allow_unused=True)
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
            self._passes[outputs] = example_flops(self.model, self.suite, tasks)
        passes = self._passes[outputs]
        training, validation = (self._examples(split, tasks) for split in (TRAIN, VALIDATION))
        return float(epochs * (passes.training * training + passes.forward * validation))

    def _examples(self, split: int, tasks: Sequence[int]) -> float:
        if isinstance(self.suite.inputs, TokenRows):
            return examples_worth(self.suite, self.suite.rows(split, tasks))
        return self.suite.count(split, tasks)
