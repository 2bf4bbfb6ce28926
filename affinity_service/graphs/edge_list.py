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
# Possessive and from where the spaces begin: a long run of them is gone through once.
_TRAILING = re.compile(rb"(?<![ \t])[ \t]++(?=[\r\n]|\Z)")


def read_edge_list(path: str) -> NDArray[np.int64]:
    """(E, 2) ids as they stand in the file.

    Raises
    ------
    UserError
        The file is missing or empty, or a line is not two whole numbers: file and line are named.
    """
    content = _without_trailing(read_bytes(path).removeprefix(b"\xef\xbb\xbf"))
    skipped, start, first, commented = _first_line(content)
    if first is None:
        raise UserError(f"{path}: the graph is empty: no line has an edge")
    separator = next((each for each in _SEPARATORS if each in first.strip()), b"\t")
    fields = [each.strip() for each in first.strip().split(separator)]
    # What looks like a number is a broken edge; where comments say what the columns are, no header follows.
    if not commented and not any(each[:1].isdigit() or each[:1] in (b"", b"+", b"-") for each in fields):
        skipped += 1
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
    # Arrow takes 0x1F for 31.
    if (content.find(b"0x", start) >= 0 or content.find(b"0X", start) >= 0) and (
        broken := _broken(path, content, separator, skipped)
    ):
        raise broken
    if len(table) == 0:
        raise UserError(f"{path}: the graph is empty: no line has an edge")
    return np.stack([table["source"].to_numpy(), table["target"].to_numpy()], axis=1)


def _without_trailing(content: bytes) -> bytes:
    """Without spaces and tabs before line ends; a copy only where there are any."""
    if content.endswith((b" ", b"\t")) or any(end in content for end in (b" \n", b"\t\n", b" \r", b"\t\r")):
        return _TRAILING.sub(b"", content)
    return content


def _first_line(content: bytes) -> tuple[int, int, bytes | None, bool]:
    """How many lines of comments and empty ones come first, where the line after them begins, that line, and whether
    there were comments."""
    number, start, commented = 0, 0, False
    while start < len(content):
        end = content.find(b"\n", start)
        line = content[start : len(content) if end < 0 else end]
        comment = line.lstrip().startswith((b"#", b"%"))
        if line.strip() and not comment:
            return number, start, line, commented
        number, start, commented = number + 1, len(content) if end < 0 else end + 1, commented or comment
    return number, start, None, commented


def _broken(path: str, content: bytes, separator: bytes, skipped: int) -> UserError | None:
    """The first line that is no edge: slow, but only where one is known to be there."""
    for number, line in enumerate(io.BytesIO(content), 1):
        fields = [each.strip() for each in line.rstrip(b"\r\n").split(separator)]
        if number <= skipped or not line.rstrip(b"\r\n") or (len(fields) == 2 and all(map(NUMBER.fullmatch, fields))):
            continue
        shown = line.rstrip(b"\r\n")[:60].decode("utf-8", "replace")
        found = f"{len(fields)} column{'s' * (len(fields) > 1)}" if len(fields) != 2 else "no two whole numbers"
        return UserError(
            f"{path}: line {number}: {shown!r} has {found}; an edge is two node ids; leave other columns out"
        )
    return None
