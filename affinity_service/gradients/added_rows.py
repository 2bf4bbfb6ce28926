"""A study's rows and anchor with those of added tasks behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from affinity_service.gradients.new_task import NewTask
from affinity_service.gradients.store import FeatureRows

Split = Literal["train", "validation"]
# Rows whose products are in single precision at a time.
_ROWS = 1 << 14


def rows_with(
    own: FeatureRows, added: Sequence[NewTask], tasks: int, split: Split, own_coordinates: int = 0
) -> FeatureRows:
    """A study's rows of one split and behind them those of the added tasks, numbered from `tasks` on.

    Features are (N, d + Σ(k + q)), zero in the further coordinates of other tasks. Where each row's last h =
    `own_coordinates` are those of its own task's head they are (N, d + max(h, q)), and products (N, W + Σk): of other
    tasks with the directions of an added one what the study's means span of those, see ``spanned_by``.
    """
    h = own_coordinates
    features = _features_apart(own, added, split, h) if h else _features(own, added, split)
    numbers = [
        np.full(len(new.tensors[f"{split}_targets"]), number, own.task_of_row.dtype)
        for number, new in enumerate(added, start=tasks)
    ]

    def joined(field: str) -> NDArray:
        return np.concatenate([getattr(own, field), *(new.tensors[f"{split}_{field}"].numpy() for new in added)])

    return FeatureRows(
        features,
        joined("margins"),
        joined("targets"),
        np.concatenate([own.task_of_row, *numbers]),
        joined("example"),
        None if own.products is None else _products(own.products, added, split),
    )


def _features(own: FeatureRows, added: Sequence[NewTask], split: Split) -> NDArray[np.float32]:
    parts = [new.tensors[f"{split}_features"].numpy() for new in added]
    d = own.features.shape[1]
    features = np.zeros((len(own.features) + sum(map(len, parts)), d + sum(new.more for new in added)), np.float32)
    features[: len(own.features), :d] = own.features
    row, column = len(own.features), d
    for new, part in zip(added, parts, strict=True):
        rows = slice(row, row + len(part))
        features[rows, :d] = part[:, :d]
        features[rows, column : column + new.more] = part[:, d:]
        row, column = row + len(part), column + new.more
    return features


def _features_apart(own: FeatureRows, added: Sequence[NewTask], split: Split, h: int) -> NDArray[np.float32]:
    parts = [own.features, *(new.tensors[f"{split}_features"].numpy() for new in added)]
    width = own.features.shape[1] - h + max([h, *(new.head_size for new in added)])
    return np.concatenate([np.pad(part, ((0, 0), (0, width - part.shape[1]))) for part in parts])


def _products(own: NDArray[np.float16], added: Sequence[NewTask], split: Split) -> NDArray[np.float16]:
    """(N, W + Σk)."""
    means = own.shape[1]
    parts = [own, *(new.tensors[f"{split}_products"].numpy()[:, :means] for new in added)]
    span = torch.cat([new.tensors["span"] for new in added], dim=1).numpy()
    found = np.empty((sum(map(len, parts)), means + span.shape[1]), np.float16)
    row, column = 0, means
    for number, part in enumerate(parts):
        for start in range(0, len(part), _ROWS):
            some = part[start : start + _ROWS]
            rows = slice(row + start, row + start + len(some))
            found[rows, :means], found[rows, means:] = some, some.astype(np.float32) @ span
        if number:
            exact = added[number - 1].tensors[f"{split}_products"].numpy()[:, means:]
            found[row : row + len(part), column : column + exact.shape[1]] = exact
            column += exact.shape[1]
        row += len(part)
    return found


def anchor_with(anchor: Mapping[str, Tensor], added: Sequence[NewTask]) -> dict[str, Tensor]:
    """A study's anchor over its own parameters and those of the added heads.

    Directions of two added tasks need not be orthogonal: no row has coordinates in both, or they are among the means
    that each subset makes orthonormal itself.
    """
    heads, p = sum(new.head_size for new in added), len(anchor["weights"])
    extended = dict(anchor)
    extended["weights"] = torch.cat([anchor["weights"], *(new.tensors["head_space"] for new in added)])
    extended["scale"] = torch.cat([anchor["scale"], *(new.tensors["head_scale"] for new in added)])
    for name in ("mean", "validation_mean", "square"):
        rows, column = [torch.nn.functional.pad(anchor[name], (0, heads))], p
        for new in added:
            row = torch.zeros(1, p + heads)
            row[0, :p] = new.tensors[name][:p]
            row[0, column : column + new.head_size] = new.tensors[name][p:]
            rows.append(row)
            column += new.head_size
        extended[name] = torch.cat(rows)
    if "own" in anchor:
        extended["own"] = _own(anchor["own"], added, p, p + heads)
        extended["outside"] = torch.cat([anchor["outside"], *(new.tensors["directions"].T for new in added)])
        extended["outside_of"] = _outside_of(len(anchor["outside"]), added)
    elif "basis" in anchor:
        d = anchor["basis"].shape[1]
        basis = torch.zeros(p + heads, d + sum(new.more for new in added))
        basis[:p, :d] = anchor["basis"]
        weight, column = p, d
        for new in added:
            k, q = new.more - new.head_size, new.head_size
            basis[:p, column : column + k] = new.tensors["directions"]
            basis[weight : weight + q, column + k : column + new.more] = torch.eye(q)
            weight, column = weight + q, column + new.more
        extended["basis"] = basis
    return extended


def _own(own: Tensor, added: Sequence[NewTask], p: int, size: int) -> Tensor:
    """(T + A, max(h, q)) columns of each task's head among `size` weights, the added heads the last of them."""
    last = max([own.shape[1], *(new.head_size for new in added)])
    table = torch.full((len(own) + len(added), last), size, dtype=own.dtype)
    table[: len(own), : own.shape[1]] = torch.where(own < p, own, size)
    for row, new in enumerate(added, start=len(own)):
        table[row, : new.head_size] = torch.arange(p, p + new.head_size)
        p += new.head_size
    return table


def _outside_of(tasks: int, added: Sequence[NewTask]) -> Tensor:
    """(T + A, max k) as in ``fitting.subset_weights.Anchor``: a study's task has its mean, an added one its
    directions."""
    counts = [1] * tasks + [new.tensors["directions"].shape[1] for new in added]
    rows = torch.arange(sum(counts)).split(counts)
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=sum(counts))
