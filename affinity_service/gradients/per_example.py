"""Per-example gradients of the margin, one backward pass per batch.

For linear layers the gradient of one example is the outer product of the layer's output gradient and its input,
so hooks on the layers deliver it in factors. Any other module goes through ``torch.func``, and so does a layer that
one example passes through more than once: its gradient is a sum of such products.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from affinity_service.gradients.margins import pair_margins
from affinity_service.models.heads import TaskHeads
from affinity_service.tasks.suite import Task

# A layer's name, the layer, its input and its output.
Call = tuple[str, nn.Module, Tensor, Tensor]


@dataclass(frozen=True)
class GradientBlock:
    """The gradients of one parameter for some rows of a batch, as outer products left ⊗ right.

    Attributes
    ----------
    name : the parameter.
    rows : (b,) rows of the batch; None means all. In the other rows the gradient is zero.
    left : (b, m) and right : (b, n) with m·n entries in the parameter; of sequences (b, t, m) and (b, t, n), whose
        outer products are summed over t. ``right`` is None for an unfactored gradient (b, m).
    """

    name: str
    rows: Tensor | None
    left: Tensor
    right: Tensor | None = None

    @property
    def places(self) -> Tensor | slice:
        """Of its rows in the batch."""
        return slice(None) if self.rows is None else self.rows

    def dense(self, start: int = 0, stop: int | None = None) -> Tensor:
        """(b, m'·n) entries that belong to the rows start:stop of the parameter."""
        left = self.left[..., start:stop]
        if self.right is None:
            return left
        if left.dim() == 3:
            return (left.transpose(1, 2) @ self.right).flatten(1)
        return (left[:, :, None] * self.right[:, None, :]).flatten(1)

    def projected(self, left: Tensor, right: Tensor) -> Tensor:
        """(b, a·c) entries of Lᵀ gradient R for L (m, a) and R (n, c), the gradient itself never formed."""
        assert self.right is not None, "an unfactored gradient has one side"
        a, c = self.left @ left, self.right @ right
        return (a.transpose(1, 2) @ c if a.dim() == 3 else a[:, :, None] * c[:, None, :]).flatten(1)


class PerExampleGradients:
    """Margins and their per-example gradients for batches of (example, task) pairs.

    Parameters
    ----------
    model : the plain module, put into eval mode, called as ``model(inputs, tasks)`` and returning the columns of
        those tasks' heads.
    tasks : all tasks of the suite.
    hooks : take the factored form where every parameter belongs to one linear layer or the heads; False always uses
        ``torch.func``, the slower and more general way.

    Attributes
    ----------
    factored : whether the factored form is taken; given up at the first batch that shows a layer to be used for an
        example several times, which the modules alone do not tell.
    """

    def __init__(self, model: nn.Module, tasks: Sequence[Task], hooks: bool = True) -> None:
        self.model = model.eval()
        self.device = next(model.parameters()).device
        self.tasks = tasks
        self.linear = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
        self.heads = {name: m for name, m in model.named_modules() if isinstance(m, TaskHeads)}
        covered = [id(p) for m in (*self.linear.values(), *self.heads.values()) for p in m.parameters()]
        # A parameter of two layers is covered twice.
        self.factored = hooks and sorted(covered) == sorted(id(p) for p in model.parameters())

    def __call__(self, inputs: Tensor, task: Tensor, label: Tensor) -> tuple[Tensor, list[GradientBlock]]:
        """Margins (B,) and gradient blocks for inputs (B, ...), task (B,) and label (B,)."""
        if self.factored:
            return self._by_hooks(inputs, task, label)
        return self._by_func(inputs, task, label)

    def _by_hooks(self, inputs: Tensor, task: Tensor, label: Tensor) -> tuple[Tensor, list[GradientBlock]]:
        calls: list[Call] = []
        handles = [
            module.register_forward_hook(
                lambda module, args, output, name=name: calls.append((name, module, args[0].detach(), output))
            )
            for name, module in {**self.linear, **self.heads}.items()
        ]
        requested = task.unique().tolist()
        try:
            outputs = self.model(inputs, requested)
        finally:
            for handle in handles:
                handle.remove()
        if not _each_once(calls, len(inputs)):
            self.factored = False
            return self._by_func(inputs, task, label)
        margins = pair_margins(outputs, requested, task, label, self.tasks)
        # Gradients with respect to the layers' outputs only: the products that would give the summed weight
        # gradients are never formed.
        errors = torch.autograd.grad(margins.sum(), [output for *_, output in calls])
        blocks: list[GradientBlock] = []
        for (name, module, activation, _), error in zip(calls, errors, strict=True):
            if isinstance(module, TaskHeads):
                blocks += head_blocks(name, requested, task, self.tasks, activation, error)
            else:
                blocks += _linear_blocks(name, module, activation, error)
        return margins.detach(), blocks

    def _by_func(self, inputs: Tensor, task: Tensor, label: Tensor) -> tuple[Tensor, list[GradientBlock]]:
        parameters = {name: p.detach() for name, p in self.model.named_parameters()}
        buffers = dict(self.model.named_buffers())
        margins = inputs.new_zeros(len(inputs), dtype=torch.float64)
        blocks = []
        # One task at a time: the head that a margin reads must not depend on data under vmap.
        for index in task.unique().tolist():
            rows = (task == index).nonzero()[:, 0]

            def margin(parameters: dict[str, Tensor], x: Tensor, y: Tensor, index: int = index) -> Tensor:
                outputs = torch.func.functional_call(self.model, (parameters, buffers), (x[None], [index]))
                same = torch.full((1,), index, device=x.device)
                return pair_margins(outputs, [index], same, y[None], [self.tasks[index]] * (index + 1))[0]

            gradient_and_value = torch.func.grad_and_value(margin)
            gradients, values = torch.func.vmap(gradient_and_value, in_dims=(None, 0, 0))(
                parameters, inputs[rows], label[rows]
            )
            margins[rows] = values
            blocks += [GradientBlock(name, rows, g.flatten(1)) for name, g in gradients.items() if g.any()]
        return margins, blocks


def head_blocks(
    name: str, requested: Sequence[int], task: Tensor, tasks: Sequence[Task], activation: Tensor, error: Tensor
) -> list[GradientBlock]:
    """Of ``TaskHeads`` that gave the columns of the `requested` tasks; only the rows of a head's own task reach it."""
    blocks, start = [], 0
    for index in requested:
        rows = (task == index).nonzero()[:, 0]
        left = error[rows, start : start + tasks[index].outputs]
        start += tasks[index].outputs
        blocks.append(GradientBlock(f"{name}.weight_{index}", rows, left, activation[rows]))
        blocks.append(GradientBlock(f"{name}.bias_{index}", rows, left))
    return blocks


def _each_once(calls: Sequence[Call], rows: int) -> bool:
    """Whether every layer was called once, with one vector per row of the batch."""
    names = [name for name, *_ in calls]
    return len(set(names)) == len(names) and all(x.dim() == 2 and len(x) == rows for *_, x, _ in calls)


def _linear_blocks(name: str, module: nn.Module, activation: Tensor, error: Tensor) -> list[GradientBlock]:
    blocks = [GradientBlock(f"{name}.weight", None, error, activation)]
    if module.bias is not None:
        blocks.append(GradientBlock(f"{name}.bias", None, error))
    return blocks
