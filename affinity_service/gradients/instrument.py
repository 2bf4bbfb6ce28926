"""The instrument of TAG and SON-GOKU: what one batch says of all tasks at the weights as they are, without a trace.

It never touches what it measures: weights are passed in (``torch.func.functional_call``), buffers such as BatchNorm's
statistics are copies, random numbers are put back, gradients come from ``torch.autograd.grad``. Optimizer, ``.grad``,
loss scaling and accumulation are not involved at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from affinity_service.errors import UserError
from affinity_service.gradients.sketch import CountSketch
from affinity_service.gradients.task_gradients import sum_over_ranks, task_gradients

# (model, batch) → summed losses (T,) and numbers of examples (T,) of the batch per task.
LossSums = Callable[[nn.Module, Any], tuple[Tensor, Tensor]]
# Numbers of all copies of the shared weights that are evaluated at a time.
_COPIES = 1 << 26


@dataclass(frozen=True)
class Measured:
    """rows (T, p), or (T, D) sketched: gradients of the tasks' mean losses over all ranks' examples with respect to the
    shared weights; losses (T,). NaN for a task without examples in the batch, and where either is not finite.
    counts (T,): examples.
    """

    rows: Tensor
    losses: Tensor
    counts: Tensor


class Instrument:
    """Measures a model of which several tasks share weights.

    Parameters
    ----------
    model : whose structure and modes (train or eval) are used; its weights only where none are passed in.
    losses : summed losses and counts per task of a batch.
    shared : names of the shared parameters.
    group : data-parallel ranks that each hold a part of the batch; every rank must call alike.

    Raises
    ------
    UserError
        No shared parameter, or an unknown one.
    """

    def __init__(self, model: nn.Module, losses: LossSums, shared: Sequence[str], group: Any = None) -> None:
        known = dict(model.named_parameters())
        unknown = [name for name in shared if name not in known]
        if unknown:
            raise UserError(
                f"shared parameter {unknown[0]!r} is not one of the model's: {', '.join(list(known)[:8])} …"
            )
        if not shared:
            raise UserError("the model has no shared parameters: tasks without any cannot help or harm each other")
        self.shared = list(shared)
        self.shapes = [known[name].shape for name in self.shared]
        self.sizes = [known[name].numel() for name in self.shared]
        self._model, self._holder, self._group = model, _Holder(model, losses), group
        # Copies of a model whose weights are mostly frozen would each hold activations as a whole model does.
        self._stacked = all(parameter.requires_grad for parameter in known.values())
        # Each place of a weight once: functional_call does not restore a module that it reaches by two names.
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        self._places: list[tuple[str, str]] = []
        # Buffers are looked up when they are needed: models assign new ones.
        self._modules = list(self._holder.named_modules())
        for prefix, module in self._modules:
            for name, parameter in module.named_parameters(recurse=False):
                self._places.append((f"{prefix}.{name}", names[id(parameter)]))

    def gradients(
        self, batch: Any, weights: Mapping[str, Tensor] | None = None, sketch: CountSketch | None = None
    ) -> Measured:
        """Gradients and losses of the batch at the weights (those of the model when None)."""
        values = self._detached(weights)
        leaves = [values[name].requires_grad_() for name in self.shared]
        with torch.enable_grad(), self._untouched() as restart:
            restart()
            sums, counts = self._call(values, batch)
            rows = task_gradients(list(sums), leaves, sketch).rows
        counts = sum_over_ranks(counts.to(rows.device, torch.float32), self._group)
        rows = sum_over_ranks(rows, self._group) / counts[:, None]
        losses = (sum_over_ranks(sums.detach().double(), self._group) / counts).float()
        bad = ~(rows.isfinite().all(dim=1) & losses.isfinite())
        return Measured(rows.masked_fill(bad[:, None], torch.nan), losses.masked_fill(bad, torch.nan), counts)

    @torch.no_grad()
    def losses_after(self, steps: Tensor, batch: Any, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """(n, T) float64 mean losses of the batch after each of n steps (n, p) of the shared weights, heads fixed."""
        values = self._detached(weights)
        size = max(1, _COPIES // steps.shape[1])
        with self._untouched() as restart:
            parts = [self._after(part, values, batch, restart) for part in steps.split(size)]
        sums, counts = (torch.cat(each) for each in zip(*parts, strict=True))
        return sum_over_ranks(sums, self._group) / sum_over_ranks(counts, self._group)

    def _after(
        self, steps: Tensor, values: dict[str, Tensor], batch: Any, restart: Callable[[], None]
    ) -> tuple[Tensor, Tensor]:
        def moved(step: Tensor) -> tuple[Tensor, Tensor]:
            own = dict(values)
            for name, part, shape in zip(self.shared, step.split(self.sizes), self.shapes, strict=True):
                own[name] = values[name] + part.view(shape).to(values[name].dtype)
            sums, counts = self._call(own, batch)
            # Differences of losses are small: they keep the digits that the loss has.
            return sums.double(), counts.double()

        if self._stacked:
            try:
                restart()
                return torch.func.vmap(moved, randomness="same")(steps)
            except RuntimeError:
                # An operation without a batching rule, or one that writes to a buffer: one copy at a time from now on.
                self._stacked = False
        found = []
        for step in steps:
            # The same dropout masks for every copy.
            restart()
            found.append(moved(step))
        sums, counts = zip(*found, strict=True)
        return torch.stack(sums), torch.stack(counts)

    def _call(self, values: Mapping[str, Tensor], batch: Any) -> tuple[Tensor, Tensor]:
        named = {place: values[name] for place, name in self._places}
        buffers = {
            f"{prefix}.{name}": buffer.clone()
            for prefix, module in self._modules
            for name, buffer in module.named_buffers(recurse=False)
        }
        return torch.func.functional_call(self._holder, {**named, **buffers}, (batch,), tie_weights=False)

    def _detached(self, weights: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        # Those that do not train are not passed in: the model's own are the same.
        return {
            name: (parameter if weights is None else weights.get(name, parameter)).detach()
            for name, parameter in self._model.named_parameters()
        }

    @contextmanager
    def _untouched(self) -> Iterator[Callable[[], None]]:
        """Random numbers as they were, afterwards; what it gives puts them back in between."""
        device = next(self._model.parameters()).device
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            state = torch.get_rng_state()
            on_device = [torch.cuda.get_rng_state(each) for each in devices]

            def restart() -> None:
                torch.set_rng_state(state)
                for each, own in zip(devices, on_device, strict=True):
                    torch.cuda.set_rng_state(own, each)

            yield restart


class _Holder(nn.Module):
    """Makes of the loss a module's forward, so that weights can be passed in."""

    def __init__(self, model: nn.Module, losses: LossSums) -> None:
        super().__init__()
        self.model = model
        # In a tuple: a loss that is a module itself has its own parameters, which are not the model's.
        self._losses = (losses,)

    def forward(self, batch: Any) -> tuple[Tensor, Tensor]:
        return self._losses[0](self.model, batch)
