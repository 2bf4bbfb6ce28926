"""The first paragraph and the comparisons below it."""

from __future__ import annotations

from typing import Any

from affinity_service.evaluation.outcomes import RANDOM
from affinity_service.report import facts
from affinity_service.report.contents import Contents
from affinity_service.report.language import pretrained
from affinity_service.tasks.units import loss_unit


def answer(contents: Contents) -> dict[str, Any]:
    comparisons = _comparisons(contents)
    return {
        "tasks": len(contents.names),
        "subsets": contents.subsets,
        "measurements": 0 if contents.measurements is None else len(contents.measurements),
        "trained": contents.trained,
        "probes": (contents.calibration or {}).get("probes", 0),
        "groups": contents.groups,
        "pretrained": pretrained(contents),
        "left_out": len((contents.suite or {}).get("left_out", [])),
        "comparisons": comparisons,
        "score": "test loss" if contents.results is None else facts.score_of(contents.results).replace("_", " "),
        "summary": facts.summary({item["baseline"]: item["verdict"] for item in comparisons}),
        "seeds": contents.results["seed"].nunique() if contents.results is not None else 0,
        "random_groupings": _random_groupings(contents),
    }


def _comparisons(contents: Contents) -> list[dict[str, Any]]:
    results = contents.results
    if results is None:
        return []
    found = []
    gains = facts.gains_of(results, contents.names)
    decimals = facts.decimals_of(gains.values())
    score = facts.score_of(results).replace("_", " ")
    for baseline, gain in gains.items():
        tasks = results.loc[results["setting"] == baseline, "task"].unique()
        unit = loss_unit(t["kind"] for t in (contents.suite or {"tasks": []})["tasks"] if t["name"] in set(tasks))
        share = facts.share_of_loss(gain, results, baseline)
        found.append(
            {
                "baseline": baseline,
                "title": facts.SETTINGS[baseline][0],
                "verdict": gain.verdict,
                "gain": gain.text(decimals),
                "unit": unit,
                "sentence": facts.comparison(gain, baseline, decimals, unit, share, score),
                "tasks": len(tasks),
            }
        )
    return found


def _random_groupings(contents: Contents) -> int:
    if contents.results is None:
        return 0
    return int(contents.results.loc[contents.results["setting"] == RANDOM, "grouping"].nunique())
