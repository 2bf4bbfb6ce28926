"""One label column of any source: its kind, its numbers, its missing values."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from affinity_service.errors import UserError
from affinity_service.tasks.suite import Kind, Task

# Whole numbers beyond this many distinct values are more likely measurements than classes.
MAX_INFERRED_CLASSES = 50


def label_column(
    column: pa.ChunkedArray, name: str, kind: Kind | None, origin: str
) -> tuple[NDArray[np.float32], Task]:
    """Labels (N,) with NaN for missing, and the task. The kind is inferred unless given:

    two values 0/1 (or booleans) are binary, text and whole numbers 0 … C−1 are multi-class, other numbers
    regression.

    Raises
    ------
    UserError
        A type that holds no labels, or values that do not fit the kind asked for.
    """
    values = column.combine_chunks()
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        if kind == "regression":
            raise UserError(f"{origin}: column `{name}` holds text and cannot be a regression task")
        classes = sorted(pc.unique(values).drop_null().to_pylist())
        values = pc.index_in(values, pa.array(classes, values.type))
        kind = kind or "multiclass"
        found = len(classes)
    elif pa.types.is_boolean(values.type) or pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        kind, found = kind or _infer(values), -1
    else:
        raise UserError(f"{origin}: column `{name}` must hold numbers, booleans or text, found {values.type}")
    labels = np.asarray(pc.cast(values, pa.float64()).to_numpy(zero_copy_only=False), np.float64)
    if kind == "multiclass":
        known = labels[~np.isnan(labels)]
        found = found if found >= 0 else (int(known.max()) + 1 if len(known) and np.isfinite(known).all() else 0)
        return labels.astype(np.float32), Task(name, "multiclass", classes=max(found, 2))
    return labels.astype(np.float32), Task(name, kind)


def _infer(values: pa.Array) -> Kind:
    distinct = pc.unique(values).drop_null()
    if pa.types.is_boolean(values.type):
        return "binary"
    known = np.asarray(pc.cast(distinct, pa.float64()).to_numpy(zero_copy_only=False))
    known = known[~np.isnan(known)]
    if np.isin(known, (0, 1)).all():
        return "binary"
    whole = np.isfinite(known).all() and (known == np.floor(known)).all() and known.min() >= 0
    if whole and len(known) == known.max() + 1 and len(known) <= MAX_INFERRED_CLASSES:
        return "multiclass"
    return "regression"
