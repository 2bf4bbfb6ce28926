"""Rows in files: JSON lines, Parquet, and folders that `datasets` saved. None needs that package."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from affinity_service.errors import UserError
from affinity_service.tasks.files import check_path, read_text, reason
from affinity_service.tasks.parquet import parquet_table
from affinity_service.text.rows import RawRow

JSON_LINES, PARQUET = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz"), (".parquet",)
# What `datasets` writes beside the Arrow files of one data set, and of several by split.
SAVED, SAVED_SPLITS = "state.json", "dataset_dict.json"
SPLIT = "split"


def read_rows(path: str) -> Iterator[RawRow]:
    """Rows of a file, or of all files in a folder by their names' order.

    Raises
    ------
    UserError
        Nothing is there, or a file or line cannot be read; it is named.
    """
    for file in data_files(path):
        if file.endswith(".arrow"):
            yield from _of_table(_arrow_table(file), file, _split_of(path, file))
        elif file.endswith(PARQUET):
            yield from _of_table(parquet_table(file), file)
        else:
            yield from _json_lines(file)


def data_files(path: str) -> list[str]:
    """The files with rows that lie at a path, in order.

    Raises
    ------
    UserError
        There is none.
    """
    check_path(path)
    place = Path(path)
    if not place.is_dir():
        return [path]
    if (place / SAVED_SPLITS).is_file():
        names = _read_json(place / SAVED_SPLITS).get("splits", [])
        return [file for name in names for file in _saved_files(place / name)]
    if (place / SAVED).is_file():
        return _saved_files(place)
    found = sorted(str(file) for file in place.rglob("*") if file.name.endswith(JSON_LINES + PARQUET))
    if not found:
        raise UserError(
            f"{path}: the folder holds no {', '.join(JSON_LINES + PARQUET)} file, and no data set that "
            "`Dataset.save_to_disk` wrote"
        )
    return found


def _saved_files(folder: Path) -> list[str]:
    check_path(str(folder / SAVED))
    return [str(folder / entry["filename"]) for entry in _read_json(folder / SAVED).get("_data_files", [])]


def _split_of(path: str, file: str) -> str | None:
    """The name of the part, of a folder with several by split."""
    return Path(file).parent.name if (Path(path) / SAVED_SPLITS).is_file() else None


def _read_json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_text(str(file)))
    except ValueError as error:
        raise UserError(f"{file}: not valid JSON: {error}") from error
    return found if isinstance(found, dict) else {}


def _arrow_table(file: str) -> pa.Table:
    check_path(file)
    try:
        with pa.memory_map(file) as mapped:
            return pa.ipc.open_stream(mapped).read_all()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file}: not a readable Arrow file of a data set: {reason(error)}") from error


def _of_table(table: pa.Table, file: str, split: str | None = None) -> Iterator[RawRow]:
    number = 0
    added = {} if split is None else {SPLIT: split}
    for batch in table.to_batches(max_chunksize=1024):
        for content in batch.to_pylist():
            yield RawRow(f"{file}: row {number}", {**added, **content})
            number += 1


def _json_lines(file: str) -> Iterator[RawRow]:
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if not line.strip():
            continue
        place = f"{file}: line {number}"
        try:
            content = json.loads(line)
        except ValueError as error:
            raise UserError(f"{place} is not valid JSON: {error}; expected one object per line") from error
        if not isinstance(content, dict):
            raise UserError(f'{place} is {type(content).__name__}, expected an object such as {{"task": …}}')
        yield RawRow(place, content)
