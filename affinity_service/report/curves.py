"""The training curve, and the gain of every task with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import FixedLocator, MaxNLocator

from affinity_service.report.facts import BETTER, WORSE, Gain
from affinity_service.report.svg import HARM, HELP, INK, LINE, PLAIN, inline_svg, new_figure, tidy
from affinity_service.report.wording import short

NAMED_GAINS = 60


def draw_training(history: Mapping[str, Any], unit: str) -> Markup:
    """Loss per epoch, the best epoch marked."""
    epochs = [entry["epoch"] for entry in history["epochs"]]
    losses = {key: [entry[f"{key}_loss"] for entry in history["epochs"]] for key in ("train", "validation")}
    best = history["best_epoch"]
    figure = new_figure(7.2, 2.9)
    axes = figure.add_axes((0.1, 0.16, 0.88, 0.8))
    # A line of one epoch would not be seen, nor would its axis know whole epochs.
    marker = "o" if len(epochs) == 1 else ""
    axes.plot(
        epochs,
        losses["train"],
        color=PLAIN,
        linewidth=1.4,
        linestyle="--",
        label="training",
        marker=marker,
        markersize=4,
    )
    axes.plot(epochs, losses["validation"], color=HELP, linewidth=1.8, label="validation")
    if best in epochs:
        value = losses["validation"][epochs.index(best)]
        axes.axvline(best, color=LINE, linewidth=1, zorder=0)
        axes.plot([best], [value], "o", color=HELP, markersize=6, label=f"best epoch ({best})")
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"mean loss per task\n({unit})")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True) if len(epochs) > 1 else FixedLocator(epochs))
    axes.legend(frameon=False, fontsize=8.5, labelcolor=INK)
    tidy(axes)
    return inline_svg(figure, "Training and validation loss of the base model per epoch")


def draw_gains(gains: Mapping[str, Gain], order: Sequence[str], label: str) -> Markup:
    """A dot and its interval per task: named, group by group, or above `NAMED_GAINS` tasks sorted without names."""
    named = len(order) <= NAMED_GAINS
    tasks = list(order) if named else sorted(order, key=lambda task: gains[task].mean, reverse=True)
    figure = new_figure(7.2, 0.6 + (0.2 * len(tasks) if named else 5.0))
    axes = figure.add_axes((0.2, 0.1, 0.78, 0.88))
    axes.axvline(0, color=INK, linewidth=1)
    colours = [{BETTER: HELP, WORSE: HARM}.get(gains[task].verdict, PLAIN) for task in tasks]
    means, halves = (np.array([getattr(gains[task], part) for task in tasks]) for part in ("mean", "half"))
    rows, halves = np.arange(len(tasks)), np.nan_to_num(halves)
    # Of hundreds of tasks the intervals are a haze around the line of dots.
    width, alpha = (1.3, 1.0) if named else (0.8, 0.4)
    axes.hlines(rows, means - halves, means + halves, colors=colours, linewidth=width, alpha=alpha)
    axes.scatter(means, rows, s=20 if named else 6, c=colours, zorder=3)
    axes.set_ylim(len(tasks) - 0.4, -0.6)
    if named:
        axes.set_yticks(range(len(tasks)), [short(task, 28) for task in tasks])
        for text in axes.get_yticklabels():
            text.set_parse_math(False)
    else:
        axes.set_yticks([])
        axes.set_ylabel(f"{len(tasks)} tasks, largest gain first")
    axes.set_xlabel(label)
    axes.grid(axis="x", color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    tidy(axes)
    return inline_svg(figure, "Gain of grouped training per task with its 95% interval; the table gives the numbers")
