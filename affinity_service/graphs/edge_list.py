"""Edge lists as text: two node ids per line, apart by tabs, spaces or a comma; comments, a header and .gz allowed."""

from __future__ import annotations

import io
import re

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from affinity_service.errors import UserError
from affinity_service.tasks.files import read_bytes

NUMBER = re.compile(rb"-?\d{1,18}")
_SEPARATORS = (b"\t", b",", b";", b" ")


def read_edge_list(path: str) -> NDArray[np.int64]:
    """(E, 2) ids as they stand in the file.

    Raises
    ------
    UserError
        The file is missing or empty, or a line is not two whole numbers: file and line are named.
    """
    content = read_bytes(path).removeprefix(b"\xef\xbb\xbf")
    skipped, first = _first_line(content)
    if first is None:
        raise UserError(f"{path}: the graph is empty: no line has an edge")
    separator = next((each for each in _SEPARATORS if each in first.strip()), b"\t")
    fields = [each.strip() for each in first.strip().split(separator)]
    if not any(NUMBER.fullmatch(each) for each in fields):
        skipped += 1  # a header
    try:
        table = pa.csv.read_csv(
            io.BytesIO(content),
            read_options=pa.csv.ReadOptions(skip_rows=skipped, column_names=["source", "target"]),
            parse_options=pa.csv.ParseOptions(delimiter=separator.decode(), quote_char=False, newlines_in_values=False),
            convert_options=pa.csv.ConvertOptions(
                column_types={"source": pa.int64(), "target": pa.int64()}, null_values=[], strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        raise _broken(path, content, separator, skipped) or UserError(f"{path}: no edge list: {error}") from error
    if len(table) == 0:
        raise UserError(f"{path}: the graph is empty: no line has an edge")
    return np.stack([table["source"].to_numpy(), table["target"].to_numpy()], axis=1)


def _first_line(content: bytes) -> tuple[int, bytes | None]:
    """How many lines of comments come first, and the line after them."""
    number, start = 0, 0
    while start < len(content):
        end = content.find(b"\n", start)
        line = content[start : len(content) if end < 0 else end]
        if line.strip() and not line.lstrip().startswith((b"#", b"%")):
            return number, line
        number, start = number + 1, len(content) if end < 0 else end + 1
    return number, None


def _broken(path: str, content: bytes, separator: bytes, skipped: int) -> UserError | None:
    """The first line that is no edge: slow, but only where one is known to be there."""
    for number, line in enumerate(io.BytesIO(content), 1):
        # Only what ends a line may be missing: Arrow reads spaces alone as a column.
        fields = [each.strip() for each in line.rstrip(b"\r\n").split(separator)]
        if number <= skipped or not line.rstrip(b"\r\n") or (len(fields) == 2 and all(map(NUMBER.fullmatch, fields))):
            continue
        shown = line.rstrip(b"\r\n")[:60].decode("utf-8", "replace")
        found = f"{len(fields)} column{'s' * (len(fields) > 1)}" if len(fields) != 2 else "no two whole numbers"
        return UserError(
            f"{path}: line {number}: {shown!r} has {found}; an edge is two node ids; leave other columns out"
        )
    return None
