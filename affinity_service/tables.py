"""Parquet tables in a study folder."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from affinity_service.artifacts import StudyFolder
from affinity_service.errors import UserError


def read_table(folder: StudyFolder, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Raises UserError when the file is missing or not whole."""
    try:
        with folder.filesystem.open_input_file(name) as stream:
            return pq.read_table(stream, columns=None if columns is None else list(columns))
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"study {folder.root}: `{name}` cannot be read ({error}); remove it and run the study again"
        ) from error


def read_metadata(folder: StudyFolder, name: str) -> dict[str, str]:
    """What was written into the schema of a table."""
    with folder.filesystem.open_input_file(name) as stream:
        found = pq.read_schema(stream).metadata or {}
    return {key.decode(): value.decode() for key, value in found.items()}


def write_table(folder: StudyFolder, name: str, table: pa.Table) -> None:
    with folder.writing(name) as stream:
        pq.write_table(table, stream)
