"""Pictures of a training: affinities over time, conflict graphs, who is in which group, how often each task trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import networkx as nx
import numpy as np
from markupsafe import Markup
from matplotlib.colors import ListedColormap
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from affinity_service.report.svg import HARM, HELP, INK, LINE, PLAIN, inline_svg, new_figure, tidy
from affinity_service.report.wording import short

# Measurements that a point of a curve is the mean of, as a part of all.
_SMOOTH = 8
NAMED = 60
# Light enough for dark numbers.
_COLOURS = mpl.colormaps["Set3"].colors  # type: ignore[attr-defined]
_NODE_INK = "#222222"


def draw_affinities(
    step: NDArray[np.int64],
    history: NDArray[np.float64],
    names: Sequence[str],
    group_of: Mapping[str, int],
    unit: str,
    last: int,
    lines: int,
) -> Markup:
    """Moving means: all pairs of one group, all others, and the pairs that stand out; what comes after the best epoch,
    at step `last`, is not averaged into the matrix."""
    tasks = len(names)
    apart = ~np.eye(tasks, dtype=bool)
    group = np.array([group_of.get(name, 0) for name in names])
    together = apart & (group[:, None] == group[None, :]) & (group[:, None] > 0)
    mean = np.where(apart, known_mean(history), np.inf)
    ranked = np.argsort(mean, axis=None)[: tasks * (tasks - 1)]
    lowest, highest = ([divmod(int(i), tasks) for i in part[:lines]] for part in (ranked, ranked[::-1]))
    figure = new_figure(7.2, 3.4)
    axes = figure.add_axes((0.12, 0.14, 0.62, 0.82))
    window = max(1, len(step) // _SMOOTH)

    def curve(values: NDArray[np.float64], colour: str, width: float, label: str, style: str = "-") -> None:
        smooth = _moving_mean(values, window)
        axes.plot(step[: len(smooth)] if len(smooth) == len(step) else step[window // 2 :][: len(smooth)], smooth,
                  color=colour, linewidth=width, linestyle=style, label=label)  # fmt: skip

    for number, (i, j) in enumerate(highest):
        label = f"{short(names[i], 14)} ← {short(names[j], 14)}"
        curve(history[:, i, j], HELP, 1.2, label, ("-", "--", ":")[number % 3])
    for number, (i, j) in enumerate(lowest):
        label = f"{short(names[i], 14)} ← {short(names[j], 14)}"
        curve(history[:, i, j], HARM, 1.2, label, ("-", "--", ":")[number % 3])
    if together.any() and (apart & ~together).any():
        for pairs, colour, label in ((together, INK, "pairs in a group"), (apart & ~together, PLAIN, "other pairs")):
            means = np.array([np.nanmean(values[pairs]) for values in history])
            curve(means, colour, 2.2, f"{label}, mean")
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.axvline(last, color=LINE, linewidth=1.2, zorder=0)
    axes.set_xlabel("optimizer step (vertical line: the best epoch)")
    axes.set_ylabel(f"affinity ({unit})")
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    axes.yaxis.get_offset_text().set_color(INK)
    axes.yaxis.get_offset_text().set_fontsize(8)
    legend = axes.legend(frameon=False, fontsize=7.5, labelcolor=INK, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    for text in legend.get_texts():
        text.set_parse_math(False)
    tidy(axes)
    return inline_svg(figure, "Moving means of measured affinities over the steps of the training")


def known_mean(history: NDArray[np.float64]) -> NDArray[np.float64]:
    """``np.nanmean`` over the measurements without its copy of them: of 500 tasks each has two megabytes."""
    total, counts = np.zeros(history.shape[1:]), np.zeros(history.shape[1:])
    for values in history:
        known = np.isfinite(values)
        np.add(total, values, out=total, where=known)
        counts += known
    return np.divide(total, counts, out=np.full_like(total, np.nan), where=counts > 0)


def _moving_mean(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    known = np.isfinite(values)
    kernel = np.ones(window)
    total = np.convolve(np.where(known, values, 0.0), kernel, mode="valid")
    counts = np.convolve(known.astype(float), kernel, mode="valid")
    return np.divide(total, counts, out=np.full_like(total, np.nan), where=counts > 0)


def draw_graphs(records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Markup:
    """The interference graph at some refreshes: an edge is a conflict, a colour the tasks that train together."""
    tasks, count = len(names), len(records)
    figure = new_figure(7.2, 0.4 + 7.0 / max(count, 2))
    for number, record in enumerate(records):
        axes = figure.add_axes((number / max(count, 2), 0.0, 0.96 / max(count, 2), 0.86))
        rho = np.array(record["interference"]).reshape(tasks, tasks)
        graph = nx.Graph()
        graph.add_nodes_from(range(tasks))
        above = np.triu(rho > record["tau"], 1)
        graph.add_edges_from(zip(*np.nonzero(above), strict=True))
        places = nx.circular_layout(graph)
        size = float(np.clip(5000 / tasks, 60, 260))
        nx.draw_networkx_edges(graph, places, ax=axes, edge_color=HARM, width=0.9)
        colours = [_COLOURS[colour % len(_COLOURS)] for colour in record["colour"]]
        drawn = nx.draw_networkx_nodes(graph, places, ax=axes, node_color=colours, node_size=size)
        drawn.set_edgecolor(_NODE_INK)
        drawn.set_linewidth(0.6)
        if tasks <= 30:
            for task, (x, y) in places.items():
                axes.text(x, y, str(task + 1), ha="center", va="center", fontsize=6.5, color=_NODE_INK)
        axes.set_title(
            f"step {record['step']}: {int(above.sum())} conflicts, {len(record['active'])} "
            + ("class" if len(record["active"]) == 1 else "classes"),
            fontsize=8.5, color=INK,
        )  # fmt: skip
        axes.set_axis_off()
        axes.margins(0.15)
        axes.set_aspect("equal")
    return inline_svg(figure, "Interference graphs; the table lists the tasks by their numbers")


def draw_assignments(labels: NDArray[np.int_], times: Sequence[str], names: Sequence[str], title: str) -> Markup:
    """(T, times) which group a task is in, as colours; a row that keeps its colour is a task that keeps its company."""
    tasks, count = labels.shape
    named = tasks <= NAMED
    if not named:  # without names the order is free: tasks that end together stand together
        labels = labels[np.lexsort(labels.T)]
    height = 0.7 + (0.17 * tasks if named else 5.0)
    figure = new_figure(7.2, height)
    axes = figure.add_axes((0.2, 0.55 / height, 0.78, 1 - 0.65 / height))
    axes.imshow(
        labels % len(_COLOURS), cmap=ListedColormap(_COLOURS), vmin=-0.5, vmax=len(_COLOURS) - 0.5, aspect="auto",
        interpolation="none",
    )  # fmt: skip
    shown = np.unique(np.linspace(0, count - 1, min(count, 8)).round().astype(int))
    axes.set_xticks(shown, [times[i] for i in shown])
    axes.set_yticks(range(tasks) if named else [], [short(name, 28) for name in names] if named else [])
    for text in axes.get_yticklabels():
        text.set_parse_math(False)
    axes.set_xlabel(title)
    if not named:
        axes.set_ylabel(f"{tasks} tasks, in the order of their last colour")
    tidy(axes, 8)
    return inline_svg(figure, "Which group or colour class every task is in, over time")


def draw_occupancy(shares: Sequence[float], waits: Sequence[int], names: Sequence[str]) -> Markup:
    """Bars: the part of the steps in which each task trained; the longest wait is written beside them."""
    tasks = len(names)
    named = tasks <= NAMED
    height = 0.7 + (0.19 * tasks if named else 5.0)
    figure = new_figure(7.2, height)
    axes = figure.add_axes((0.2, 0.55 / height, 0.7, 1 - 0.65 / height))
    if not named:  # hundreds of bars would leave seams
        axes.fill_betweenx(range(tasks), sorted(shares, reverse=True), color=HELP, step="mid", linewidth=0)
    else:
        axes.barh(range(tasks), shares, color=HELP, height=0.7)
        for task, (share, wait) in enumerate(zip(shares, waits, strict=True)):
            axes.text(share + 0.01, task, f"waited {wait} at most", va="center", fontsize=7, color=INK)
    axes.set_ylim(tasks - 0.4, -0.6)
    axes.set_xlim(0, 1.3 * max([*shares, 1e-9]))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_yticks(range(tasks) if named else [], [short(name, 28) for name in names] if named else [])
    for text in axes.get_yticklabels():
        text.set_parse_math(False)
    axes.set_xlabel("part of the optimizer steps in which the task trained")
    if not named:
        axes.set_ylabel(f"{tasks} tasks, most steps first")
    tidy(axes, 8)
    return inline_svg(figure, "Occupancy of every task; the table gives the numbers")
