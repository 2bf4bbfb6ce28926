"""The affinity matrix as a picture that stays readable from 2 to 500 tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from affinity_service.report.group_labels import BORDER, draw_groups
from affinity_service.report.svg import INK, LINE, inline_svg, new_figure
from affinity_service.report.wording import decimals_for, short, signed

WITH_VALUES = 15
WITH_NAMES = 150
_LABELS = 60  # more names than this along one side would touch each other
# Outliers are what a few tasks can make: this share of the pairs, or in a large matrix the rows of so many tasks. In
# 30 groups of 500 tasks only one pair in 30 lies in a group: 2% would be half of what the picture is about.
_OUTLIERS, _OUTLYING_TASKS = 0.02, 2.5


@dataclass(frozen=True)
class Heatmap:
    svg: Markup
    every: int  # every how many tasks is named; 0: none
    clipped: int  # pairs beyond the ends of the scale


def draw_heatmap(
    values: NDArray[np.float64], names: Sequence[str], sizes: Sequence[int], label: str, legend: str, alternative: str
) -> Heatmap:
    """Draw a matrix whose rows and columns are already in the order of the groups.

    Parameters
    ----------
    values : (T, T), positive helps; the diagonal is left grey.
    sizes : tasks per group; empty for no groups.
    label : what the colour measures, with its unit. legend : what its two ends mean.
    """
    tasks = len(names)
    side = min(9.0, max(2.4, tasks * (0.62 if tasks <= WITH_VALUES else 0.24)))
    figure = new_figure(side + 1, side + 1)
    axes = figure.add_axes((0.0, 0.0, side / (side + 1), side / (side + 1)))
    shown = np.ma.masked_array(values, mask=np.eye(tasks, dtype=bool))
    limit, clipped = _limit(shown.compressed(), tasks)
    # An odd number of colours has white in the middle, and so few of them fit a palette.
    colours = mpl.colormaps["RdBu"].resampled(63).with_extremes(bad="#d4d4d4")
    image = axes.imshow(shown, cmap=colours, norm=Normalize(-limit, limit), interpolation="none", aspect="equal")
    every = 0 if tasks > WITH_NAMES else -(-tasks // _LABELS)
    _name_tasks(axes, names, every, side)
    draw_groups(axes, sizes, side)
    if tasks <= WITH_VALUES:
        _print_values(axes, values, limit)
    _colour_bar(figure, image, side, f"{legend}\n{label}", clipped)
    return Heatmap(inline_svg(figure, alternative), every, clipped)


def _limit(values: NDArray[np.float64], tasks: int) -> tuple[float, int]:
    """The end of the scale: the largest value, unless a few outliers would wash out all others."""
    sizes = np.abs(values)
    kept = 1 - min(_OUTLIERS, _OUTLYING_TASKS / tasks)
    largest, usual = float(sizes.max(initial=0.0)), float(np.quantile(sizes, kept)) if len(sizes) else 0.0
    limit = usual if 0 < usual < largest / 2 else largest
    return (limit or 1.0), int((sizes > limit).sum())


def _name_tasks(axes: Axes, names: Sequence[str], every: int, side: float) -> None:
    axes.tick_params(length=0, colors=INK)
    for spine in axes.spines.values():
        spine.set_color(LINE)
    shown = range(0, len(names), every) if every else range(0)
    size = max(5.0, min(9.0, 0.72 * 72 * side * max(every, 1) / len(names)))
    labels = [short(names[i], 26 if size > 7 else 20) for i in shown]
    few = len(names) <= WITH_VALUES
    axes.set_xticks(shown, labels, rotation=40 if few else 90, ha="right" if few else "center", fontsize=size)
    axes.set_yticks(shown, labels, fontsize=size)
    if few:
        for text in axes.get_xticklabels():
            text.set_rotation_mode("anchor")
    for text in [*axes.get_xticklabels(), *axes.get_yticklabels()]:
        text.set_parse_math(False)
    axes.set_xlabel("source: the task that gives", fontsize=9, color=INK, labelpad=6)
    axes.set_ylabel("receiver: the task whose loss is looked at", fontsize=9, color=INK, labelpad=6)


def _print_values(axes: Axes, values: NDArray[np.float64], limit: float) -> None:
    decimals = decimals_for([limit], 2)
    size = 8.5 if decimals <= 3 else 7.5
    for i, j in zip(*np.nonzero(~np.eye(len(values), dtype=bool)), strict=True):
        dark = abs(values[i, j]) > 0.62 * limit
        text = signed(values[i, j], decimals)
        axes.text(j, i, text, ha="center", va="center", fontsize=size, color="#ffffff" if dark else BORDER)


def _colour_bar(figure: Figure, image: mpl.image.AxesImage, side: float, title: str, clipped: int) -> None:
    width = min(max(side * 0.6, 3.0), 5.0)
    total = side + 1
    axes = figure.add_axes((0.0, (side + 0.62) / total, width / total, 0.14 / total))
    bar = figure.colorbar(image, cax=axes, orientation="horizontal", extend="both" if clipped else "neither")
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=INK, labelsize=8, color=LINE)
    bar.ax.locator_params(nbins=5)
    bar.ax.set_title(title, fontsize=8.5, color=INK, loc="left")
