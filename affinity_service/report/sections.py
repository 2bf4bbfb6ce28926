"""What each section shows: plain values for its template, or None while its stage is not done."""

from __future__ import annotations

from typing import Any

import numpy as np

from affinity_service.evaluation.outcomes import GROUPS, JOINT, RANDOM, SINGLE, loss_table
from affinity_service.report import facts
from affinity_service.report.contents import Contents
from affinity_service.report.curves import NAMED_GAINS, draw_gains, draw_training
from affinity_service.report.heatmap import WITH_VALUES, draw_heatmap
from affinity_service.report.pairs import extreme_pairs, relative_gains
from affinity_service.report.wording import decimals_for, loss_unit

Values = dict[str, Any]
BASELINES = (JOINT, SINGLE, RANDOM)

# Stage → what it does, in plain words.
STAGES = {
    "base_model": "train one model on all tasks",
    "gradients": "gradients of every example's output",
    "fits": "estimate every subset by a small fit",
    "affinity": "average the estimates into the matrix",
    "groups": "find the groups",
    "group_models": "train the groups and what they are compared with",
}


def answer(contents: Contents) -> Values:
    sizes = contents.subset_sizes
    return {
        "tasks": len(contents.names),
        "subsets": sum(sizes.values()),
        "larger": sum(number for size, number in sizes.items() if size > 2),
        "range": [f(size for size in sizes if size > 2) for f in (min, max)] if max(sizes, default=0) > 2 else None,
        "groups": contents.groups,
        "left_out": len((contents.suite or {}).get("left_out", [])),
        "comparisons": _comparisons(contents),
        "seeds": contents.results["seed"].nunique() if contents.results is not None else 0,
        "random_groupings": _random_groupings(contents),
    }


def groups(contents: Contents) -> Values | None:
    if contents.grouping is None:
        return None
    results, matrix = contents.results, contents.matrix
    rows = []
    for index, names in enumerate(contents.groups, 1):
        estimated = None
        if matrix is not None and len(names) > 1:
            members = [matrix.names.index(name) for name in names]
            block = matrix.gains()[np.ix_(members, members)]
            estimated = float(block.sum() / (len(names) * (len(names) - 1)))
        gains = {} if results is None else facts.gains_of(results, names)
        rows.append({"index": index, "tasks": names, "estimated": estimated, "gains": gains})
    shown = [gain.mean for row in rows for gain in row["gains"].values()]
    shown += [row["estimated"] for row in rows if row["estimated"] is not None]
    return {
        "method": contents.grouping["method"],
        "rows": rows,
        "decimals": decimals_for(shown),
        "baselines": [b for b in BASELINES if any(b in row["gains"] for row in rows)],
        "superseded": contents.superseded,
        "bound": facts.bound_sentences(contents.grouping, matrix),
        "sampled": _sampled(contents),
    }


def heatmap(contents: Contents) -> Values | None:
    matrix = contents.matrix
    if matrix is None or len(matrix.names) < 2:
        return None
    parts = contents.ordered
    order = [matrix.names.index(name) for part in parts for name in part]
    names = [matrix.names[i] for i in order]
    sizes = [len(part) for part in parts] if contents.grouping is not None else []
    block = np.ix_(order, order)
    unit = f"{contents.unit} of validation loss"
    alone = draw_heatmap(
        matrix.gains()[block],
        names,
        sizes,
        f"gain over the receiver trained alone ({unit})",
        "Heatmap of the estimated gain of every receiver from every source",
    )
    relative = draw_heatmap(
        relative_gains(matrix)[block],
        names,
        sizes,
        f"gain against the receiver's average partner ({unit})",
        "Heatmap of the estimated gains, each compared with the receiver's mean over its partners",
    )
    values = matrix.gains()[~np.eye(len(order), dtype=bool)]
    return {
        "alone": alone,
        "relative": relative if len(order) > 2 else None,
        "grouped": bool(sizes),
        "values_printed": len(order) <= WITH_VALUES,
        "pairs": len(values),
        "helpful": int((values > 0).sum()),
    }


def pairs(contents: Contents) -> Values | None:
    matrix = contents.matrix
    if matrix is None or len(matrix.names) < 2:
        return None
    above, below = extreme_pairs(matrix, contents.group_of)
    shown = [*above, *below]
    return {
        "above": above,
        "below": below,
        "decimals": decimals_for([max(abs(p.relative), abs(p.gain)) for p in shown]),
        "reach": max((abs(p.relative) + p.error for p in shown), default=0.0) or 1.0,
        "single": any(p.subsets == 0 for p in shown),
        "total": len(matrix.names) * (len(matrix.names) - 1),
        "grouped": contents.grouping is not None,
    }


def outcomes(contents: Contents) -> Values | None:
    results = contents.results
    if results is None:
        return None
    order = [name for part in contents.ordered for name in part if name in set(results["task"])]
    tables = []
    for score, title in (("test_loss", "Test loss"), ("validation_loss", "Validation loss")):
        if results[score].notna().any():
            table = loss_table(results, score).reindex(order)
            settings = [s for s in (GROUPS, *BASELINES) if s in table.columns]
            tables.append(
                {
                    "title": title,
                    "settings": settings,
                    "rows": [(name, contents.group_of.get(name), row) for name, row in table.iterrows()],
                    "best": table[settings].min(axis=1).to_dict(),
                    "decimals": decimals_for(table[settings].to_numpy().ravel(), 4),
                }
            )
    gains = facts.task_gains(results, JOINT)
    verdicts = [gain.verdict for gain in gains.values()]
    score = facts.score_of(results).replace("_", " ")
    figure = None
    if gains:
        label = f"gain over joint training ({contents.unit} of {score})\nharms  ←  0  →  helps"
        figure = draw_gains(gains, [name for name in order if name in gains], label)
    return {
        "tables": tables,
        "figure": figure,
        "score": score,
        "sorted": len(gains) > NAMED_GAINS,
        "verdicts": {word: verdicts.count(word) for word in (facts.BETTER, facts.WORSE)},
        "compared": len(verdicts),
        "seeds": results["seed"].nunique(),
        "sampled": _sampled(contents),
    }


def base_model(contents: Contents) -> Values | None:
    history = contents.history
    if not history or not history["epochs"]:
        return None
    best = next((e for e in history["epochs"] if e["epoch"] == history["best_epoch"]), None)
    losses = [e[key] for e in history["epochs"] for key in ("train_loss", "validation_loss")]
    return {
        "figure": draw_training(history, contents.unit),
        "epochs": len(history["epochs"]),
        "allowed": contents.config.base.epochs,
        "best": best,
        "decimals": decimals_for(losses, 4),
        "model": contents.config.model.model_dump(),
    }


def cost(contents: Contents) -> Values | None:
    if not contents.timings:
        return None
    seconds = [stage["seconds"] for stage in contents.timings]
    return {
        "rows": [{**stage, "does": STAGES.get(stage["name"], "")} for stage in contents.timings],
        "seconds": sum(seconds),
        "longest": max(seconds) or 1.0,
        "flops": sum(stage["flops"] for stage in contents.timings),
        "peak": max(stage["peak_bytes"] for stage in contents.timings),
    }


def data(contents: Contents) -> Values | None:
    return contents.suite


def making(contents: Contents) -> Values:
    return {"text": contents.config_text, "written_by": contents.config.written_by}


def _comparisons(contents: Contents) -> list[Values]:
    results = contents.results
    if results is None:
        return []
    found = []
    gains = facts.gains_of(results, contents.names)
    decimals = decimals_for([gain.mean for gain in gains.values()])
    score = facts.score_of(results).replace("_", " ")
    for baseline, gain in gains.items():
        tasks = results.loc[results["setting"] == baseline, "task"].unique()
        unit = loss_unit(t["kind"] for t in (contents.suite or {"tasks": []})["tasks"] if t["name"] in set(tasks))
        share = facts.share_of_loss(gain, results, baseline)
        found.append(
            {
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


def _sampled(contents: Contents) -> int | None:
    """How many tasks were trained alone, where that is a sample."""
    if contents.results is None:
        return None
    alone = int(contents.results.loc[contents.results["setting"] == SINGLE, "task"].nunique())
    return alone if alone < len(contents.names) else None
