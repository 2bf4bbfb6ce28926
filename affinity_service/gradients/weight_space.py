"""The parameters that gradients are taken of, laid out as one vector, and the metric on it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch

import torch
from torch import Tensor

from affinity_service.errors import UserError

# Of Adam's denominator, added to √v̂ (Kingma and Ba 2015, algorithm 1).
ADAM_EPSILON = 1e-8


class WeightSpace:
    """The chosen parameters of a model, flattened and concatenated in the model's order.

    Attributes
    ----------
    shapes : parameter name → shape, of the chosen ones.
    slices : parameter name → its columns. size : p.
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]], layers: Sequence[str] = ()) -> None:
        """``layers`` are patterns such as ``body.*``; a parameter is taken if one fits it, all when there are none.

        Raises
        ------
        UserError
            A pattern fits no parameter.
        """
        for pattern in layers:
            if not any(fnmatch(name, pattern) for name in shapes):
                raise UserError(
                    f"gradients.layers: `{pattern}` fits no parameter of the model; they are {_listed(list(shapes))}"
                )
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.slices: dict[str, slice] = {}
        self.size = 0
        for name, shape in shapes.items():
            if not layers or any(fnmatch(name, pattern) for pattern in layers):
                entries = math.prod(shape)
                self.shapes[name] = tuple(shape)
                self.slices[name] = slice(self.size, self.size + entries)
                self.size += entries

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """(p,) float32 from tensors by parameter name."""
        return torch.cat([tensors[name].detach().float().flatten() for name in self.shapes])

    def unflatten(self, weights: Tensor) -> dict[str, Tensor]:
        """The other way, as views."""
        sizes = [columns.stop - columns.start for columns in self.slices.values()]
        parts = zip(self.shapes.items(), weights.split(sizes), strict=True)
        return {name: part.view(shape) for (name, shape), part in parts}


def optimizer_metric(space: WeightSpace, moments: Mapping[str, Tensor]) -> Tensor:
    """(p,) scale s of the gradient's entries with s² = mean(√v̂) / (√v̂ + ε).

    Distances between gradients scaled so are those that Adam's steps make: a step along g moves the margin of g' by
    Σ g g' / √v̂.

    Parameters
    ----------
    moments : parameter name → second moment v̂ of the gradients, from the optimizer of the base model.
    """
    root = space.flatten(moments).sqrt() + ADAM_EPSILON
    return (root.mean() / root).sqrt()


def rank_one(space: WeightSpace, scale: Tensor) -> Tensor:
    """(p,) the nearest metric that is an outer product per parameter: from the means of s^−2, which √v̂ is in
    proportion to, over its rows and its columns (Adafactor, arXiv 1804.04235, §3). A gradient in two factors then stays
    in two factors."""
    found = torch.empty_like(scale)
    for name, columns in space.slices.items():
        shape = space.shapes[name]
        root = scale[columns].view(shape[0] if shape else 1, -1).double().pow(-2)
        rows, across = root.mean(dim=1), root.mean(dim=0)
        found[columns] = (rows[:, None] * across / root.mean()).rsqrt().flatten().float()
    return found


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:8])
    return shown + (f", … ({len(names)} in all)" if len(names) > 8 else "")
