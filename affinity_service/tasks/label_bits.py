"""Which examples have a label for a task, a bit each: questions about many sets of tasks read little memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Examples packed at a time, of which a mask of all tasks stays in a core's cache; a multiple of a word's bits.
_TOGETHER = 1 << 10
_WORD = 64


@dataclass(frozen=True)
class LabelBits:
    """words : (T, ⌈n/64⌉) uint64, bit i of a task's row (in the order of ``packbits``) is set where example i has a
    label for it; those behind the last example are not. examples : n."""

    words: NDArray[np.uint64]
    examples: int

    @classmethod
    def from_mask(cls, observed: NDArray[np.bool_]) -> LabelBits:
        """observed : (n, T), true where the example has a label for the task."""
        examples, tasks = observed.shape
        found = np.zeros((tasks, -(-examples // _WORD) * _WORD // 8), np.uint8)
        for start in range(0, examples, _TOGETHER):
            packed = np.packbits(observed[start : start + _TOGETHER].T, axis=1)
            found[:, start // 8 : start // 8 + packed.shape[1]] = packed
        return cls(found.view(np.uint64), examples)

    def rows(self, tasks: Sequence[int]) -> NDArray[np.int64]:
        """Examples with a label for at least one of the tasks, in their order."""
        return np.flatnonzero(np.unpackbits(self._any(tasks).view(np.uint8), count=self.examples))

    def count(self, tasks: Sequence[int]) -> int:
        """How many these are."""
        return int(_ones(self._any(tasks)))

    def counts(self) -> NDArray[np.int64]:
        """(T,) examples of each task."""
        return _ones(self.words)

    def _any(self, tasks: Sequence[int]) -> NDArray[np.uint64]:
        """(words,) of the examples with a label for at least one of the tasks."""
        return np.bitwise_or.reduce(self.words[list(tasks)], axis=0)


def _ones(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """(..., words) → (...): bits that are set."""
    # Of numpy 2; before it, the bits are laid out one by one.
    if hasattr(np, "bitwise_count"):
        return np.bitwise_count(words).sum(axis=-1, dtype=np.int64)
    return np.unpackbits(words.view(np.uint8), axis=-1).sum(axis=-1, dtype=np.int64)
