"""The gradients of a run of (example, task) pairs, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from affinity_service.config import GradientConfig
from affinity_service.errors import UserError
from affinity_service.gradients.margins import targets
from affinity_service.gradients.per_example import GradientBlock, PerExampleGradients
from affinity_service.gradients.reductions import Reduction
from affinity_service.gradients.streamed import StreamedGradients, Visit
from affinity_service.tasks.suite import Suite
from affinity_service.tasks.tokens import TokenRows, bounded_batches

Gradients = PerExampleGradients | StreamedGradients


def per_example_gradients(model: nn.Module, suite: Suite, settings: GradientConfig) -> Gradients:
    """What takes the gradients of this model, put into eval mode, for examples of this suite."""
    if isinstance(suite.inputs, TokenRows):
        return StreamedGradients(model, suite.tasks, settings.batch_tokens, settings.layers, settings.precision)
    return PerExampleGradients(model, suite.tasks)


@dataclass(frozen=True)
class PairBatch:
    """B pairs, all on the model's device.

    Attributes
    ----------
    places : (B,) their positions in the run.
    task, target : (B,). margins : (B,) float64.
    each : gives every gradient block to a function; to be called once.
    """

    places: Tensor
    task: Tensor
    target: Tensor
    margins: Tensor
    each: Callable[[Visit], None]

    def reduced(self, reduction: Reduction) -> Tensor:
        """(B, dimension + products)."""
        total = torch.zeros(len(self.task), reduction.dimension + reduction.products, device=self.task.device)
        self.each(lambda block: reduction.add(block, total))
        return total


def pair_batches(
    gradients: Gradients, suite: Suite, example: NDArray[np.int64], task: NDArray[np.int32], batch_rows: int
) -> Iterator[PairBatch]:
    """Of the pairs (example[i], task[i]), so many at most; sequences with others of about their length."""
    device = gradients.device
    tokens = gradients.tokens if isinstance(gradients, StreamedGradients) else 0
    for places in bounded_batches(suite.inputs, example, batch_rows, tokens):
        rows, own = example[places], task[places]
        tasks = torch.as_tensor(own, device=device).long()
        labels = torch.as_tensor(suite.labels[rows, own], device=device)
        inputs = torch.as_tensor(suite.inputs[rows], device=device)
        goal, position = targets(tasks, labels, suite.tasks), torch.as_tensor(places, device=device)
        if isinstance(gradients, StreamedGradients):
            with gradients(inputs, tasks, labels) as (margins, each):
                yield PairBatch(position, tasks, goal, margins, each)
        else:
            margins, blocks = gradients(inputs, tasks, labels)
            yield PairBatch(position, tasks, goal, margins, _every(blocks))


def _every(blocks: list[GradientBlock]) -> Callable[[Visit], None]:
    def each(visit: Visit) -> None:
        for block in blocks:
            visit(block)

    return each


def diverged(suite: Suite, task: int, where: str) -> UserError:
    """The error to raise where a margin or gradient is not finite."""
    return UserError(
        f"gradient of task `{suite.tasks[task].name}` {where} is not finite: the base model diverged; lower "
        "base.learning_rate or set base.gradient_clipping"
    )
