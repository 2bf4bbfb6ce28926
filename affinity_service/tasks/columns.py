"""One label column of any source: its kind, its numbers, its missing values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from affinity_service.errors import UserError
from affinity_service.tasks.suite import COLUMN_KINDS, Kind, Task

# Whole numbers or texts beyond this many distinct values are more likely measurements or names than classes.
MAX_INFERRED_CLASSES = 50
# What to do about them, where columns are said in a config.
MANY_TEXTS = "list it under `leave_out`, or give its kind, multiclass, under `tasks`"
# Field metadata in the native form, so that a kind said once at import need not be said again.
KIND_KEY = b"affinity.kind"


def label_column(
    column: pa.ChunkedArray,
    name: str,
    kind: Kind | None,
    origin: str,
    noun: str = "column",
    many_texts: str = MANY_TEXTS,
) -> tuple[NDArray[np.float32], Task]:
    """Labels (N,) with NaN for missing, and the task. The kind is inferred unless given:

    two values 0/1 (or booleans) are binary, text and whole numbers 0 … C−1 are multi-class, other numbers
    regression.

    Parameters
    ----------
    origin, noun, many_texts : what messages say of where the column is from, what it is, and what is to be done about
        too many texts in it.

    Raises
    ------
    UserError
        A type that holds no labels, or values that do not fit the kind asked for.
    """
    values = column.combine_chunks()
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    found = -1
    if is_text(values.type):
        values, kind, found = _codes(values, kind, f"{origin}: {noun} `{name}`", many_texts)
    elif not (is_number(values.type) or pa.types.is_boolean(values.type) or pa.types.is_null(values.type)):
        raise UserError(f"{origin}: {noun} `{name}` must hold numbers, booleans or text, found {values.type}")
    labels = np.asarray(pc.cast(values, pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)
    kind = kind or _infer(values, labels)
    with np.errstate(over="ignore"):  # becomes infinite, which the checks refuse by name
        narrow = labels.astype(np.float32)
    if kind == "multiclass":
        known = labels[~np.isnan(labels)]
        found = found if found >= 0 else (int(known.max()) + 1 if len(known) and np.isfinite(known).all() else 0)
        return narrow, Task(name, "multiclass", classes=max(found, 2))
    return narrow, Task(name, kind)


def is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def stored_kind(field: pa.Field) -> Kind | None:
    """The kind that `affinity import` left with a column of the native form."""
    text = (field.metadata or {}).get(KIND_KEY, b"").decode(errors="replace")
    return next((kind for kind in COLUMN_KINDS if kind == text), None)


def found_type(values: pa.Array) -> str:
    """The type for a message; for text the first row whose value is no number."""
    if not is_text(values.type):
        return str(values.type)
    for row, text in enumerate(values.to_pylist()):
        try:
            float(text or 0)
        except ValueError:
            return f"text: {quote(text)} in row {row}"
    return "numbers written as text"


def quote(value: Any) -> str:
    """A value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _codes(values: pa.Array, kind: Kind | None, column: str, many_texts: str) -> tuple[pa.Array, Kind, int]:
    """Text to the positions of its sorted distinct values."""
    classes = sorted(pc.unique(values).drop_null().to_pylist())
    shown = ", ".join(quote(value) for value in classes[:5])
    if kind == "regression":
        raise UserError(f"{column} cannot be a regression task: it must hold numbers, found {found_type(values)}")
    if kind == "binary" and len(classes) > 2:
        raise UserError(f"{column} holds {len(classes)} different texts ({shown}); binary takes two")
    if kind is None and len(classes) > MAX_INFERRED_CLASSES:
        raise UserError(
            f"{column} holds {len(classes)} different texts ({shown}, …), more than {MAX_INFERRED_CLASSES}: "
            f"{many_texts}"
        )
    return pc.index_in(values, pa.array(classes, values.type)), kind or "multiclass", len(classes)


def _infer(values: pa.Array, labels: NDArray[np.float64]) -> Kind:
    if pa.types.is_boolean(values.type):
        return "binary"
    known = np.unique(labels[~np.isnan(labels)])
    if np.isin(known, (0, 1)).all():
        return "binary"
    whole = np.isfinite(known).all() and (known == np.floor(known)).all() and known.min() >= 0
    if whole and len(known) == known.max() + 1 and len(known) <= MAX_INFERRED_CLASSES:
        return "multiclass"
    return "regression"
