"""Update rules over the weights (M, p) of many subsets: real ones in true trainings, displacements in estimates.

A step is a handful of elementwise operations. All steps on one gradient run over blocks of columns that stay in a
core's cache: over whole arrays each operation would wait for main memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from affinity_service.config import TrainConfig
from affinity_service.fitting.adam_strides import FEW_STEPS, each_step, first_moment, stride_moves, take

# Entries of a block of one array, so few that all steps on it find it in the cache; a GPU takes whole arrays.
_BLOCK = {"cpu": 1 << 15}


@dataclass
class Moments:
    """First and second moments (M, p) and the number of steps (M,) so far, on the CPU: numbers per subset are worked
    out there."""

    first: Tensor
    second: Tensor
    steps: Tensor


class UpdateRule(Protocol):
    def start(self, w: Tensor) -> Moments:
        """Fresh moments for displacements (M, p)."""
        ...

    def feed(self, gradient: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """What steps take until the examples are looked at again: the gradient (M, p), clipped at its expected length,
        and its expected square; `noise` (M, p) is the variance of a minibatch's gradient."""
        ...

    def length(self, gradient: Tensor, square: Tensor) -> Tensor:
        """(M,) how far a step along gradients (M, p) goes, up to a factor, where their squares are expected so."""
        ...

    def step(
        self,
        w: Tensor,
        weights: Tensor,
        gradient: Tensor,
        square: Tensor,
        moments: Moments,
        part: slice,
        count: int = 1,
        drift: Tensor | None = None,
    ) -> None:
        """So many steps of the subsets `part`, in place.

        w, gradient, square : theirs, the last two as ``feed`` gives them. weights : theirs of the base model, which the
        decay pulls to zero. moments : of all subsets. drift : (M, p) by which their gradients change after each step.
        """
        ...


def clipping(gradient: Tensor, noise: Tensor, limit: float) -> Tensor:
    """(M, 1) factor by which clipping to a global norm shortens a minibatch's gradient, at its expected length."""
    length = (gradient.square().sum(dim=1) + noise.sum(dim=1)).sqrt()
    return (limit / length.clamp(min=1e-30)).clamp(max=1)[:, None] if limit else torch.ones_like(length)[:, None]


def _blocks(w: Tensor) -> Iterator[slice]:
    columns = max(64, _BLOCK.get(w.device.type, w.numel()) // max(1, len(w)))
    for start in range(0, w.shape[1], columns):
        yield slice(start, start + columns)


@dataclass(frozen=True)
class AdamW:
    """Decoupled weight decay (Loshchilov and Hutter 2019), its second moment fed with the expected square."""

    learning_rate: float
    weight_decay: float
    clip: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8

    def start(self, w: Tensor) -> Moments:
        return Moments(torch.zeros_like(w), torch.zeros_like(w), torch.zeros(len(w)))

    def feed(self, gradient: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        factor = clipping(gradient, noise, self.clip)
        return gradient * factor, gradient.square().add_(noise).mul_(factor**2)

    def length(self, gradient: Tensor, square: Tensor) -> Tensor:
        total = gradient.new_zeros(len(gradient))
        for columns in _blocks(gradient):
            total += (gradient[:, columns].square() / (square[:, columns] + self.epsilon**2)).sum(dim=1)
        return total.sqrt_()

    def step(
        self,
        w: Tensor,
        weights: Tensor,
        gradient: Tensor,
        square: Tensor,
        moments: Moments,
        part: slice,
        count: int = 1,
        drift: Tensor | None = None,
    ) -> None:
        taken = tuple(moments.steps[part].tolist())
        moments.steps[part] += count
        kept, held = (1 - self.learning_rate * self.weight_decay) ** count, self.betas[1] ** count
        # Without a second moment so far nothing is known of how it goes on.
        moves = stride_moves(self, taken, count) if count > FEW_STEPS and drift is not None and all(taken) else None
        steps = each_step(self, taken, count) if moves is None else []
        for columns in _blocks(w):
            own, fed = gradient[:, columns], square[:, columns]
            first, second, moved = moments.first[part, columns], moments.second[part, columns], w[:, columns]
            change = None if drift is None else drift[:, columns]
            moved.mul_(kept).sub_(weights[:, columns], alpha=1 - kept)
            if moves is not None and change is not None:
                of_first, of_gradient, of_drift = first_moment(self.betas[0], count)
                take(moves, moved, (first, second), (own, fed, change))
                first.mul_(of_first).add_(own, alpha=of_gradient).add_(change, alpha=of_drift)
                own.add_(change, alpha=count)
            for grown, shift, length in steps:
                first.lerp_(own, 1 - self.betas[0])
                if change is not None:
                    own.add_(change)
                denominator = torch.add(second, fed, alpha=grown).sqrt_().add_(_on(shift, w))
                if isinstance(length, float):
                    moved.addcdiv_(first, denominator, value=-length)
                else:
                    moved.addcdiv_(first, denominator.div_(_on(length, w)), value=-1)
            second.mul_(held).add_(fed, alpha=1 - held)


def _on(number: Any, w: Tensor) -> Any:
    """A number per subset where the weights are."""
    return number.to(w) if isinstance(number, Tensor) else number


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum as torch has it; decay is added to the gradient."""

    learning_rate: float
    weight_decay: float
    momentum: float = 0.9
    clip: float = 0.0

    def start(self, w: Tensor) -> Moments:
        return Moments(torch.zeros_like(w), w.new_zeros(0), torch.zeros(len(w)))

    def feed(self, gradient: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        return gradient * clipping(gradient, noise, self.clip), gradient.new_zeros(len(gradient), 0)

    def length(self, gradient: Tensor, square: Tensor) -> Tensor:
        return gradient.norm(dim=1)

    def step(
        self,
        w: Tensor,
        weights: Tensor,
        gradient: Tensor,
        square: Tensor,
        moments: Moments,
        part: slice,
        count: int = 1,
        drift: Tensor | None = None,
    ) -> None:
        moments.steps[part] += count
        for columns in _blocks(w):
            moved, velocity, own = w[:, columns], moments.first[part, columns], gradient[:, columns]
            for _ in range(count):
                velocity.mul_(self.momentum).add_(own)
                if drift is not None:
                    own.add_(drift[:, columns])
                velocity.add_(weights[:, columns] + moved, alpha=self.weight_decay)
                moved.sub_(velocity, alpha=self.learning_rate)


def training_optimizer(config: TrainConfig) -> UpdateRule:
    """The rule that a training's config names."""
    if config.optimizer == "sgd":
        return SGD(config.learning_rate, config.weight_decay, config.momentum, config.gradient_clipping)
    return AdamW(config.learning_rate, config.weight_decay, config.gradient_clipping)
