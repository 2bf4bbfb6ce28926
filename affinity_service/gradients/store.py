"""The feature store: Arrow IPC files of (example, task) rows, memory-mapped on reading.

Rows are sorted by split, task and example, and cut into shards of equal length, so a task's rows lie together.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from affinity_service.artifacts import StudyFolder
from affinity_service.errors import UserError
from affinity_service.gradients.features import Features
from affinity_service.tasks.suite import TRAIN, VALIDATION, Suite

LAYOUT = "gradients/layout.json"


def pair_rows(suite: Suite) -> tuple[NDArray[np.int8], NDArray[np.int32], NDArray[np.int64]]:
    """Split, task and example of every row of the store: training rows first, then validation."""
    parts = [(split, *suite.pairs(split)) for split in (TRAIN, VALIDATION)]
    split = np.concatenate([np.full(len(example), code, np.int8) for code, example, _ in parts])
    return split, np.concatenate([t for *_, t in parts]), np.concatenate([e for _, e, _ in parts])


def shard_name(index: int) -> str:
    return f"gradients/shard-{index:05d}.arrow"


def write_shard(
    folder: StudyFolder,
    index: int,
    split: NDArray[np.int8],
    task: NDArray[np.int32],
    example: NDArray[np.int64],
    content: Features,
    facts: Mapping[str, float] | None = None,
) -> None:
    """Write one shard; facts such as what it cost stay with it, for a run that finds it finished."""
    dimension = content.features.shape[1]
    columns = {
        "split": split,
        "task": task,
        "example": example,
        "margin": content.margins,
        "target": content.targets,
        "features": pa.FixedSizeListArray.from_arrays(pa.array(content.features.reshape(-1)), dimension),
    }
    if content.products is not None:
        flat = pa.array(content.products.reshape(-1))
        columns["products"] = pa.FixedSizeListArray.from_arrays(flat, content.products.shape[1])
    batch = pa.record_batch(columns)
    batch = batch.replace_schema_metadata({name: repr(float(value)) for name, value in (facts or {}).items()})
    with folder.writing(shard_name(index)) as stream, pa.ipc.new_file(stream, batch.schema) as writer:
        writer.write_batch(batch)


def shard_facts(folder: StudyFolder, index: int) -> dict[str, float]:
    found = folder.reading(shard_name(index), lambda stream: pa.ipc.open_file(stream).schema.metadata) or {}
    return {name.decode(): float(value) for name, value in found.items()}


def _open(folder: StudyFolder, name: str) -> dict[str, NDArray[Any]]:
    """The columns of a shard, mapped."""
    try:
        batch = pa.ipc.open_file(pa.memory_map(str(folder.local_path(name)))).get_batch(0)
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"study {folder.root}: `{name}` cannot be read ({error}); remove it and run the study again"
        ) from error
    arrays = {}
    for column_name, column in zip(batch.schema.names, batch.columns, strict=True):
        if isinstance(column, pa.FixedSizeListArray):
            arrays[column_name] = column.values.to_numpy().reshape(-1, column.type.list_size)
        else:
            arrays[column_name] = column.to_numpy()
    return arrays


@dataclass(frozen=True)
class FeatureRows:
    """Rows sorted by task: features (N, d), margins, targets, task_of_row and example (N,); products (N, T) with the
    means outside the basis, where there are any, see ``outside_means.py``."""

    features: NDArray[np.float32]
    margins: NDArray[np.float64]
    targets: NDArray[np.float32]
    task_of_row: NDArray[np.int32]
    example: NDArray[np.int64]
    products: NDArray[np.float16] | None = None


class FeatureStore:
    """Reads a finished store. Opening maps the files; only the rows asked for are copied."""

    def __init__(self, folder: StudyFolder) -> None:
        layout: dict[str, Any] = folder.read_json(LAYOUT)
        self.dimension: int = layout["dimension"]
        # The last of them, which belong to the row's task alone.
        self.own_coordinates: int = layout.get("own_coordinates", 0)
        # Of a row with the means outside the basis.
        self.products: int = layout.get("products", 0)
        self._shards = [_open(folder, shard_name(index)) for index in range(layout["shards"])]
        self._split, self._task = (self._column(name) for name in ("split", "task"))
        starts = np.cumsum([0, *(len(shard["split"]) for shard in self._shards)])
        self._starts = starts.tolist()

    def _column(self, name: str) -> NDArray[Any]:
        return np.concatenate([shard[name] for shard in self._shards])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def rows(self, split: int, tasks: Sequence[int] | None = None) -> FeatureRows:
        """The rows of one split, of the tasks asked for (all when None)."""
        wanted = self._split == split
        if tasks is not None:
            wanted &= np.isin(self._task, list(tasks))
        names = _columns(self.products)
        pieces: dict[str, list[NDArray[Any]]] = {n: [] for n in names}
        for shard, start in zip(self._shards, self._starts, strict=False):
            local = np.flatnonzero(wanted[start : start + len(shard["split"])])
            if len(local) == 0:
                continue
            # Rows of a task lie together, so a slice (no copy yet) often does.
            chosen: Any = slice(local[0], local[-1] + 1) if local[-1] - local[0] + 1 == len(local) else local
            for name, parts in pieces.items():
                parts.append(shard[name][chosen])
        if not pieces["task"]:
            raise UserError(f"the feature store has no rows of tasks {tasks}")
        return _joined(pieces)


def rows_by_task(folder: StudyFolder, split: int) -> Iterator[FeatureRows]:
    """The rows of one split, a task at a time in the order of the tasks; a task without rows is left out. Holds the
    rows of one task, and one shard mapped, however long the store is."""
    layout: dict[str, Any] = folder.read_json(LAYOUT)
    names = _columns(layout.get("products", 0))
    held: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    for index in range(layout["shards"]):
        shard = _open(folder, shard_name(index))
        # Sorted by split, then task.
        start, end = (int(np.searchsorted(shard["split"], split, side)) for side in ("left", "right"))
        task = shard["task"][start:end]
        cuts = [start, *(start + 1 + np.flatnonzero(np.diff(task))).tolist(), end]
        for low, high in itertools.pairwise(cuts):
            if low == high:
                continue
            if held["task"] and held["task"][0][0] != shard["task"][low]:
                yield _joined(held)
                held = {name: [] for name in names}
            for name, parts in held.items():
                # A copy, so that the shard's pages can go.
                parts.append(shard[name][low:high].copy())
    if held["task"]:
        yield _joined(held)


def _columns(products: int) -> list[str]:
    """Names in a shard, in the order of FeatureRows."""
    return ["features", "margin", "target", "task", "example", *(["products"] if products else [])]


def _joined(pieces: Mapping[str, list[NDArray[Any]]]) -> FeatureRows:
    return FeatureRows(*(np.concatenate(parts) for parts in pieces.values()))
