"""Which examples the models of a stack are evaluated on: each on those with a label for one of its tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Models whose rows are mostly the same see all of them together: one product over shared inputs costs less than
# gathering each model's own.
_SHARED = 1.25


@dataclass(frozen=True)
class Part:
    """One forward pass.

    Attributes
    ----------
    models : which models of the stack take part.
    rows : (B,) examples that all of them see, or (M', B) of each its own.
    """

    models: slice | Tensor
    rows: Tensor


def evaluation_parts(rows: Sequence[NDArray[np.int64]], together: int, padding: int, device: str) -> list[Part]:
    """Passes of at most `together` rows in which every model sees its own rows once, maybe among rows of others.

    Parameters
    ----------
    rows : examples of each model. padding : an example without labels.
    """
    union = np.unique(np.concatenate(rows))
    if len(union) * len(rows) <= _SHARED * sum(map(len, rows)):
        return [Part(slice(None), part) for part in torch.as_tensor(union, device=device).split(together)]
    return list(_of_each(rows, together, padding, device))


def _of_each(rows: Sequence[NDArray[np.int64]], together: int, padding: int, device: str) -> Iterator[Part]:
    longest = max(map(len, rows))
    for start in range(0, longest, together):
        active = [number for number, own in enumerate(rows) if len(own) > start]
        index = np.full((len(active), min(together, longest - start)), padding, np.int64)
        for line, number in zip(index, active, strict=True):
            own = rows[number][start : start + together]
            line[: len(own)] = own
        models = slice(None) if len(active) == len(rows) else torch.as_tensor(active, device=device)
        yield Part(models, torch.as_tensor(index, device=device))
