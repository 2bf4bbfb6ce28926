"""What each section shows: plain values for its template, or None while its stage is not done."""

from __future__ import annotations

from typing import Any

import numpy as np

from affinity_service.evaluation.fidelity_table import rows_of, title_of
from affinity_service.evaluation.outcomes import GROUPS, JOINT, RANDOM, SINGLE, loss_table
from affinity_service.report import facts
from affinity_service.report.contents import Contents
from affinity_service.report.curves import NAMED_GAINS, draw_gains, draw_training
from affinity_service.report.fidelity import draw_fidelity
from affinity_service.report.folding import MANY, ends, thinnest
from affinity_service.report.heatmap import WITH_VALUES, draw_heatmap
from affinity_service.report.language import exact_answers, examples, group_answers, pretrained
from affinity_service.report.pairs import extreme_pairs, levels, relative_gains
from affinity_service.report.wording import decimals_for

Values = dict[str, Any]
BASELINES = (JOINT, SINGLE, RANDOM)

# Stage → what it does, in plain words.
STAGES = {
    "suite": "make examples of the data",
    "base_model": "train one model on all tasks",
    "gradients": "gradients of every example's output",
    "fits": "estimate where fine-tuning on every subset leads",
    "affinity": "average the estimates into the matrix",
    "validation": "train sampled subsets for real",
    "groups": "find the groups",
    "group_models": "train the groups and what they are compared with",
}


def groups(contents: Contents) -> Values | None:
    if contents.grouping is None:
        return None
    results, matrix = contents.results, contents.matrix
    rows: list[Values] = []
    if matrix is not None and len(matrix.names) > 1:
        both = levels(matrix, contents.measure is not None), relative_gains(matrix)
        place = {name: index for index, name in enumerate(matrix.names)}
    for index, names in enumerate(contents.groups, 1):
        mates = []
        if matrix is not None and len(names) > 1:
            members = [place[name] for name in names]
            block = np.ix_(members, members)
            among = ~np.eye(len(names), dtype=bool)
            mates = [float(values[block][among].mean()) for values in both]
        gains = {} if results is None else facts.gains_of(results, names)
        rows.append(
            {"index": index, "tasks": names, "mates": mates, "gains": gains, "answers": group_answers(contents, names)}
        )
    estimated = decimals_for([value for row in rows for value in row["mates"]])
    measured = [gain for row in rows for gain in row["gains"].values()]
    return {
        "method": contents.grouping["method"],
        "rows": rows,
        "many": len(contents.names) > MANY,
        "largest": max((len(names) for names in contents.groups), default=1),
        "decimals": facts.decimals_of(measured) if measured else estimated,
        "estimate_decimals": estimated if contents.measure or not measured else facts.decimals_of(measured),
        "baselines": [b for b in BASELINES if any(b in row["gains"] for row in rows)],
        "answered": [s for s in (GROUPS, JOINT) if any(s in row["answers"] for row in rows)],
        "superseded": contents.superseded,
        "bound": [
            *facts.bound_sentences(
                contents.grouping,
                matrix,
                contents.estimate_unit if contents.measure else contents.unit,
                contents.measure is not None,
            ),
            *facts.direct_sentences(contents.grouping),
        ],
        "sampled": _sampled(contents),
        # What a step does to a loss has no sign that single-task training could contradict.
        "contradicted": 0 if contents.measure else sum(_contradicted(row) for row in rows),
    }


def heatmap(contents: Contents) -> Values | None:
    matrix = contents.matrix
    if matrix is None:
        return None
    if len(matrix.names) < 2:
        return {"pairs": 0}
    parts = contents.ordered
    order = [matrix.names.index(name) for part in parts for name in part]
    names = [matrix.names[i] for i in order]
    sizes = [len(part) for part in parts] if contents.grouping is not None else []
    block = np.ix_(order, order)
    unit, measured = contents.estimate_unit, contents.measure is not None
    alone = draw_heatmap(
        levels(matrix, measured)[block],
        names,
        sizes,
        f"measured affinity ({unit})" if measured else f"gain over the receiver trained alone ({unit})",
        "red = harms  ·  white = no effect  ·  blue = helps",
        "Heatmap of the estimated gain of every receiver from every source",
    )
    relative = draw_heatmap(
        relative_gains(matrix)[block],
        names,
        sizes,
        f"against the receiver's average partner ({unit})",
        "red = worse than the average partner  ·  blue = better",
        "Heatmap of the estimated gains, each compared with the receiver's mean over its partners",
    )
    values = levels(matrix, measured)[~np.eye(len(order), dtype=bool)]
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
    if matrix is None:
        return None
    if len(matrix.names) < 2:
        return {"total": 0}
    above, below = extreme_pairs(matrix, contents.group_of, measured=contents.measure is not None)
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


def fidelity(contents: Contents) -> Values | None:
    """Probes, and the full comparison with true trainings where `affinity validate` made it."""
    if contents.fidelity is None and contents.calibration is None and contents.measure is None:
        return None
    tables = []
    for truth, estimators in (contents.fidelity or {}).items():
        if isinstance(estimators, dict):
            tables.append({"title": title_of(truth, contents.fidelity or {}), "rows": list(rows_of(estimators))})
    own = (contents.fidelity or {}).get("best_validation", {}).get("estimate", {})
    return {
        "probes": contents.calibration,
        "tables": tables,
        "coverage": own.get("coverage_90"),
        "ratios": contents.fidelity,
        "figure": draw_fidelity(contents.fidelity) if contents.fidelity else None,
    }


def outcomes(contents: Contents) -> Values | None:
    results = contents.results
    if results is None:
        return None
    trained = set(results["task"])
    order = [name for part in contents.ordered for name in part if name in trained]
    tables = []
    for score, title in (("test_loss", "Test loss"), ("validation_loss", "Validation loss")):
        if results[score].notna().any():
            table = loss_table(results, score).reindex(order)
            settings = [s for s in (GROUPS, *BASELINES) if s in table.columns]
            tables.append(
                {
                    "title": title,
                    "settings": settings,
                    "rows": list(zip(order, table.to_dict("records"), strict=True)),
                    "best": table[settings].min(axis=1).to_dict(),
                    "decimals": decimals_for(table[settings].to_numpy().ravel(), 4),
                }
            )
    gains = facts.task_gains(results, JOINT)
    verdicts = [gain.verdict for gain in gains.values()]
    score = facts.score_of(results).replace("_", " ")
    compared = [name for name in order if name in gains]
    figure = None
    if gains:
        label = f"gain over joint training ({contents.unit} of {score})\ngroups worse  ←  0  →  groups better"
        figure = draw_gains(gains, compared, label)
    many = len(order) > MANY
    return {
        "tables": tables,
        "many": many,
        "ends": ends(compared, {name: gain.mean for name, gain in gains.items()}) if many else ([], []),
        "gains": gains,
        "gain_decimals": facts.decimals_of(gains.values()) if gains else 0,
        "group_of": contents.group_of,
        "figure": figure,
        "score": score,
        "sorted": len(gains) > NAMED_GAINS,
        "verdicts": {word: verdicts.count(word) for word in (facts.BETTER, facts.WORSE)},
        "compared": len(verdicts),
        "seeds": results["seed"].nunique(),
        "sampled": _sampled(contents),
        "exact": exact_answers(contents, order),
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
        "pretrained": pretrained(contents),
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
    suite = contents.suite
    if not suite:
        return None
    thin = thinnest(suite["tasks"]) if len(suite["tasks"]) > MANY else []
    return {**suite, "thinnest": thin, "texts": examples(contents)}


def making(contents: Contents) -> Values:
    kinds = {task["kind"] for task in (contents.suite or {"tasks": []})["tasks"]}
    return {
        "text": contents.config_text,
        "written_by": contents.config.written_by,
        "answers": kinds == {"sequence"},
    }


def _contradicted(group: Values) -> bool:
    """Whether training shows clearly the opposite of the estimated gain over training alone."""
    gain = group["gains"].get(SINGLE)
    if gain is None or not group["mates"]:
        return False
    return gain.verdict == (facts.WORSE if group["mates"][0] > 0 else facts.BETTER)


def _sampled(contents: Contents) -> int | None:
    """How many tasks were trained alone, where that is a sample."""
    if contents.results is None:
        return None
    alone = int(contents.results.loc[contents.results["setting"] == SINGLE, "task"].nunique())
    return alone if alone < len(contents.names) else None
