"""Token sequences of any length as the inputs of a suite: end to end in two arrays, padded a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

# What stands for no token in a padded batch, and for a token that is read but not learned.
PAD = -1


@dataclass(frozen=True)
class TokenRows:
    """N token sequences.

    Attributes
    ----------
    tokens : (Σ lengths,) int32 ids, one sequence after the other.
    learned : (Σ lengths,) bool, the tokens whose loss counts: those of the answers.
    starts : (N + 1,) int64, where each sequence begins; the last is the end.
    """

    tokens: NDArray[np.int32]
    learned: NDArray[np.bool_]
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, sequences: Sequence[tuple[Sequence[int], Sequence[bool]]]) -> TokenRows:
        """From (ids, learned) of every sequence."""
        lengths = [len(ids) for ids, _ in sequences]
        tokens = np.concatenate([np.zeros(0, np.int32), *(np.asarray(ids, np.int32) for ids, _ in sequences)])
        learned = np.concatenate([np.zeros(0, bool), *(np.asarray(own, bool) for _, own in sequences)])
        return cls(tokens, learned, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))

    def __len__(self) -> int:
        return len(self.starts) - 1

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """(N,) tokens of each."""
        return np.diff(self.starts)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, 2, longest), as if all were padded."""
        return len(self), 2, int(self.lengths.max(initial=0))

    def __getitem__(self, rows: Any) -> NDArray[np.int64]:
        """(B, 2, L) of some sequences, L the longest of them, padded on the left so that answers end together: the ids,
        and the ids of learned tokens only; ``PAD`` elsewhere."""
        chosen = np.atleast_1d(np.arange(len(self))[rows])
        width = int(self.lengths[chosen].max(initial=0))
        batch = np.full((len(chosen), 2, width), PAD, np.int64)
        for place, row in enumerate(chosen):
            own = slice(self.starts[row], self.starts[row + 1])
            ids = self.tokens[own]
            if len(ids):
                batch[place, 0, -len(ids) :] = ids
                batch[place, 1, -len(ids) :] = np.where(self.learned[own], ids, PAD)
        return batch


Inputs = NDArray[np.float32] | TokenRows


def bounded_batches(inputs: Inputs, rows: NDArray[np.int64], examples: int, tokens: int) -> Iterator[NDArray[np.int64]]:
    """Positions in `rows`, in batches for passes whose order does not matter: of at most so many examples, and of
    sequences of at most so many tokens, padding counted; neighbours in length go together."""
    if not isinstance(inputs, TokenRows):
        for start in range(0, len(rows), examples):
            yield np.arange(start, min(start + examples, len(rows)))
        return
    lengths = inputs.lengths[rows]
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        # The first is the longest.
        count = max(1, min(examples, tokens // max(1, int(lengths[order[start]]))))
        yield order[start : start + count]
        start += count
