"""`affinity import`: foreign collections of questions and answers into one Parquet table of rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from affinity_service.config_text_suites import ColumnNames
from affinity_service.errors import UserError
from affinity_service.tasks.files import check_path, read_text, reason
from affinity_service.tasks.importing import check_target, place_of
from affinity_service.text.files import read_rows
from affinity_service.text.rows import RawRow, TextRow, text_row

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
SPLIT = "split"


@dataclass(frozen=True)
class ImportedTexts:
    """What was written."""

    path: str
    tasks: dict[str, int]
    with_split: bool

    def __str__(self) -> str:
        low, high = min(self.tasks.values()), max(self.tasks.values())
        split = f", split_column: {SPLIT}" if self.with_split else ""
        return (
            f"{self.path}: {sum(self.tasks.values())} rows, {len(self.tasks)} tasks of {low} to {high} rows\n"
            f"in a config: data: {{source: text, path: {self.path}{split}}}"
        )


def import_jsonl(
    path: str, out: str, overwrite: bool = False, columns: ColumnNames | None = None, split_column: str | None = None
) -> ImportedTexts:
    """A file of JSON lines, or a folder of them; also Parquet, and what `datasets` saved.

    Raises
    ------
    UserError
        A line cannot be read or used, which is named, or `out` cannot be written.
    """
    check_target(out, overwrite)
    names = columns or ColumnNames()
    return _written((text_row(raw, names, split_column) for raw in read_rows(path)), path, out)


def import_function_vectors(folder: str, out: str, overwrite: bool = False) -> ImportedTexts:
    """A folder of JSON files, each a task by its name: a list of objects with `input` and `output` (Todd et al. 2024,
    arXiv 2310.15213).

    Raises
    ------
    UserError
        There is none, one cannot be read, or two in different folders have the same name.
    """
    check_target(out, overwrite)
    check_path(folder)
    files = sorted(Path(folder).rglob("*.json"))
    if not files:
        raise UserError(f"{folder}: holds no .json file; expected one per task, a list of {{input, output}}")
    for name, count in Counter(file.stem for file in files).items():
        if count > 1:
            places = ", ".join(str(file) for file in files if file.stem == name)
            raise UserError(f"{folder}: the task `{name}` has {count} files: {places}; rename one")
    columns = ColumnNames(target="output")
    rows = (text_row(raw, columns) for file in files for raw in _listed(file))
    return _written(rows, folder, out)


def _listed(file: Path) -> Iterator[RawRow]:
    try:
        found = json.loads(read_text(str(file)))
    except ValueError as error:
        raise UserError(f"{file}: not valid JSON: {error}") from error
    if not isinstance(found, list):
        raise UserError(f"{file}: is {type(found).__name__}, expected a list of {{input, output}}")
    for number, content in enumerate(found):
        place = f"{file}: entry {number}"
        if not isinstance(content, dict):
            raise UserError(f"{place} is {type(content).__name__}, expected {{input, output}}")
        yield RawRow(place, {**content, "task": file.stem})


def _written(rows: Iterable[TextRow], path: str, out: str) -> ImportedTexts:
    found = list(rows)
    if not found:
        raise UserError(f"{path}: there are no rows")
    folder, name = place_of(out)
    try:
        with folder.writing(name) as stream:
            pq.write_table(_table(found), stream, compression="zstd", write_page_checksum=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {reason(error)}") from error
    return ImportedTexts(out, dict(Counter(row.task for row in found)), found[0].split is not None)


def _table(rows: list[TextRow]) -> pa.Table:
    """Columns that no row uses are left out; a conversation has its messages in place of an input and a target."""
    columns = {"task": pa.array([row.task for row in rows])}
    pairs = [row.is_pair for row in rows]
    if any(pairs):
        columns["input"] = pa.array([row.input if pair else None for row, pair in zip(rows, pairs, strict=True)])
        columns["target"] = pa.array([row.target if pair else None for row, pair in zip(rows, pairs, strict=True)])
    if not all(pairs):
        messages = [None if pair else [vars(turn) for turn in row.turns] for row, pair in zip(rows, pairs, strict=True)]
        columns["messages"] = pa.array(messages, MESSAGES)
    if rows[0].split is not None:
        columns[SPLIT] = pa.array([row.split for row in rows])
    return pa.table(columns)
