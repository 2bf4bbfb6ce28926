"""Products of gradient blocks with a basis, a few columns of the gradient at a time."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from affinity_service.gradients.per_example import GradientBlock


def chunks(block: GradientBlock, width: int, entries: int = 1 << 24) -> Iterator[tuple[int, int, Tensor]]:
    """(first column, last, (b, columns) values) of a block, so few columns at a time that neither they nor as many
    rows of `width` numbers take more than `entries`."""
    per_row = 1 if block.right is None else block.right.shape[-1]
    rows = max(1, entries // (per_row * max(1, len(block.left), width)))
    for start in range(0, block.left.shape[-1], rows):
        values = block.dense(start, start + rows)
        yield start * per_row, start * per_row + values.shape[1], values


def project(block: GradientBlock, basis: Tensor) -> Tensor:
    """(b, d) products of a block's gradients with the rows (entries, d) of its parameter."""
    parts = (values @ basis[start:stop] for start, stop, values in chunks(block, basis.shape[1]))
    total = next(parts)
    for part in parts:
        total = total + part
    return total
