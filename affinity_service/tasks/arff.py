"""ARFF files, dense and sparse, as Weka, Mulan and Meka write them."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import arff
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from affinity_service.config_sources import ArffSource
from affinity_service.errors import UserError
from affinity_service.tasks.columns import quote
from affinity_service.tasks.files import read_text
from affinity_service.tasks.mulan import read_labels
from affinity_service.tasks.suite import Suite
from affinity_service.tasks.table import suite_from_table


def read_arff(source: ArffSource) -> Suite:
    table = arff_table(source.path)
    return suite_from_table(table, with_labels(source, table.column_names), source.path)


def with_labels(source: ArffSource, attributes: Sequence[str]) -> ArffSource:
    """The source with the labels of its XML file as tasks; where it names tasks, the other labels are left out.

    Raises
    ------
    UserError
        The XML file is broken, or names a label that is no attribute; a task is not among its labels.
    """
    if source.labels is None:
        return source
    labels = read_labels(source.labels)
    known = set(attributes)
    unknown = [name for name in labels if name not in known]
    if unknown:
        raise UserError(
            f"{source.labels}: {len(unknown)} of {len(labels)} labels are not attributes of {source.path}, "
            f"the first `{unknown[0]}`"
        )
    tasks = source.tasks if source.tasks is not None else labels
    for name in tasks:
        if name not in labels:
            raise UserError(f"{source.labels}: task `{name}` is not among its {len(labels)} labels")
    features = [source.features] if isinstance(source.features, str) else source.features or []
    kept = {*tasks, *source.leave_out, *features}
    rest = [name for name in labels if name not in kept]
    return source.model_copy(update={"tasks": tasks, "leave_out": [*source.leave_out, *rest]})


def arff_table(path: str) -> pa.Table:
    """All attributes as columns: float32 for numbers and for nominal values that are numbers, a dictionary for
    other nominal values, text for strings. What a sparse row leaves out is 0 or the first nominal value.

    Raises
    ------
    UserError
        The file cannot be read, breaks the format (the line is named), or has no data.
    """
    lines = _Lines(read_text(path))
    try:
        content = arff.load(lines, return_type=arff.LOD_GEN if lines.sparse else arff.DENSE_GEN)
        names = [name for name, _ in content["attributes"]]
        attributes = [_Attribute(name, kind) for name, kind in content["attributes"]]
        rows = list(content["data"])
    except (arff.ArffException, ValueError, LookupError, OverflowError, csv.Error) as error:
        where = f"line {lines.number} `{quote(lines.current)[1:-1]}`"
        raise UserError(f"{path}: not valid ARFF: {_plain(error, lines)} ({where})") from error
    fill = _fill_sparse if lines.sparse else _fill_dense
    try:
        with np.errstate(over="ignore"):  # becomes infinite, which the checks refuse by name
            return pa.Table.from_arrays(fill(rows, attributes), names=names)
    except ValueError as error:
        raise UserError(f"{path}: not valid ARFF: {error}") from error


class _Attribute:
    """How one attribute's values become numbers."""

    def __init__(self, name: str, kind: str | list[str | None]) -> None:
        self.name = name
        self.text = kind == "STRING"
        self.categories: list[str] | None = None
        self.codes: dict[str, float] = {}
        if isinstance(kind, list):
            values = [str(value) for value in kind if value is not None]
            numbers = [_number(value) for value in values]
            if None in numbers:
                self.categories = values
                self.codes = {value: float(code) for code, value in enumerate(values)}
            else:
                self.codes = {v: n for v, n in zip(values, numbers, strict=True) if n is not None}
        # An absent value of a sparse row is the first nominal value, or 0.
        self.absent = next(iter(self.codes.values()), 0.0)

    def encode(self, value: Any) -> float:
        if value is None:
            return np.nan
        try:
            return self.codes[value] if self.codes else float(value)
        except (KeyError, ValueError) as error:  # liac-arff passes a row with NaN among its integers on unread
            raise ValueError(f"attribute `{self.name}` cannot be {quote(value)}") from error

    def column(self, values: NDArray[np.float32]) -> pa.Array:
        if self.categories is None:
            return pa.array(values)
        missing = np.isnan(values)
        codes = np.where(missing, 0, values).astype(np.int32)
        return pa.DictionaryArray.from_arrays(pa.array(codes, mask=missing), self.categories)


def _fill_dense(rows: Sequence[Sequence[Any]], attributes: Sequence[_Attribute]) -> list[pa.Array]:
    columns = []
    for index, attribute in enumerate(attributes):
        cells = [row[index] for row in rows]
        if attribute.text:
            columns.append(pa.array(cells, pa.string()))
        else:
            columns.append(attribute.column(np.array([attribute.encode(cell) for cell in cells], np.float32)))
    return columns


def _fill_sparse(rows: Sequence[Mapping[int, Any]], attributes: Sequence[_Attribute]) -> list[pa.Array]:
    numbers = np.empty((len(rows), len(attributes)), np.float32, order="F")
    numbers[:] = [attribute.absent for attribute in attributes]
    texts: dict[int, list[str | None]] = {i: [None] * len(rows) for i, a in enumerate(attributes) if a.text}
    for position, row in enumerate(rows):
        for index, value in row.items():
            if index in texts:
                texts[index][position] = value
            else:
                numbers[position, index] = attributes[index].encode(value)
    return [
        pa.array(texts[index], pa.string()) if index in texts else attribute.column(numbers[:, index])
        for index, attribute in enumerate(attributes)
    ]


class _Lines:
    """The lines of a file one by one, remembering where the reader is: liac-arff knows it only in the header."""

    def __init__(self, text: str) -> None:
        self.number = 1
        self._lines = text.split("\n")
        starts = (i for i, line in enumerate(self._lines) if line.strip()[:5].upper() == "@DATA")
        self.data = next(starts, len(self._lines))
        rows = (line.strip() for line in self._lines[self.data + 1 :])
        self.sparse = next((row for row in rows if row and row[0] != "%"), "").startswith("{")

    def __iter__(self) -> Iterator[str]:
        for index, line in enumerate(self._lines):
            self.number = index + 1
            # Tabs may separate the words of a declaration; liac-arff takes blanks only.
            yield line.replace("\t", " ") if index < self.data else line

    @property
    def has_data(self) -> bool:
        return self.data < len(self._lines)

    @property
    def at_end(self) -> bool:
        return self.number == len(self._lines)

    @property
    def current(self) -> str:
        return self._lines[self.number - 1].strip()


def _plain(error: Exception, lines: _Lines) -> str:
    if not lines.has_data and lines.at_end:
        return "the file ends before its @data line; cut off?"
    if not isinstance(error, arff.ArffException):
        return str(error)
    error.line = lines.number
    try:
        return str(error)
    except (TypeError, ValueError):  # its message is a format string that quotes the file
        return type(error).__name__


def _number(text: str) -> float | None:
    try:
        return float(text) if np.isfinite(float(text)) else None
    except ValueError:
        return None
