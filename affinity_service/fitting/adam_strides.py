"""Many steps of AdamW (Loshchilov and Hutter 2019) at once, between two looks at the examples.

Until the next look the gradient is g + jδ before step j + 1 and its expected square s. Moments are known in advance:
the first is a sum of m, g and δ, the bias-corrected second lies between what it was and s, so much of the way ω. The
length of a step is a smooth function of ω, so it is taken at some of the steps (`NODES`) and by the polynomial through
these (Lagrange's) at the others: passes over the weights are then as few.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor

# Where in a stride lengths are taken, from its first step to its last: where Chebyshev's polynomials are extreme.
NODES = (0.0, 0.25, 0.75, 1.0)
# Up to so many steps are sooner taken one by one.
FEW_STEPS = 6


@dataclass(frozen=True)
class Move:
    """w −= (first·m + gradient·g + drift·δ) / (√(v + grown·s) + shift), numbers per subset, (M, 1) in float64; of one
    subset alone plain ones, which travel with the operation.

    The second moment after j steps, βʲv + (1 − βʲ)s, is βʲ(v + (β⁻ʲ − 1)s): the factor is in the other numbers.
    """

    first: Any
    gradient: Any
    drift: Any
    shift: Any
    grown: float


class Rates(Protocol):
    @property
    def learning_rate(self) -> float: ...

    @property
    def weight_decay(self) -> float: ...

    @property
    def betas(self) -> tuple[float, float]: ...

    @property
    def epsilon(self) -> float: ...


@lru_cache(maxsize=512)
def each_step(rates: Rates, taken: tuple[float, ...], count: int) -> list[tuple[float, Any, Any]]:
    """Of every step what the square counts in the second moment, what is added to its root, and how long it is; numbers
    per subset as in ``Move``."""
    root, length = _roots_and_lengths(rates, taken, count)
    found = zip(rates.epsilon / root, length / root, strict=True)
    return [(rates.betas[1] ** -j - 1, _numbers(shift), _numbers(own)) for j, (shift, own) in enumerate(found, start=1)]


@lru_cache(maxsize=512)
def stride_moves(rates: Rates, taken: tuple[float, ...], count: int) -> list[Move]:
    """What adds up to `count` steps of M subsets that have taken so many before, none of them 0; the decay of w itself
    comes first. Questions one after the other ask for the same again."""
    one, two = rates.betas
    root, length = _roots_and_lengths(rates, taken, count)
    number = torch.arange(1, count + 1, dtype=torch.float64)[:, None]
    chosen = [round(node * (count - 1)) for node in NODES]
    omega = (1 - two**number) / (1 - two ** (torch.tensor(taken, dtype=torch.float64) + number))
    part = _lagrange(omega, chosen) * length
    m, g, drift = ((part * each).sum(dim=1) / root[chosen] for each in first_moment(one, number))
    return [
        Move(
            _numbers(m[k]),
            _numbers(g[k]),
            _numbers(drift[k]),
            shift=_numbers(rates.epsilon / root[j]),
            grown=two ** -(j + 1) - 1,
        )
        for k, j in enumerate(chosen)
    ]


def _roots_and_lengths(rates: Rates, taken: tuple[float, ...], count: int) -> tuple[Tensor, Tensor]:
    """(n, M) what the root of the second moment is multiplied with to be unbiased, and how long a step is; the decay of
    later steps shortens what was moved before."""
    one, two = rates.betas
    number = torch.arange(1, count + 1, dtype=torch.float64)[:, None]
    at = torch.tensor(taken, dtype=torch.float64) + number
    root = (two**number / (1 - two**at)).sqrt()
    return root, rates.learning_rate * (1 - rates.learning_rate * rates.weight_decay) ** (count - number) / (
        1 - one**at
    )


def _numbers(x: Tensor) -> Any:
    return float(x) if len(x) == 1 else x[:, None]


def first_moment(beta: float, steps: Any) -> tuple[Any, Any, Any]:
    """What m, g and δ count in the first moment after so many steps, a number or a tensor."""
    kept = beta**steps
    return kept, 1 - kept, steps - 1 - (beta - kept) / (1 - beta)


def _lagrange(omega: Tensor, chosen: Sequence[int]) -> Tensor:
    """(K, n, M) of polynomials that are 1 at one of the chosen steps and 0 at the others, at all ω (n, M)."""
    nodes = omega[list(chosen)]
    own = torch.eye(len(nodes), dtype=torch.bool, device=omega.device)[:, :, None]
    # (K, K, …): the differences to all other nodes, whose product it is.
    among = (nodes[:, None] - nodes).masked_fill(own, 1).prod(dim=1)
    away = (omega - nodes[:, None]).expand(len(nodes), -1, -1, -1).masked_fill(own[..., None], 1).prod(dim=1)
    return away / among[:, None]


def take(moves: Sequence[Move], moved: Tensor, moments: tuple[Tensor, Tensor], fed: Sequence[Tensor]) -> None:
    """Move w (M, p) in place. moments : m, v as they are before the steps. fed : g, s and δ, all (M, p)."""
    (first, second), (gradient, square, drift) = moments, fed
    for move in moves:
        denominator = torch.add(second, square, alpha=move.grown).sqrt_()
        if isinstance(move.first, float):
            length = torch.mul(first, move.first).add_(gradient, alpha=move.gradient).add_(drift, alpha=move.drift)
            denominator.add_(move.shift)
        else:
            own = (x.to(moved) for x in (move.first, move.gradient, move.drift, move.shift))
            of_first, of_gradient, of_drift, shift = own
            length = torch.mul(first, of_first).addcmul_(gradient, of_gradient).addcmul_(drift, of_drift)
            denominator.add_(shift)
        moved.addcdiv_(length, denominator, value=-1)
