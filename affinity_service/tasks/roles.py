"""Which column of a table is what: features, tasks, the split, or nothing."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from affinity_service.config_sources import TableSource
from affinity_service.errors import UserError
from affinity_service.tasks.suite import Kind


@dataclass(frozen=True)
class Roles:
    """Columns by role. `tasks` maps a name to its kind, None to infer it; `unused` columns have no role."""

    features: list[str]
    tasks: dict[str, Kind | None]
    split: str | None
    unused: list[str]


def assign_roles(columns: Sequence[str], source: TableSource, origin: str) -> Roles:
    """Give every column its role; what the source does not list is all other columns.

    Raises
    ------
    UserError
        A column is missing, listed twice, occurs twice or has two roles; no column is left for features or tasks.
    """
    named: dict[str, list[str]] = {
        "features": [source.features] if isinstance(source.features, str) else list(source.features or []),
        "tasks": list(source.tasks or []),
        "split_column": [source.split_column] if source.split_column is not None else [],
        "leave_out": list(source.leave_out),
    }
    _check_table_names(columns, named["leave_out"], origin)
    _check_named(columns, named, origin)
    taken = {name for names in named.values() for name in names}
    others = [name for name in columns if name not in taken]
    features, tasks = named["features"], named["tasks"]
    if source.features is None:
        features, others = others, []
    if source.tasks is None:
        tasks, others = others, []
    for role, names in (("features", features), ("tasks", tasks)):
        if not names:
            raise UserError(
                f"{origin}: no column is left for `{role}`; found {_listing(columns)}, "
                + ", ".join(f"{len(names)} under `{key}`" for key, names in named.items() if names)
            )
    kinds = source.tasks if isinstance(source.tasks, dict) else {}
    return Roles(
        features=features,
        tasks={name: kinds.get(name) for name in tasks},
        split=source.split_column,
        unused=[*dict.fromkeys(named["leave_out"]), *others],
    )


def _check_table_names(columns: Sequence[str], leave_out: Sequence[str], origin: str) -> None:
    for name, count in Counter(columns).items():
        if count > 1 and name not in leave_out:
            where = ", ".join(str(index + 1) for index, other in enumerate(columns) if other == name)
            raise UserError(f"{origin}: column `{name}` occurs {count} times (columns {where}); names must be unique")
        if not name.strip() and name not in leave_out:
            index = list(columns).index(name)
            beside = f" (after `{columns[index - 1]}`)" if index else ""
            raise UserError(
                f'{origin}: column {index + 1}{beside} has no name; name it, or list it as "{name}" under `leave_out`'
            )


def _check_named(columns: Sequence[str], named: dict[str, list[str]], origin: str) -> None:
    roles: dict[str, str] = {}
    for role, names in named.items():
        for name in names:
            if name not in columns:
                near = difflib.get_close_matches(name, columns, n=1)
                hint = f", near to `{near[0]}`" if near else ""
                raise UserError(
                    f"{origin}: column `{name}` is missing (under `{role}`{hint}); found {_listing(columns)}"
                )
            if name in roles:
                again = f"twice under `{role}`" if roles[name] == role else f"under `{roles[name]}` and `{role}`"
                raise UserError(f"{origin}: column `{name}` is named {again}; a column has one role")
            roles[name] = role


def _listing(columns: Sequence[str]) -> str:
    more = f" and {len(columns) - 20} more" if len(columns) > 20 else ""
    return f"{len(columns)} column{'s' * (len(columns) != 1)}: {', '.join(columns[:20])}{more}"
