"""The native form: one Parquet table (a file or a folder of them).

A fixed-size-list column `features`, or named numeric columns, and one nullable column per task.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from affinity_service.config import ParquetSource
from affinity_service.errors import UserError
from affinity_service.tasks.columns import label_column
from affinity_service.tasks.suite import SPLITS, Suite, seeded_split


def read_parquet(source: ParquetSource) -> Suite:
    table = _read(source.path)
    feature_columns = [source.features] if isinstance(source.features, str) else source.features
    reserved = {*feature_columns, source.split_column}
    kinds = source.tasks if isinstance(source.tasks, dict) else {}
    names = list(source.tasks) if source.tasks is not None else [n for n in table.column_names if n not in reserved]
    for name in [*feature_columns, *names, *([source.split_column] if source.split_column else [])]:
        if table.column_names.count(name) != 1:
            count = table.column_names.count(name)
            found = f"occurs {count} times" if count else f"is missing; found {', '.join(table.column_names[:20])}"
            raise UserError(f"{source.path}: column `{name}` {found}")
    if not table.num_rows:
        raise UserError(f"{source.path}: the table has no rows")
    labels, tasks = [], []
    for name in names:
        values, task = label_column(table[name], name, kinds.get(name), source.path)
        labels.append(values)
        tasks.append(task)
    return Suite(
        inputs=_features(table, source),
        labels=np.stack(labels, axis=1) if labels else np.empty((table.num_rows, 0), np.float32),
        split=_split(table, source),
        tasks=tuple(tasks),
    )


def _read(path: str) -> pa.Table:
    try:
        return ds.dataset(path, format="parquet").to_table()
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file or folder") from error
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet table (truncated?): {error}") from error


def _features(table: pa.Table, source: ParquetSource) -> NDArray[np.float32]:
    if not isinstance(source.features, str):
        columns = [_numbers(table[name], name, source.path) for name in source.features]
        return np.stack(columns, axis=1)
    column = table[source.features].combine_chunks()
    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind)):
        return _numbers(table[source.features], source.features, source.path)[:, None]
    lengths = pc.list_value_length(column)
    found = pc.unique(lengths).to_pylist()
    if len(found) != 1 or not found[0]:
        raise UserError(
            f"{source.path}: column `{source.features}` must hold lists of one length, found lengths {found[:5]}"
        )
    values = pc.list_flatten(column)
    return _numbers(values, source.features, source.path).reshape(table.num_rows, found[0])


def _numbers(values: pa.ChunkedArray | pa.Array, name: str, path: str) -> NDArray[np.float32]:
    """Float32 values, null as NaN."""
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_boolean(values.type)):
        raise UserError(f"{path}: column `{name}` must hold numbers, found {values.type}")
    return np.asarray(pc.cast(values, pa.float32()).to_numpy(zero_copy_only=False), np.float32)


def _split(table: pa.Table, source: ParquetSource) -> NDArray[np.int8]:
    if source.split_column is None:
        return seeded_split(table.num_rows, source.split.validation, source.split.test, source.split.seed)
    values = table[source.split_column].to_pylist()
    wrong = sorted({str(value) for value in values} - set(SPLITS))
    if wrong:
        raise UserError(
            f"{source.path}: column `{source.split_column}` must hold {', '.join(SPLITS)}, found `{wrong[0]}`"
        )
    return np.array([SPLITS.index(value) for value in values], np.int8)
