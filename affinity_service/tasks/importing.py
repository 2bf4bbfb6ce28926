"""`affinity import`: a foreign table into the suite's native form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from affinity_service.artifacts import StudyFolder
from affinity_service.config_sources import ArffSource, CsvSource, TableSource
from affinity_service.config_text import explain
from affinity_service.errors import UserError
from affinity_service.tasks.arff import arff_table, with_labels
from affinity_service.tasks.checks import check_finite_inputs, check_labels, check_shapes
from affinity_service.tasks.columns import KIND_KEY, is_text
from affinity_service.tasks.csv import csv_table
from affinity_service.tasks.files import reason
from affinity_service.tasks.roles import Roles, assign_roles
from affinity_service.tasks.suite import COLUMN_KINDS, Kind, Suite
from affinity_service.tasks.table import suite_from_table
from affinity_service.tasks.tokens import TokenRows

FEATURES = "features"
SourceT = TypeVar("SourceT", bound=TableSource)


@dataclass(frozen=True)
class Imported:
    """What was written."""

    path: str
    rows: int
    features: int
    tasks: dict[str, int]
    left_out: list[tuple[str, str]]
    split_column: str | None

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.tasks.items())
        lines = [f"{self.path}: {self.rows} rows, {self.features} features, {sum(self.tasks.values())} tasks ({kinds})"]
        for why in dict.fromkeys(why for _, why in self.left_out):
            names = [name for name, told in self.left_out if told == why]
            more = f" and {len(names) - 10} more" if len(names) > 10 else ""
            lines.append(f"left out, {why}: {', '.join(names[:10])}{more}")
        split = f", split_column: {self.split_column}" if self.split_column else ""
        return "\n".join([*lines, f"in a config: data: {{source: parquet, path: {self.path}{split}}}"])


def import_csv(path: str, out: str, overwrite: bool = False, **options: Any) -> Imported:
    """A CSV file; `options` are those of ``CsvSource``."""
    source = _source(CsvSource, path, options)
    check_target(out, overwrite)
    return _convert(csv_table(source), source, out)


def import_arff(path: str, out: str, overwrite: bool = False, **options: Any) -> Imported:
    """An ARFF file; `options` are those of ``ArffSource``."""
    source = _source(ArffSource, path, options)
    check_target(out, overwrite)
    table = arff_table(source.path)
    return _convert(table, with_labels(source, table.column_names), out)


def column_options(
    tasks: str | None,
    kinds: Sequence[str] | None,
    features: str | None,
    leave_out: str | None,
    split_column: str | None,
) -> dict[str, Any]:
    """The columns as the command line has them, as a ``TableSource`` takes them."""
    return {
        "tasks": task_kinds(tasks, kinds or ()),
        "features": split_names(features),
        "leave_out": split_names(leave_out),
        "split_column": split_column,
    }


def task_kinds(tasks: str | None, kinds: Sequence[str]) -> list[str] | dict[str, Kind | None] | None:
    """`--tasks a,b --kind a=regression` as a source takes them.

    Raises
    ------
    UserError
        A kind without a name, of a task that `--tasks` does not list, or unknown.
    """
    names = split_names(tasks)
    if not kinds:
        return names
    wanted: dict[str, Kind | None] = dict.fromkeys(names or [])
    for entry in kinds:
        name, _, kind = entry.rpartition("=")
        if not name or kind not in COLUMN_KINDS:
            raise UserError(f"--kind {entry}: expected NAME=KIND with a kind of {', '.join(COLUMN_KINDS)}")
        if name not in wanted:
            raise UserError(f"--kind {entry}: `{name}` is not listed under --tasks")
        wanted[name] = kind
    return wanted


def split_names(text: str | None) -> list[str] | None:
    """`a,b` as a list; None stays None."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _source(kind: type[SourceT], path: str, options: dict[str, Any]) -> SourceT:
    given = {name: value for name, value in options.items() if value is not None}
    try:
        return kind.model_validate({"path": path, **given})
    except ValidationError as error:
        raise UserError(explain(error, f"import {path}", kind)) from error


def place_of(out: str) -> tuple[StudyFolder, str]:
    """The folder of a file that is to be written, and its name there."""
    if "://" in out:
        parent, _, name = out.rpartition("/")
        return StudyFolder.at(parent), name
    return StudyFolder.at(Path(out).absolute().parent), Path(out).name


def check_target(out: str, overwrite: bool) -> None:
    """Raise ``UserError`` where a folder, or a file that may not be replaced, lies at the place to write to."""
    if Path(out).is_dir():
        raise UserError(f"{out}: is a folder; name the Parquet file to write, such as {Path(out, 'suite.parquet')}")
    folder, name = place_of(out)
    if folder.exists(name) and not overwrite:
        raise UserError(f"{out}: exists already; give another name or --overwrite")


def _convert(table: pa.Table, source: TableSource, out: str) -> Imported:
    roles = assign_roles(table.column_names, source, source.path)
    suite = suite_from_table(table, source, source.path)
    try:
        check_shapes(suite)
        check_finite_inputs(suite)
        for index, task in enumerate(suite.tasks):
            check_labels(task, suite.labels[:, index])
    except UserError as error:
        raise UserError(f"{source.path}: {error}") from error
    if FEATURES in (*roles.tasks, roles.split):
        raise UserError(f"{source.path}: a task or split column named `{FEATURES}` collides with the native form")
    labelled = [bool(known.any()) for known in suite.observed.T]
    kept = [task for task, known in zip(suite.tasks, labelled, strict=True) if known]
    empty = [(task.name, "no label") for task, known in zip(suite.tasks, labelled, strict=True) if not known]
    if not kept:
        raise UserError(f"{source.path}: no task has any label: {', '.join(suite.names[:10])}")
    folder, name = place_of(out)
    try:
        with folder.writing(name) as stream:
            pq.write_table(_native(table, suite, roles), stream, write_page_checksum=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {reason(error)}") from error
    return Imported(
        path=out,
        rows=len(suite),
        features=suite.inputs.shape[1],
        tasks=dict(Counter(task.kind for task in kept)),
        left_out=[*((name, "neither a feature nor a task") for name in roles.unused), *empty],
        split_column=roles.split,
    )


def _native(table: pa.Table, suite: Suite, roles: Roles) -> pa.Table:
    """`features` as one fixed-size list column, one nullable column per task that has a label."""
    assert not isinstance(suite.inputs, TokenRows), "a table has columns of numbers"
    features = pa.FixedSizeListArray.from_arrays(pa.array(suite.inputs.ravel()), suite.inputs.shape[1])
    columns, fields = [features], [pa.field(FEATURES, features.type, nullable=False)]
    for index, task in enumerate(suite.tasks):
        known = suite.observed[:, index]
        if not known.any():
            continue
        column = table[task.name].combine_chunks()
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if not is_text(column.type):  # text keeps the names of its classes
            kind = {"binary": np.int8, "multiclass": np.int32, "regression": np.float32}[task.kind]
            column = pa.array(np.where(known, suite.labels[:, index], 0).astype(kind), mask=~known)
        columns.append(column)
        fields.append(pa.field(task.name, column.type, metadata={KIND_KEY: task.kind.encode()}))
    if roles.split is not None:
        columns.append(table[roles.split].combine_chunks())
        fields.append(pa.field(roles.split, columns[-1].type))
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))
