"""Tables in a study folder: Parquet, and what the heads of safetensors files say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from affinity_service.artifacts import StudyFolder
from affinity_service.errors import UserError


def read_table(folder: StudyFolder, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Raises UserError when the file is missing or not whole."""
    try:
        wanted = None if columns is None else list(columns)
        return folder.reading(name, lambda stream: pq.read_table(stream, columns=wanted))
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"study {folder.root}: `{name}` cannot be read ({error}); remove it and run the study again"
        ) from error


def read_metadata(folder: StudyFolder, name: str) -> dict[str, str]:
    """What was written into the schema of a table."""
    found = folder.reading(name, lambda stream: pq.read_schema(stream).metadata) or {}
    return {key.decode(): value.decode() for key, value in found.items()}


def write_table(folder: StudyFolder, name: str, table: pa.Table) -> None:
    with folder.writing(name) as stream:
        pq.write_table(table, stream)


def safetensors_header(stream: pa.NativeFile) -> dict[str, Any]:
    """Names, shapes and facts of the tensors, without the tensors: a whole model may lie there."""
    return json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
