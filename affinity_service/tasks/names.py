"""Task names as users give them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from affinity_service.errors import UserError


def task_index(wanted: Sequence[str], known: Sequence[str]) -> list[int]:
    """Positions of the wanted names.

    Raises
    ------
    UserError
        No name, a repeated one, or one that is not known; the nearest known name is given.
    """
    if not wanted:
        raise UserError("no task was named; name at least one")
    positions = {name: index for index, name in enumerate(known)}
    for name in wanted:
        if name not in positions:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0)
            raise UserError(f"unknown task `{name}`; did you mean `{near[0]}`? The study has {len(known)} tasks")
        if list(wanted).count(name) > 1:
            raise UserError(f"task `{name}` is named {list(wanted).count(name)} times; name it once")
    return [positions[name] for name in wanted]
