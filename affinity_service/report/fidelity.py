"""Centred r of every estimator and truth, with intervals."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from affinity_service.evaluation.fidelity_table import ESTIMATORS
from affinity_service.report.svg import HELP, INK, LINE, PLAIN, inline_svg, new_figure, tidy


def draw_fidelity(fidelity: dict[str, Any]) -> Markup | None:
    """One panel per truth; estimators that have no centred r are left out, and no picture is made of none."""
    truths = [name for name, found in fidelity.items() if isinstance(found, dict)]
    shown = [
        name for name in ESTIMATORS if any((fidelity[t].get(name) or {}).get("centred_r") is not None for t in truths)
    ]
    if not shown:
        return None
    figure = new_figure(7.2, 0.75 + 0.24 * len(shown))
    width = 0.8 / len(truths)
    for number, truth in enumerate(truths):
        axes = figure.add_axes((0.18 + number * width, 0.22, width - 0.03, 0.66))
        for row, name in enumerate(shown):
            entry = fidelity[truth].get(name) or {}
            value, interval = entry.get("centred_r"), entry.get("centred_r_interval")
            if value is None:
                continue
            colour = {"estimate": HELP, "ceiling": INK}.get(name, PLAIN)
            if interval:
                axes.hlines(row, interval[0], interval[1], colors=colour, linewidth=1.5)
            axes.plot([value], [row], "o", color=colour, markersize=4.5)
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlim(min([0.0, *(_low(fidelity[truth].get(name)) for name in shown)]) - 0.02, 1.02)
        axes.set_yticks(range(len(shown)), [ESTIMATORS[name] for name in shown] if number == 0 else [""] * len(shown))
        axes.set_title(title_words(truth), fontsize=9, color=INK)
        axes.grid(axis="x", color=LINE, linewidth=0.6)
        axes.set_axisbelow(True)
        tidy(axes)
    axes.set_xlabel("centred r (1 is perfect)")
    return inline_svg(figure, "Centred r of every estimator with its 95% interval; the tables give the numbers")


def title_words(truth: str) -> str:
    return "best stop" if truth == "best_validation" else f"after {truth.removeprefix('epoch_')} epochs"


def _low(entry: dict[str, Any] | None) -> float:
    interval = (entry or {}).get("centred_r_interval")
    return float(interval[0]) if interval else 0.0
