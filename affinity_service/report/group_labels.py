"""Frames and numbers of the groups on a heatmap, every group numbered however small it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from affinity_service.report.svg import INK, LINE

BORDER = "#222222"  # lies on the colours of the map, which are the same on a dark page
# Points between the middles of neighbouring numbers: a line's height beside the map, the width of digits above it.
_LINE, _DIGIT, _SPACE = 9.5, 5.6, 3.0
_AWAY = 13.0  # points from the map where numbers must move aside: the thin lines back to their groups need the room


def draw_groups(axes: Axes, sizes: Sequence[int], side: float) -> None:
    """Frame the groups of a map of so many tasks each, `side` inches wide, and number them above and beside it."""
    if not sizes:
        return
    ends = np.cumsum(sizes)
    starts = ends - sizes
    for start, size in zip(starts.tolist(), sizes, strict=True):
        if start:
            for line in (axes.axhline, axes.axvline):
                line(start - 0.5, color=BORDER, linewidth=0.4)
        box = Rectangle((start - 0.5, start - 0.5), size, size, fill=False, edgecolor=BORDER, linewidth=1.4, zorder=4)
        axes.add_patch(box)
        box.set_clip_on(False)
    cell = 72 * side / int(ends[-1])
    middles = cell * (starts + ends) / 2
    for above in (True, False):
        gap = _DIGIT * len(str(len(sizes))) + _SPACE if above else _LINE
        _number(axes, middles, _with_room(sizes, 72 * side, gap), 72 * side, gap, above)
    axes.annotate("group", (1, 1), (8, 4), xycoords="axes fraction", textcoords="offset points", color=INK, size=8)


def _number(axes: Axes, middles: NDArray[np.float64], shown: list[int], length: float, gap: float, above: bool) -> None:
    """Write numbers along one side, where they would touch each other moved apart and led back by a thin line."""
    places = spread(middles[shown], gap, length)
    moved = np.abs(places - middles[shown]).max(initial=0.0) > 0.5
    away = _AWAY if moved else 4.0
    options: dict[str, Any] = {"fontsize": 8, "color": INK, "fontweight": "bold", "textcoords": "offset points"}
    for group, place in zip(shown, places, strict=True):
        part, aside = middles[group] / length, place - middles[group]
        if moved:
            arrow = {"arrowstyle": "-", "color": LINE, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0}
            at, text = ((part, 1), (aside, away - 2)) if above else ((1, 1 - part), (away - 2, -aside))
            axes.annotate("", at, text, xycoords="axes fraction", textcoords="offset points", arrowprops=arrow)
        if above:
            axes.annotate(str(group + 1), (part, 1), (aside, away), xycoords="axes fraction", ha="center", **options)
        else:
            at, text = (1, 1 - part), (away, -aside)
            axes.annotate(str(group + 1), at, text, xycoords="axes fraction", va="center", **options)


def _with_room(sizes: Sequence[int], length: float, gap: float) -> list[int]:
    """The groups that can be numbered along one side: all, or the largest of very many."""
    largest = np.argsort(-np.asarray(sizes), kind="stable")[: int(length // gap)]
    return np.sort(largest).tolist()


def spread(places: NDArray[np.float64], gap: float, length: float) -> NDArray[np.float64]:
    """The nearest places (least squares) that are `gap` apart, within 0 to `length`; `places` are in order."""
    steps = gap * np.arange(len(places))
    if not len(places):
        return places
    return np.clip(isotonic_regression(places - steps).x, gap / 2, length - gap / 2 - steps[-1]) + steps
