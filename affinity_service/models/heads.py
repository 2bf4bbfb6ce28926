"""A linear head per task, computed as one product."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from affinity_service.tasks.suite import Task


class TaskHeads(nn.Module):
    """Heads of T tasks over a shared representation.

    Each head keeps parameters of its own, so that a task that takes no part in a step has ``.grad is None``, yet
    all requested heads are one matrix product. The parameters sit directly on this module: ZeRO-3 gathers what a
    module owns before its forward.
    """

    def __init__(self, width: int, tasks: Sequence[Task]) -> None:
        super().__init__()
        self.width = width
        self.outputs = [task.outputs for task in tasks]
        # The bound of torch's Linear.
        bound = 1 / math.sqrt(width)
        for index, outputs in enumerate(self.outputs):
            weight, bias = self.names(index)
            self.register_parameter(weight, nn.Parameter(torch.empty(outputs, width).uniform_(-bound, bound)))
            self.register_parameter(bias, nn.Parameter(torch.empty(outputs).uniform_(-bound, bound)))

    @staticmethod
    def names(task: int) -> tuple[str, str]:
        """Of the parameters of one task: its weight and its bias."""
        return f"weight_{task}", f"bias_{task}"

    def head(self, task: int) -> tuple[nn.Parameter, nn.Parameter]:
        """Weight (C, width) and bias (C,) of one task."""
        weight, bias = self.names(task)
        return getattr(self, weight), getattr(self, bias)

    def forward(self, representation: Tensor, tasks: Sequence[int] | None = None) -> Tensor:
        """(..., width) → (..., columns): the outputs of the tasks asked for, all when None, in their order."""
        chosen = range(len(self.outputs)) if tasks is None else tasks
        weights, biases = zip(*(self.head(task) for task in chosen), strict=True)
        return F.linear(representation, torch.cat(weights), torch.cat(biases))


def stackable(model: nn.Module) -> bool:
    """Whether many such models can be trained as one stack: small ones, whose heads are all that tasks differ by."""
    heads = sum(isinstance(module, TaskHeads) for module in model.modules())
    return heads == 1 and all(parameter.requires_grad for parameter in model.parameters())


def task_heads(model: nn.Module) -> tuple[str, TaskHeads]:
    """The module that holds a model's heads, and what its parameters' names begin with."""
    ((name, heads),) = ((name, m) for name, m in model.named_modules() if isinstance(m, TaskHeads))
    return f"{name}." if name else "", heads
