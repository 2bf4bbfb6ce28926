"""From an Arrow table to a suite; every file format that has columns comes through here."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from affinity_service.config_sources import TableSource
from affinity_service.errors import UserError
from affinity_service.tasks.columns import found_type, is_number, is_text, label_column, quote, stored_kind
from affinity_service.tasks.roles import Roles, assign_roles
from affinity_service.tasks.suite import SPLITS, Suite, seeded_split


def suite_from_table(table: pa.Table, source: TableSource, origin: str) -> Suite:
    """The suite that a source describes over the columns of a table.

    Parameters
    ----------
    table : columns of numbers, booleans, text or dictionaries; one list column may hold all features.
    source : which columns are features and tasks, and how the rows are split.
    origin : what error messages begin with, the file.

    Raises
    ------
    UserError
        No rows, or a column that is missing, repeated or of a type that its role cannot have.
    """
    roles = assign_roles(table.column_names, source, origin)
    if not table.num_rows:
        raise UserError(f"{origin}: the table has no rows, only the columns {', '.join(table.column_names[:20])}")
    inputs, names = _features(table, roles, origin)
    labels, tasks = [], []
    for name, kind in roles.tasks.items():
        column, task = label_column(table[name], name, kind or stored_kind(table.schema.field(name)), origin)
        labels.append(column)
        tasks.append(task)
    return Suite(
        inputs=inputs,
        labels=np.stack(labels, axis=1),
        split=_split(table, roles, source, origin),
        tasks=tuple(tasks),
        feature_names=names,
    )


def _features(table: pa.Table, roles: Roles, origin: str) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """(N, d) float32 and the d names; a list column has none."""
    if len(roles.features) == 1 and _is_list(table.schema.field(roles.features[0]).type):
        return _list_column(table[roles.features[0]].combine_chunks(), roles.features[0], origin), ()
    names: list[str] = []
    columns: list[NDArray[np.float32]] = []
    for name in roles.features:
        column = table[name].combine_chunks()
        if pa.types.is_dictionary(column.type):
            indicators = _indicators(column, name)
        else:
            indicators = {name: _numbers(column, name, origin)}
        names += indicators
        columns += indicators.values()
    return np.stack(columns, axis=1), tuple(names)


def _list_column(column: pa.Array, name: str, origin: str) -> NDArray[np.float32]:
    lengths = pc.list_value_length(column)
    counts = sorted(pc.value_counts(lengths).to_pylist(), key=lambda entry: -entry["counts"])
    usual = counts[0]["values"]
    if len(counts) != 1 or not usual:
        known = np.asarray(lengths.to_numpy(zero_copy_only=False), np.float64)
        row = int(np.flatnonzero(known != usual)[0]) if len(counts) > 1 and usual is not None else 0
        found = "no list" if np.isnan(known[row]) else f"{known[row]:g} values"
        raise UserError(
            f"{origin}: column `{name}` must hold lists of one length, found lengths "
            f"{[entry['values'] for entry in counts[:5]]}; row {row} has {found}"
        )
    return _numbers(pc.list_flatten(column), name, origin).reshape(len(column), usual)


def _numbers(values: pa.Array, name: str, origin: str) -> NDArray[np.float32]:
    """Float32 values, null as NaN."""
    if pa.types.is_null(values.type):
        raise UserError(
            f"{origin}: column `{name}` must hold numbers, found only missing values; list it under `leave_out`"
        )
    if not (is_number(values.type) or pa.types.is_boolean(values.type)):
        raise UserError(
            f"{origin}: column `{name}` must hold numbers, found {found_type(values)}; "
            "a feature is a number; list the column under `leave_out` or make it a task"
        )
    # Whole numbers beyond 2²⁴ are rounded, as any number in float32 is.
    return np.asarray(pc.cast(values, pa.float32(), safe=False).to_numpy(zero_copy_only=False), np.float32)


def _indicators(column: pa.DictionaryArray, name: str) -> dict[str, NDArray[np.float32]]:
    """One 0/1 column per category, the second alone where there are two; NaN where the category is missing."""
    codes = np.asarray(column.indices.to_numpy(zero_copy_only=False), np.float64)
    categories = [str(value) for value in column.dictionary.to_pylist()]
    shown = range(1, 2) if len(categories) == 2 else range(len(categories))
    return {
        f"{name}={categories[code]}": np.where(np.isnan(codes), np.nan, codes == code).astype(np.float32)
        for code in shown
    }


def _split(table: pa.Table, roles: Roles, source: TableSource, origin: str) -> NDArray[np.int8]:
    if roles.split is None:
        return seeded_split(table.num_rows, source.split.validation, source.split.test, source.split.seed)
    column = table[roles.split]
    if pa.types.is_dictionary(column.type):
        column = pc.cast(column, column.type.value_type)
    if not is_text(column.type):
        raise UserError(f"{origin}: column `{roles.split}` must hold {', '.join(SPLITS)}, found {column.type}")
    values = column.to_pylist()
    for row, value in enumerate(values):
        if value not in SPLITS:
            found = "no value" if value is None else quote(value)
            raise UserError(
                f"{origin}: column `{roles.split}` must hold {', '.join(SPLITS)}, found {found} in row {row}"
            )
    return np.array([SPLITS.index(value) for value in values], np.int8)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind)
