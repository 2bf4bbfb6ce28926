"""Communities as files: SNAP's lines of node ids, or a JSON object from node to its labels."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from affinity_service.errors import UserError
from affinity_service.graphs.edge_list import NUMBER
from affinity_service.tasks.files import read_bytes, read_text

# Possessive: a line is gone through once, and nothing is kept of where it could have been read otherwise.
_LINE = re.compile(rb"\s*+(?:-?\d{1,18}+(?:\s++|\Z))++")


def read_communities(path: str) -> dict[str, NDArray[np.int64]]:
    """Task name → ids of its members, ascending and distinct. SNAP's communities have no names: they are called
    community_0, … by their line.

    Raises
    ------
    UserError
        Something is no whole number (the line is named), or the JSON is not an object of lists.
    """
    if path.removesuffix(".gz").endswith(".json"):
        return _from_json(path)
    content = read_bytes(path).removeprefix(b"\xef\xbb\xbf")
    found: dict[str, NDArray[np.int64]] = {}
    # One line in memory at a time beside the file.
    for match in re.finditer(rb"[^\r\n]+", content):
        line = match.group()
        if line.isspace() or line.startswith(b"#"):
            continue
        if not _LINE.fullmatch(line):
            bad = next(word for word in line.split() if not NUMBER.fullmatch(word))
            number = len(content[: match.start()].splitlines()) + 1
            raise UserError(
                f"{path}: line {number}: {bad[:40].decode('utf-8', 'replace')!r} is no node id; a community is a line "
                "of whole numbers"
            )
        found[f"community_{len(found)}"] = np.unique(np.fromstring(line, np.int64, sep=" "))
    if not found:
        raise UserError(f"{path}: no line has a community; expected one per line, as node ids")
    return found


def _from_json(path: str) -> dict[str, NDArray[np.int64]]:
    try:
        content = json.loads(read_text(path))
        if not isinstance(content, Mapping):
            raise ValueError(f"found {type(content).__name__}")
        members: dict[str, list[int]] = {}
        for node, labels in content.items():
            if not isinstance(labels, list):
                raise ValueError(f"node {node!r} has {type(labels).__name__}")
            for label in labels:
                members.setdefault(str(label), []).append(int(node))
        found = {name: np.unique(np.array(members[name], np.int64)) for name in sorted(members)}
    except (ValueError, OverflowError, RecursionError) as error:
        raise UserError(f"{path}: expected a JSON object from node id to the list of its labels: {error}") from error
    if not members:
        raise UserError(f"{path}: no node has a label")
    return found
