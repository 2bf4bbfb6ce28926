"""What was measured and scheduled while the base model trained."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from affinity_service.affinity.measured import history_of
from affinity_service.grouping import centre_rows, cluster
from affinity_service.report.contents import MILLION, Contents
from affinity_service.report.training_figures import (
    NAMED,
    draw_affinities,
    draw_assignments,
    draw_graphs,
    draw_occupancy,
)
from affinity_service.report.wording import decimals_for

Values = dict[str, Any]
# Pairs drawn one by one, parts of the training whose groups are compared, refreshes whose graph is drawn.
LINES, PARTS, GRAPHS = 3, 4, 3
# Above so many tasks a clustering per part would take longer than the report, and a graph would show a tangle.
MOST_CLUSTERED, MOST_DRAWN = 100, 60


def training(contents: Contents) -> Values | None:
    """None where the training measured nothing and all tasks trained in every step."""
    measured, scheduled = _measured(contents), _scheduled(contents)
    if measured is None and scheduled is None:
        return None
    return {"measured": measured, "scheduled": scheduled}


def _measured(contents: Contents) -> Values | None:
    table, names = contents.measurements, contents.names
    if table is None or len(names) < 2:
        return None
    measure = contents.measure or "lookahead"
    history = history_of(table, measure, len(names))
    if measure != "cosine":
        history *= MILLION
    step = table["step"].to_numpy()
    best = (contents.history or {}).get("best_epoch")
    epoch = table["epoch"].to_numpy()
    kept = epoch < best if best else np.ones(len(table), bool)
    unit = "cosine" if measure == "cosine" else "ppm of the loss per step"
    groups = _groups_over_time(history, step, kept, len(contents.groups), names)
    return {
        "measure": measure.replace("_", "-"),
        "count": len(table),
        "kept": int(kept.sum()),
        "every": contents.config.measure.every,
        "figure": draw_affinities(step, history, names, contents.group_of, unit, step[kept].max(initial=0), LINES),
        "groups": groups,
    }


def _groups_over_time(
    history: NDArray[np.float64], step: NDArray[np.int64], kept: NDArray[np.bool_], k: int, names: list[str]
) -> Values | None:
    """The groups that each part of the training alone would have given."""
    if not 1 < k < len(names) <= MOST_CLUSTERED or kept.sum() < 2 * PARTS:
        return None
    history, step = history[kept], step[kept]
    parts = np.array_split(np.arange(len(history)), PARTS)
    found: list[list[int]] = []
    for part in parts:
        mean = np.nanmean(history[part], axis=0)
        if not np.isfinite(mean).all():
            return None
        groups = cluster(centre_rows(mean), k).groups
        found.append([next(i for i, own in enumerate(groups) if task in own) for task in range(len(names))])
    aligned = _aligned(found)
    labels = [f"{step[part[0]]}–{step[part[-1]]}" for part in parts]
    same = float(
        np.mean([a == b for one, other in itertools.pairwise(aligned) for a, b in zip(one, other, strict=True)])
    )
    figure = draw_assignments(np.array(aligned).T, labels, names, "steps of the training")
    return {"figure": figure, "same": same, "parts": PARTS}


def _aligned(labels: list[list[int]]) -> list[list[int]]:
    """Group numbers that follow the groups: each takes that of the earlier group it shares most tasks with."""
    from scipy.optimize import linear_sum_assignment

    done = [labels[0]]
    for own in labels[1:]:
        size = max(*own, *done[-1]) + 1
        shared = np.zeros((size, size))
        np.add.at(shared, (own, done[-1]), 1)
        _, new = linear_sum_assignment(-shared)
        done.append([int(new[label]) for label in own])
    return done


def _scheduled(contents: Contents) -> Values | None:
    table, names = contents.schedule, contents.names
    if table is None:
        return None
    drawable = len(names) <= MOST_DRAWN
    # Only the graphs need the T² numbers of every refresh, as millions of Python's numbers.
    rows = (table if drawable else table.drop_columns("interference")).to_pylist()
    last = rows[-1]
    drawn = [rows[i] for i in sorted({round(i) for i in np.linspace(0, len(rows) - 1, min(GRAPHS, len(rows)))})]
    colours = np.array(_aligned([row["colour"] for row in rows])).T
    conflicts = [round(row["density"] * len(names) * (len(names) - 1) / 2) for row in rows]
    shares = [visits / last["step"] for visits in last["visits"]]
    return {
        "settings": contents.config.schedule,
        "refreshes": len(rows),
        "steps": last["step"],
        "conflicts": conflicts,
        "classes": [len(row["active"]) for row in rows],
        "named": len(names) <= NAMED,
        "pairs": len(names) * (len(names) - 1) // 2,
        "graphs": draw_graphs(drawn, names) if drawable else None,
        "assignments": draw_assignments(colours, [str(row["step"]) for row in rows], names, "refresh after step"),
        "occupancy": draw_occupancy(shares, last["longest_wait"], names),
        "table": [
            {"task": name, "share": share, "wait": wait, "skipped": skipped}
            for name, share, wait, skipped in zip(names, shares, last["longest_wait"], last["skipped"], strict=True)
        ],
        "decimals": decimals_for(shares, 2),
    }
