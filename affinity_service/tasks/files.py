"""Local files as users name them: there, a file, readable, text in UTF-8."""

from __future__ import annotations

import difflib
from pathlib import Path

import pyarrow as pa

from affinity_service.errors import UserError


def read_bytes(path: str) -> bytes:
    """The content of a file, decompressed where its name ends in .gz, .bz2 or .zst.

    Raises
    ------
    UserError
        No such file (the nearest name beside it is given), a folder, unreadable, or a broken archive.
    """
    check_path(path)
    if Path(path).is_dir():
        raise UserError(f"{path}: is a folder, expected a file")
    try:
        with pa.input_stream(path, compression="detect") as stream:
            return stream.read()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: cannot be read: {reason(error)}") from error


def read_text(path: str) -> str:
    """The content of a UTF-8 file without its byte order mark; UserError names the line that is not UTF-8."""
    content = read_bytes(path)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}: line {line} is not UTF-8 text (byte 0x{content[error.start]:02x}); "
            f"convert it, for example with `iconv -f latin1 -t utf-8`"
        ) from error


def check_path(path: str) -> None:
    """Raise ``UserError`` unless something lies at the path."""
    try:
        if Path(path).exists():
            return
        folder = Path(path).parent
        beside = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise UserError(f"{path!r}: cannot be read: {reason(error)}") from error
    near = difflib.get_close_matches(Path(path).name, beside, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    shown = path if path.isprintable() else repr(path)
    raise UserError(f"{shown}: no such file or folder{hint}")


def reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
