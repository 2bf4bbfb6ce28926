"""The suite: examples, labels with missing ones, splits, and what each task is."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from affinity_service.artifacts import fingerprint
from affinity_service.errors import UserError
from affinity_service.tasks.label_bits import LabelBits
from affinity_service.tasks.tokens import Inputs, TokenRows

Kind = Literal["binary", "multiclass", "regression", "sequence"]
# What a column of a table can be; a sequence is no column of numbers.
COLUMN_KINDS: tuple[Kind, ...] = ("binary", "multiclass", "regression")
SPLITS = ("train", "validation", "test")
TRAIN, VALIDATION, TEST = range(3)
# Examples at a time, and numbers of theirs.
STANDARDISED_TOGETHER, STANDARDISED_NUMBERS = 4096, 1 << 23


@dataclass(frozen=True)
class Task:
    """One task. `classes` counts outputs of a multi-class task (2 or more); `mean` and `scale` undo the
    standardisation of a regression target: raw = standardised · scale + mean. A `sequence` is an answer to be written,
    token by token; its loss is the mean over the answer's tokens."""

    name: str
    kind: Kind
    classes: int = 1
    mean: float = 0.0
    scale: float = 1.0

    @property
    def outputs(self) -> int:
        """Columns that the task's head produces."""
        return self.classes if self.kind == "multiclass" else 1


@dataclass(frozen=True)
class Suite:
    """Many tasks over one set of examples.

    Attributes
    ----------
    inputs : (N, ...) float32, what the model reads; or token sequences, which hold the answers as well.
    labels : (N, T) float32. {0, 1} for binary, the class index for multi-class, the standardised value for
        regression, 1 for an answer that is a sequence; NaN where an example has no label for a task.
    split : (N,) int8, indices into ``SPLITS``.
    tasks : T tasks, in the order of the columns of ``labels``.
    left_out : name and reason of every task that was in the source and is not in the suite.
    feature_names : d names where the source has them, else empty; messages use them.
    facts : what the source counted that the arrays do not show, such as the nodes and edges of a graph.
    """

    inputs: Inputs
    labels: NDArray[np.float32]
    split: NDArray[np.int8]
    tasks: tuple[Task, ...]
    left_out: tuple[tuple[str, str], ...] = ()
    feature_names: tuple[str, ...] = ()
    facts: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_arrays(
        cls,
        X: ArrayLike,
        Y: ArrayLike,
        task_names: Sequence[str] | None = None,
        kinds: Mapping[str, Kind] | Sequence[Kind] | Kind | None = None,
        mask: ArrayLike | None = None,
        validation: float = 0.2,
        test: float = 0.2,
        seed: int = 0,
    ) -> Suite:
        """A suite from arrays as scikit-learn takes them; data frames and sparse matrices too.

        Parameters
        ----------
        X : (N, ...) numbers.
        Y : (N, T) labels, NaN or None for missing ones.
        task_names : T names; the columns of a data frame, else task_0, task_1, … when absent.
        kinds : by task name, in order, or one for all; inferred from the values where absent.
        mask : (N, T) bool, true where the label is known.
        validation, test, seed : fractions of the examples held out, and the seed of the split.

        Raises
        ------
        UserError
            Shapes that do not fit, values that are no labels, an unknown kind. What the values mean is checked
            when the suite is loaded.
        """
        from affinity_service.tasks.arrays import suite_from_arrays

        return suite_from_arrays(X, Y, task_names, kinds, mask, validation, test, seed)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def names(self) -> list[str]:
        return [task.name for task in self.tasks]

    @cached_property
    def observed(self) -> NDArray[np.bool_]:
        """(N, T): whether the example has a label for the task."""
        return ~np.isnan(self.labels)

    def pairs(self, split: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Every observed (example, task) of one split, sorted by task, then example."""
        in_split = np.flatnonzero(self.split == split)
        task, row = np.nonzero(self.observed[in_split].T)
        return in_split[row], task.astype(np.int32)

    def rows(self, split: int, tasks: Sequence[int] | None = None) -> NDArray[np.int64]:
        """Examples of one split that have a label for at least one of the tasks, of all when None."""
        examples, bits = self._labelled[split]
        return examples[bits.rows(range(len(self.tasks)) if tasks is None else tasks)]

    def count(self, split: int, tasks: Sequence[int]) -> int:
        """How many ``rows`` of the tasks there are."""
        return self._labelled[split][1].count(tasks)

    def label_counts(self, split: int) -> NDArray[np.int64]:
        """(T,) labels of every task in one split."""
        return self._labelled[split][1].counts()

    @cached_property
    def _labelled(self) -> list[tuple[NDArray[np.int64], LabelBits]]:
        """Per split its examples, and which tasks they have a label for."""
        examples = [np.flatnonzero(self.split == code) for code in range(len(SPLITS))]
        return [(own, LabelBits.from_mask(self.observed[own])) for own in examples]

    @cached_property
    def content_hash(self) -> str:
        """Stands for the data in fingerprints."""
        digest = hashlib.sha256()
        read = self.inputs
        inputs = (read.tokens, read.learned, read.starts) if isinstance(read, TokenRows) else (read,)
        for array in (*inputs, self.labels, self.split):
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return fingerprint([digest.hexdigest(), [vars(task) for task in self.tasks]])

    def summary(self) -> dict[str, Any]:
        """What `suite.json` says: sizes, tasks with their counts, what was left out and why."""
        tasks = []
        for index, task in enumerate(self.tasks):
            entry: dict[str, Any] = {**vars(task)}
            for code, split in enumerate(SPLITS):
                values = self.labels[(self.split == code) & self.observed[:, index], index]
                entry[split] = len(values)
                if task.kind == "binary":
                    entry[f"{split}_positives"] = int(values.sum())
            tasks.append(entry)
        return {
            "examples": len(self),
            "input_shape": list(self.inputs.shape[1:]),
            "splits": {name: int((self.split == code).sum()) for code, name in enumerate(SPLITS)},
            "tasks": tasks,
            "facts": dict(self.facts),
            "left_out": [{"name": name, "reason": reason} for name, reason in self.left_out],
            "content_hash": self.content_hash,
        }


def seeded_split(examples: int, validation: float, test: float, seed: int) -> NDArray[np.int8]:
    """(N,) codes into ``SPLITS``: the given fractions, rounded, at random by the seed."""
    order = np.random.default_rng(seed).permutation(examples)
    split = np.full(examples, TRAIN, np.int8)
    held_out = round(examples * validation)
    split[order[:held_out]] = VALIDATION
    split[order[held_out : held_out + round(examples * test)]] = TEST
    return split


def standardise_inputs(suite: Suite, places_alike: bool = False) -> Suite:
    """Inputs to mean 0 and variance 1 over the training examples; a constant column becomes 0. Tokens stay as they are.

    places_alike : one mean and variance per entry of the last axis, over all places of the axes before it, which hold
    things of one kind.
    """
    if isinstance(suite.inputs, TokenRows):
        return suite
    training = np.flatnonzero(suite.split == TRAIN)
    # In pieces: doubles of all inputs would be the largest thing in memory.
    together = max(1, min(STANDARDISED_TOGETHER, STANDARDISED_NUMBERS // max(1, suite.inputs[0].size)))
    pieces = np.array_split(training, max(1, len(training) // together))
    axes = tuple(range(suite.inputs.ndim - 1)) if places_alike else (0,)
    count = len(training) * math.prod(suite.inputs.shape[axis] for axis in axes[1:])
    mean = sum(suite.inputs[own].sum(axis=axes, dtype=np.float64) for own in pieces) / count
    square = sum(np.square(suite.inputs[own] - mean).sum(axis=axes) for own in pieces) / count
    deviation = np.sqrt(square)
    # A column constant up to rounding carries no information and must not be blown up to unit variance.
    constant = deviation <= 1e-6 * np.maximum(np.abs(mean), 1e-30)
    deviation[constant] = np.inf
    inputs = np.empty(suite.inputs.shape, np.float32)
    for start in range(0, len(inputs), together):
        part = slice(start, start + together)
        inputs[part] = (suite.inputs[part] - mean) / deviation
    return replace(suite, inputs=inputs)


def standardise_targets(suite: Suite) -> Suite:
    """Regression labels to mean 0 and variance 1 over the training examples, remembered in the tasks."""
    labels, tasks = suite.labels.copy(), list(suite.tasks)
    for column, task in enumerate(tasks):
        if task.kind == "regression":
            known = labels[suite.split == TRAIN, column].astype(np.float64)
            mean, scale = float(np.nanmean(known)), float(np.nanstd(known))
            if not scale > 1e-12 * max(1.0, abs(mean)):
                raise UserError(
                    f"task `{task.name}`: all training labels are {mean:g}; a regression task needs labels that vary"
                )
            labels[:, column] = (labels[:, column].astype(np.float64) - mean) / scale
            tasks[column] = replace(task, mean=mean, scale=scale)
    return replace(suite, labels=labels, tasks=tuple(tasks))
