"""Rows of what Python code has: `datasets`, tables, lists."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from affinity_service.config_text_suites import TextSource
from affinity_service.errors import UserError
from affinity_service.tasks.python import call
from affinity_service.text.files import SPLIT
from affinity_service.text.rows import RawRow


def rows_from_dataset(dataset: Any) -> list[dict[str, Any]]:
    """The rows of a `datasets.Dataset`, or of all parts of a `DatasetDict`, whose names become a column `split`.

    A pandas or Arrow table, and any iterable of mappings, do as well. What comes back can be returned by the function
    that a config names as `data.function`, and so can the data set itself.

    Raises
    ------
    UserError
        Something in it is no row.
    """
    return [dict(raw.content) for raw in rows_of(dataset, type(dataset).__name__)]


def rows_of_function(source: TextSource) -> Iterator[RawRow]:
    """Call the function that a config names and take its rows.

    Raises
    ------
    UserError
        It is missing or fails, or what comes back has no rows.
    """
    assert source.function is not None
    return rows_of(call(source.function, source.arguments), source.function)


def rows_of(found: Any, origin: str) -> Iterator[RawRow]:
    """Rows of any of these objects; `origin` is what error messages begin with."""
    if isinstance(found, Mapping):
        for split, part in found.items():
            for raw in rows_of(part, f"{origin}: {split}"):
                yield RawRow(raw.place, {SPLIT: split, **raw.content})
        return
    if isinstance(found, pa.Table):
        found = found.to_pylist()
    elif hasattr(found, "to_dict") and hasattr(found, "iloc"):
        found = found.to_dict("records")
    if isinstance(found, str) or not isinstance(found, Iterable):
        raise UserError(
            f"{origin} gave {type(found).__name__}, expected rows: a data set of `datasets`, a table, or a list of "
            "mappings"
        )
    for number, content in enumerate(found):
        if not isinstance(content, Mapping):
            raise UserError(f"{origin}: row {number} is {type(content).__name__}, expected a mapping of columns")
        yield RawRow(f"{origin}: row {number}", content)
