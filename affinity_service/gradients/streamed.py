"""Per-example gradients of models that read sequences, handed on layer by layer while the backward pass runs.

A layer sees many tokens of one example, so the gradient of an example is a sum of outer products. A tap behind each
trained layer keeps the layer's input as autograd keeps it (recomputed under gradient checkpointing, loaded again where
weights are offloaded), takes the gradient of its output as it comes by, and passes both on: what one layer needs is
gone before the next is reached, and no weight's summed gradient is formed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from affinity_service.errors import UserError
from affinity_service.gradients.margins import pair_margins
from affinity_service.gradients.per_example import GradientBlock, head_blocks
from affinity_service.models.heads import TaskHeads
from affinity_service.models.state import trained_parameters
from affinity_service.tasks.suite import Task

Visit = Callable[[GradientBlock], None]
# Of a trained layer that is not linear, such as a norm, the gradients of a batch are formed whole.
LARGEST_WHOLE = 1 << 20


class StreamedGradients:
    """Margins and their per-example gradients for batches of (example, task) pairs.

    Parameters
    ----------
    model : the plain module, put into eval mode, called as ``model(inputs, tasks)`` and returning a column per task.
    tasks : all tasks of the suite.
    tokens : at most so many in a batch, padding counted.
    wanted : patterns of the parameters whose gradients are asked for; all that train when empty.
    precision : bf16 takes the passes in mixed precision; blocks and margins are float32 and float64 in any case.

    Raises
    ------
    UserError
        A wanted parameter belongs to two layers, or to a large one that is not linear; in a pass, one layer is used
        several times, or sees the tokens of several examples mixed.
    """

    # No kernel from activations: a sequence's inner products are sums over pairs of tokens.
    factored = False

    def __init__(
        self,
        model: nn.Module,
        tasks: Sequence[Task],
        tokens: int,
        wanted: Sequence[str] = (),
        precision: Literal["fp32", "bf16"] = "fp32",
    ) -> None:
        self.model, self.tasks, self.tokens = model.eval(), tasks, tokens
        self.layers = _trained_layers(model, wanted)
        # Where what trains lies: the rest may be anywhere, see models/placement.py.
        self.device = next(iter(trained_parameters(model).values())).device
        self.mixed = precision == "bf16"
        _checkpoint_without_dropout(model)

    @contextmanager
    def __call__(self, inputs: Tensor, task: Tensor, label: Tensor) -> Iterator[tuple[Tensor, Callable[[Visit], None]]]:
        """Margins (B,), and a function that takes the pass backward and gives every block to the visitor; to be called
        once, while the context lasts: until then no weight asks for a gradient of its own."""
        requested = task.unique().tolist()
        taps = _Taps(self.layers, self.device, (len(inputs), inputs.shape[-1]), (requested, task, self.tasks))
        trained = list(trained_parameters(self.model).values())
        for parameter in trained:
            parameter.requires_grad_(False)
        try:
            with taps, torch.enable_grad():
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
                    outputs = self.model(inputs, requested)
                margins = pair_margins(outputs, requested, task, label, self.tasks)

                def backward(visit: Visit) -> None:
                    taps.visit = visit
                    torch.autograd.grad(margins.sum(), taps.origin)

                yield margins.detach(), backward
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)


class _Taps:
    """Hooks on the layers, for one forward pass and the backward pass after it, which may go forward again through
    layers whose activations were not kept.

    Parameters
    ----------
    shape : examples and tokens of each in the batch, padding counted.
    heads : the tasks whose outputs are asked for, the task (B,) of each example, and all tasks.
    """

    def __init__(self, layers: dict[str, nn.Module], device: torch.device, shape: tuple[int, int], heads: Any) -> None:
        # Layers may lie on several devices; their gradients meet on one.
        self.layers, self.device, self.shape, self.heads = layers, device, shape, heads
        # What autograd is asked the gradient of: every tap depends on it.
        self.origin = torch.zeros((), requires_grad=True)
        self.visit: Visit | None = None
        self._handles: list[Any] = []
        self._seen: set[str] = set()
        # A layer that is run to take its own gradients is not tapped again.
        self._at_work = False

    def __enter__(self) -> _Taps:
        for name, layer in self.layers.items():
            self._handles.append(layer.register_forward_hook(self._hook(name)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        def tapped(layer: nn.Module, args: Any, output: Tensor) -> Tensor:
            if self._at_work:
                return output
            return _Tap.apply(args[0].detach(), output, self.origin, self, name)

        return tapped

    def arrived(self, name: str, activation: Tensor, error: Tensor) -> None:
        assert self.visit is not None, "the backward pass has a visitor"
        if name in self._seen:
            raise UserError(
                f"gradients of `{name}` cannot be taken: a pass uses the layer several times; leave it out of "
                "gradients.layers, or train others (model.adapter.targets, model.trains)"
            )
        self._seen.add(name)
        layer = self.layers[name]
        left, right = (self._by_example(name, x.float()) for x in (error, activation))
        if isinstance(layer, nn.Linear):
            # One token per example where the layer sees vectors.
            left, right = (x.reshape(len(x), -1, x.shape[-1]).to(self.device) for x in (left, right))
            self.visit(GradientBlock(f"{name}.weight", None, left, right))
            if layer.bias is not None:
                self.visit(GradientBlock(f"{name}.bias", None, left.sum(dim=1)))
        elif isinstance(layer, TaskHeads):
            requested, task, tasks = self.heads
            for block in head_blocks(name, requested, task, tasks, right.to(self.device), left.to(self.device)):
                self.visit(block)
        else:
            self._at_work = True
            found = _by_vjp(layer, right, left)
            self._at_work = False
            for own, gradient in found.items():
                self.visit(GradientBlock(f"{name}.{own}", None, gradient.flatten(1).to(self.device)))

    def _by_example(self, name: str, x: Tensor) -> Tensor:
        """Examples first. Some models lay the tokens of all examples end to end before a layer; some mix them."""
        examples, tokens = self.shape
        if len(x) == examples:
            return x
        if x.dim() == 2 and len(x) == examples * tokens:
            return x.view(examples, tokens, -1)
        raise UserError(
            f"gradients of `{name}` cannot be told apart by example: it sees {tuple(x.shape)} for {examples} examples "
            f"of {tokens} tokens; leave it out of gradients.layers, or train others (model.adapter.targets, "
            "model.trains)"
        )


class _Tap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, activation: Tensor, output: Tensor, _: Tensor, taps: _Taps, name: str) -> Tensor:
        ctx.save_for_backward(activation)
        ctx.taps, ctx.name = taps, name
        return output.view_as(output)

    @staticmethod
    @torch.no_grad()
    def backward(ctx: Any, *errors: Tensor) -> Any:
        (activation,) = ctx.saved_tensors
        ctx.taps.arrived(ctx.name, activation, errors[0])
        return None, errors[0], torch.zeros(()), None, None


def _by_vjp(layer: nn.Module, activation: Tensor, error: Tensor) -> dict[str, Tensor]:
    """(B, …) gradients of the layer's own parameters, one example at a time under vmap."""
    own = {name: p.detach() for name, p in layer.named_parameters(recurse=False)}

    def of_one(x: Tensor, e: Tensor) -> dict[str, Tensor]:
        back: Callable[[Tensor], Any] = torch.func.vjp(
            lambda weights: torch.func.functional_call(layer, weights, (x[None],)), own
        )[1]
        return dict(back(e[None])[0])

    return torch.func.vmap(of_one)(activation, error)


def _checkpoint_without_dropout(model: nn.Module) -> None:
    """transformers' layers make their checkpoints in training mode only: they think they are in it when they are
    called, and are not when they compute."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing:
            layer: Any = module
            layer.training = True
            layer._gradient_checkpointing_func = partial(_checkpointed, layer, layer._gradient_checkpointing_func)


def _checkpointed(module: nn.Module, checkpoint: Callable[..., Any], function: Callable[..., Any], *args: Any) -> Any:
    def in_eval_mode(*args: Any) -> Any:
        module.training = False
        try:
            return function(*args)
        finally:
            module.training = True

    return checkpoint(in_eval_mode, *args)


def _trained_layers(model: nn.Module, wanted: Sequence[str]) -> dict[str, nn.Module]:
    """Modules that own trained parameters of which gradients are wanted, by name."""
    trained = trained_parameters(model)
    owners: dict[str, nn.Module] = {}
    seen: dict[int, str] = {}
    for name, module in model.named_modules():
        for own, parameter in module.named_parameters(recurse=False):
            whole = f"{name}.{own}" if name else own
            if not parameter.requires_grad or (wanted and not any(fnmatch(whole, each) for each in wanted)):
                continue
            if seen.setdefault(id(parameter), whole) != whole or whole not in trained:
                raise UserError(
                    f"gradients of `{whole}` cannot be taken apart: `{seen[id(parameter)]}` is the same weight; leave "
                    "it out of gradients.layers or model.trains, or train an adapter"
                )
            if not isinstance(module, nn.Linear | TaskHeads) and parameter.numel() > LARGEST_WHOLE:
                raise UserError(
                    f"gradients of `{whole}` ({parameter.numel():,} weights of a {type(module).__name__}) would have "
                    "to be formed whole for every example; leave it out of gradients.layers or model.trains, or "
                    "train an adapter"
                )
            owners[name] = module
    return owners
