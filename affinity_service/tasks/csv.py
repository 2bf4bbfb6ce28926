"""CSV files: UTF-8, one header line, columns of one type each."""

from __future__ import annotations

import re

import pyarrow as pa
from pyarrow import csv

from affinity_service.config_sources import CsvSource
from affinity_service.errors import UserError
from affinity_service.tasks.files import read_text
from affinity_service.tasks.suite import Suite
from affinity_service.tasks.table import suite_from_table


def read_csv(source: CsvSource) -> Suite:
    return suite_from_table(csv_table(source), source, source.path)


def csv_table(source: CsvSource) -> pa.Table:
    """All columns of the file, typed by all of their cells.

    Raises
    ------
    UserError
        The file cannot be read, is empty, is not UTF-8, or a row has another number of cells than the header.
    """
    text = read_text(source.path)
    if not text.strip():
        raise UserError(f"{source.path}: the file is empty; expected a header line and rows")
    _check_quotes(text, source.path)
    content = text.encode()
    try:
        return csv.read_csv(
            pa.BufferReader(content),
            # Types are inferred from the first block: one block, so that a column is seen whole.
            read_options=csv.ReadOptions(block_size=min(len(content) + 1, 2**31 - 1), use_threads=False),
            parse_options=csv.ParseOptions(delimiter=source.delimiter, newlines_in_values=True),
            convert_options=csv.ConvertOptions(null_values=source.missing, strings_can_be_null=True),
        )
    except pa.ArrowException as error:
        raise UserError(f"{source.path}: not a readable CSV table: {_plain(str(error), source)}") from error


def _check_quotes(text: str, path: str) -> None:
    """An open quote swallows the rows after it without an error of Arrow."""
    if text.count('"') % 2:
        line = next(number for number, line in enumerate(text.split("\n"), 1) if line.count('"') % 2)
        raise UserError(
            f"{path}: a quote opens and does not close, first in line {line}; a quote inside a value is written twice"
        )


def _plain(message: str, source: CsvSource) -> str:
    message = message.removeprefix("CSV parse error: ")
    found = re.match(r"Row #(\d+): Expected (\d+) columns, got (\d+)", message)
    if not found:
        return message if "Empty CSV" not in message else "no rows below the header"
    row, expected, got = found.groups()
    return (
        f"row {row} (the header is row 1) has {got} cells, the header {expected}; cut off, or is the delimiter not "
        f"{source.delimiter!r}?"
    )
