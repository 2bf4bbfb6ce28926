"""Update rules that the anchored path can follow, over (M, p) displacements of many subsets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass
class Moments:
    """First and second moments (M, p) and the number of steps (M,) so far."""

    first: Tensor
    second: Tensor
    steps: Tensor


class PathOptimizer(Protocol):
    def start(self, w: Tensor) -> Moments:
        """Fresh moments for displacements (M, p)."""
        ...

    def step(self, w: Tensor, weights: Tensor, gradient: Tensor, noise: Tensor, moments: Moments, part: slice) -> None:
        """One step of the subsets `part`, in place.

        w, gradient : theirs. noise : theirs, the variance of a minibatch's gradient. weights : theirs of the base
        model, which the decay pulls to zero. moments : of all subsets.
        """
        ...


def clipping(gradient: Tensor, noise: Tensor, limit: float) -> Tensor:
    """(M, 1) factor by which clipping to a global norm shortens a minibatch's gradient, at its expected length."""
    length = (gradient.square().sum(dim=1) + noise.sum(dim=1)).sqrt()
    return (limit / length.clamp(min=1e-30)).clamp(max=1)[:, None] if limit else torch.ones_like(length)[:, None]


@dataclass(frozen=True)
class AdamW:
    """Decoupled weight decay (Loshchilov and Hutter 2019), its second moment fed with the expected square."""

    learning_rate: float
    weight_decay: float
    clip: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8

    def start(self, w: Tensor) -> Moments:
        return Moments(torch.zeros_like(w), torch.zeros_like(w), torch.zeros(len(w), device=w.device))

    def step(self, w: Tensor, weights: Tensor, gradient: Tensor, noise: Tensor, moments: Moments, part: slice) -> None:
        factor = clipping(gradient, noise, self.clip)
        first, second, steps = moments.first[part], moments.second[part], moments.steps[part]
        steps += 1
        first.mul_(self.betas[0]).add_(gradient * factor, alpha=1 - self.betas[0])
        second.mul_(self.betas[1]).add_((gradient.square() + noise).mul_(factor**2), alpha=1 - self.betas[1])
        corrections = [(1 - beta**steps)[:, None] for beta in self.betas]
        update = (first / corrections[0]).div_((second / corrections[1]).sqrt_().add_(self.epsilon))
        w.mul_(1 - self.learning_rate * self.weight_decay)
        w.sub_(self.learning_rate * self.weight_decay * weights)
        w.sub_(update, alpha=self.learning_rate)


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum as torch has it; decay is added to the gradient."""

    learning_rate: float
    weight_decay: float
    momentum: float = 0.9
    clip: float = 0.0

    def start(self, w: Tensor) -> Moments:
        return Moments(torch.zeros_like(w), w.new_zeros(0), torch.zeros(len(w), device=w.device))

    def step(self, w: Tensor, weights: Tensor, gradient: Tensor, noise: Tensor, moments: Moments, part: slice) -> None:
        moments.steps[part] += 1
        velocity = moments.first[part]
        decayed = (weights + w).mul_(self.weight_decay)
        velocity.mul_(self.momentum).add_(gradient * clipping(gradient, noise, self.clip)).add_(decayed)
        w.sub_(velocity, alpha=self.learning_rate)
