"""The fidelity report as rows of text, for the terminal and the HTML report."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

# Names of fidelity.json in the order and words of the reader.
ESTIMATORS = {
    "estimate": "estimate",
    "published_recipe": "published recipe",
    "first_order": "first-order",
    "tag_lookahead": "TAG lookahead",
    "tag_first_order": "TAG first-order",
    "tag_cosine": "TAG cosine",
    "oracle": "linear oracle",
    "base": "base model",
    "row_mean": "task means",
    "ceiling": "ceiling",
}


def title_of(truth: str, fidelity: dict[str, Any]) -> str:
    when = (
        "at the best validation loss" if truth == "best_validation" else f"after {truth.removeprefix('epoch_')} epochs"
    )
    start = "fine-tuned" if fidelity["start"] == "base" else "trained from scratch"
    return f"{fidelity['subsets']} subsets {start}, {when}, mean of {fidelity['seeds']} seeds"


def rows_of(estimators: dict[str, dict[str, Any]]) -> Iterator[list[str]]:
    """Estimator, centred r and its interval, regret, Spearman, relative distance, skill."""
    for name, words in ESTIMATORS.items():
        if name in estimators:
            entry = estimators[name]
            low_high = entry["centred_r_interval"]
            interval = f"{low_high[0]:.2f} … {low_high[1]:.2f}" if low_high else "–"
            numbers = (("centred_r", ".3f"), ("regret", ".5f"), ("spearman", ".3f"))
            shown = [_shown(entry[key], form) for key, form in numbers]
            distance, skill = _shown(entry["relative_distance"], ".2%"), _shown(entry["skill"], ".2f")
            yield [words, shown[0], interval, *shown[1:], distance, skill]


def _shown(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
