"""Names of studies, and where they lie: nothing that is asked for leaves the root."""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path

from affinity_service.artifacts import StudyFolder
from affinity_service.service.errors import ApiError, not_found

NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z", re.ASCII)


def is_name(name: str) -> bool:
    return NAME.match(name) is not None and ".." not in name and not name.endswith(".part")


def checked_name(name: str) -> str:
    """
    Raises
    ------
    ApiError
        422: it is no name of a study.
    """
    if not is_name(name):
        raise ApiError(
            422,
            f"study name {name[:120]!r}: expected 1 to 100 letters, digits, dots, dashes and underscores, no `..`, "
            "beginning with a letter or digit",
            "invalid_name",
            field="name",
        )
    return name


def folder_of(root: StudyFolder, name: str) -> StudyFolder:
    """The study's folder, whether it is there or not.

    Raises
    ------
    ApiError
        422: it is no name. 404: the folder is a link to a place outside the root.
    """
    checked_name(name)
    if root.is_local and not inside(Path(root.root, name), Path(root.root)):
        raise not_found(f"no study `{name}`", hint="links that lead out of the root are not followed")
    return StudyFolder.at(f"{root.root}/{name}")


def inside(path: Path, root: Path) -> bool:
    """Whether a path lies in the root once links are followed."""
    try:
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError):  # a circle of links, or a name that no file can have
        return False


def owns(folder: StudyFolder, name: str) -> bool:
    """Whether a study has this file of its own: a link out of its folder would show whatever the service may read."""
    return folder.exists(name) and (not folder.is_local or inside(Path(folder.root, name), Path(folder.root)))


def cursor_of(last: str) -> str:
    return base64.urlsafe_b64encode(last.encode("utf-8", "surrogatepass")).decode().rstrip("=")


def after_cursor(cursor: str | None) -> str | None:
    """The name that a page begins after.

    Raises
    ------
    ApiError
        422: it is none of ours.
    """
    if cursor is None:
        return None
    try:
        text = cursor.encode("ascii")
        return base64.b64decode(text + b"=" * (-len(text) % 4), altchars=b"-_", validate=True).decode()
    except (ValueError, binascii.Error) as error:
        raise ApiError(422, "cursor: expected the `next` of the page before", field="cursor") from error
