"""What each of many subsets adds to the basis that all share: its own tasks' means outside it.

The means of one subset need not be independent, and one that the basis holds is rounding. An eigendecomposition of
their products gives an orthonormal basis of each subset's: directions = meansᵀ · mixing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from affinity_service.gradients.outside_means import LEAST_SQUARE

# Numbers of the gathered rows of some subsets, as many as stay in a core's cache.
_ENTRIES = 1 << 20


@dataclass(frozen=True)
class OwnMeans:
    """Of M subsets, each with at most m means.

    Attributes
    ----------
    table : (W + 1, p) means outside the basis, over the metric; the last row is zero.
    columns : (M, m) rows of the table that a subset has, W in places that stay empty.
    mixing : (M, m, m), by which a subset's means are made orthonormal; zero where it has fewer directions.
    """

    table: Tensor
    columns: Tensor
    mixing: Tensor

    @classmethod
    def of(cls, outside: Tensor, scale: Tensor, columns: Sequence[Sequence[int]]) -> OwnMeans:
        """outside : (W, p). scale : (p,) the metric. columns : of every subset the rows of `outside` that it has."""
        device = outside.device
        table = torch.cat([outside, outside.new_zeros(1, outside.shape[1])])
        found = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(own, dtype=torch.long, device=device) for own in columns], True, padding_value=len(outside)
        )
        grams = [rows @ rows.mT for _, rows in _gathered(table, found)]
        values, vectors = torch.linalg.eigh(torch.cat(grams).double())
        # The strongest first, so that a subset's directions are the same however many places stay empty.
        values, vectors = values.flip(1), vectors.flip(2)
        roots = torch.where(values > LEAST_SQUARE, values.clamp(min=LEAST_SQUARE).rsqrt(), 0)
        mixing = (vectors * roots[:, None, :]).masked_fill((found == len(outside))[:, :, None], 0)
        return cls(table / scale, found, mixing.to(outside.dtype))

    @property
    def width(self) -> int:
        """m."""
        return self.columns.shape[1]

    def taken(self, index: Tensor) -> OwnMeans:
        """Of some of the subsets."""
        return OwnMeans(self.table, self.columns[index], self.mixing[index])

    def coordinates(self, w: Tensor) -> Tensor:
        """(M, p) displacements → (M, m) along the directions."""
        along = [torch.bmm(rows, w[part, :, None])[:, :, 0] for part, rows in self._rows()]
        return torch.bmm(torch.cat(along)[:, None, :], self.mixing)[:, 0]

    def gradient(self, a: Tensor) -> Tensor:
        """(M, m) sums Φᵀr → (M, p) the gradients they stand for."""
        mixed = self.coefficients(a)
        return torch.cat([torch.bmm(mixed[part, None, :], rows)[:, 0] for part, rows in self._rows()])

    def coefficients(self, c: Tensor) -> Tensor:
        """(M, m) coordinates → (M, m), what the rows' products with the subsets' means are multiplied with."""
        return torch.bmm(self.mixing, c[:, :, None])[:, :, 0]

    def features(self, products: Tensor, subsets: Tensor) -> Tensor:
        """(k, n, m) features of n rows along the directions of k subsets; products (n, W) of the rows with all
        means."""
        columns, mixing = self.columns[subsets], self.mixing[subsets]
        known = products[:, columns.clamp(max=products.shape[1] - 1).flatten()].to(mixing.dtype)
        return torch.bmm(known.view(len(products), *columns.shape).transpose(0, 1), mixing)

    def _rows(self) -> Iterable[tuple[slice, Tensor]]:
        """(k, m, p) rows of k subsets after another; those of few subsets are gathered once."""
        if self.columns.numel() * self.table.shape[1] <= _ENTRIES:
            return self._few
        return _gathered(self.table, self.columns)

    @cached_property
    def _few(self) -> list[tuple[slice, Tensor]]:
        return list(_gathered(self.table, self.columns))


def _gathered(table: Tensor, columns: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """(k, m, p) rows of k subsets after another."""
    together = max(1, _ENTRIES // max(1, columns.shape[1] * table.shape[1]))
    for start in range(0, len(columns), together):
        part = slice(start, min(start + together, len(columns)))
        yield part, table[columns[part]]
