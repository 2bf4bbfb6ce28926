"""What the command line prints: tables for people, JSON for machines."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

if TYPE_CHECKING:
    from affinity_service.named_groups import TaskNetworks

# More tasks than this are a wall of names: each group gets a line of them. What stands beside the names, with borders.
_MANY, _BESIDE = 60, 20
out, err = Console(), Console(stderr=True)
# Names from the user's data are neither markup nor emoji, and a path must not be broken into lines.
VERBATIM: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False, "soft_wrap": True}


def print_job(state: Any, as_json: bool) -> None:
    if as_json:
        print_json(state.to_json())
    else:
        # After a failure Ray's message goes on with the end of the log.
        out.print(f"{state.id}: {state.status}. {state.message.partition(chr(10))[0]}", **VERBATIM)


def print_requests(asked: Any) -> None:
    """What each stage asks of a cluster (``engine.requests.Requests``)."""
    view = Table("stage", "asks for", right("room for"), "a run would start them")
    for each in asked.stages:
        view.add_row(each.stage, each.asked, str(each.room), each.verdict)
    out.print(view)
    out.print(f"{asked.nodes[0].upper()}{asked.nodes[1:]}.", **VERBATIM)


def print_json(content: Any) -> None:
    print(json.dumps(_finite(content), indent=2, allow_nan=False))


def _finite(content: Any) -> Any:
    """JSON knows neither NaN nor infinity: null stands for them."""
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def print_fidelity(fidelity: dict[str, Any]) -> None:
    from affinity_service.evaluation.fidelity_table import rows_of, title_of

    for truth, estimators in fidelity.items():
        if not isinstance(estimators, dict):
            continue
        columns = ("estimator", *(right(x) for x in ("centred r", "95%", "regret", "Spearman", "distance", "skill")))
        view = Table(*columns, title=title_of(truth, fidelity), title_justify="left")
        for row in rows_of(estimators):
            view.add_row(*row)
        out.print(view)
    out.print(
        "centred r: does it know which partners help (1 is perfect; the ceiling is the truth of other seeds). regret: "
        "loss given away by choosing partners with it. distance and skill flatter: most of both is how hard a task is. "
        "base model: its own losses for every subset. task means: each task's true mean, blind to partners."
    )


def print_groups(groups: list[list[str]], stored: dict[str, Any]) -> None:
    title = f"{len(groups)} group{'s' * (len(groups) != 1)} by {stored['method']}"
    view = Table("group", right("size"), "tasks", title=title, title_justify="left")
    many = sum(len(names) for names in groups) > _MANY
    for index, names in enumerate(groups):
        view.add_row(str(index), str(len(names)), _names(names, out.width - _BESIDE if many else None))
    out.print(view)
    bound = "" if stored["bound"] is None else f", at most {stored['bound']:.4g} possible"
    out.print(f"objective {stored['objective']:.4g}{bound}", highlight=False)
    if many:
        out.print("Every name: --json, or `affinity report`.", highlight=False)


def print_networks(found: TaskNetworks) -> None:
    view = Table(
        "network",
        "tasks",
        "serves",
        title=f"{len(found.tasks)} network{'s' * (len(found.tasks) != 1)}",
        title_justify="left",
    )
    many = len(found.served_by) > _MANY
    width = (out.width - _BESIDE) // 2 if many else None
    for index, names in enumerate(found.tasks):
        served = [task for task, network in found.served_by.items() if network == index]
        view.add_row(str(index), _names(names, width), _names(served, width))
    out.print(view)
    if many:
        out.print("Every name: --json.", highlight=False)
    least = "" if found.bound is None else f"; at best {found.bound:.4f} with the {found.evaluated} networks looked at"
    if found.loss is not None:
        out.print(f"mean predicted loss {found.loss:.4f}{least}", highlight=False)
    if not found.settled:
        out.print("Not proved to be the last word: better networks may exist.")


def _names(names: list[str], width: int | None) -> Text:
    """Names separated by commas; where a width is given, on one line: the first that fit, and how many others are."""
    if width is None or cell_len(", ".join(names)) <= width:
        return Text(", ".join(names))
    for shown in range(len(names) - 1, 0, -1):
        line = f"{', '.join(names[:shown])} … and {len(names) - shown} more"
        if cell_len(line) <= width:
            return Text(line)
    rest = f" and {len(names) - 1} more" if len(names) > 1 else ""
    first = Text(names[0])
    first.truncate(max(width - len(rest), 1), overflow="ellipsis")
    return first.append(rest)


def right(title: str) -> Any:
    return Column(title, justify="right")
