"""The stages that need no cluster: subset estimates → matrix → groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from affinity_service.affinity.bootstrap import example_errors
from affinity_service.affinity.estimates import stated_moment
from affinity_service.affinity.matrix import AffinityMatrix, matrix_from_estimates
from affinity_service.artifacts import fingerprint
from affinity_service.engine.context import StageContext, StageOutcome
from affinity_service.fitting.task_rows import TaskRows
from affinity_service.gradients.store import LAYOUT, rows_by_task
from affinity_service.grouping import centre_rows, cluster
from affinity_service.grouping.constraints import constraints_of
from affinity_service.grouping.direct import Predict, descend
from affinity_service.grouping.partition import density
from affinity_service.grouping.shrinkage import shrink_rows
from affinity_service.tables import read_table, write_table
from affinity_service.tasks.suite import TRAIN, VALIDATION

# Seeds of the true trainings that partitions are compared by.
GROUP_SEEDS = 3
ESTIMATE_COLUMNS = ["subset", "tasks", "predicted_loss", "standard_error", "weights"]


def estimate_affinity(context: StageContext) -> StageOutcome:
    """Gather what the fit tiles predict into `affinity/estimates.parquet` and `affinity/matrix.parquet`."""
    folder, names = context.folder, context.suite.names
    tiles = [read_table(folder, name, ESTIMATE_COLUMNS) for name in folder.list("fits/tile-", ".parquet")]
    fits = pa.concat_tables(tiles)
    subsets, losses, errors = (fits[n].to_pylist() for n in ESTIMATE_COLUMNS[1:4])
    matrix = matrix_from_estimates(names, subsets, [np.array(x) for x in losses], [np.array(x) for x in errors])
    sizes = [len(subset) for subset in subsets]
    members = np.concatenate(subsets).astype(np.int64)
    estimates = pa.table(
        {
            "subset": np.repeat(fits["subset"].to_numpy(), sizes),
            "task": pa.array(np.array(names, dtype=object)[members], pa.string()),
            "predicted_loss": np.concatenate(losses),
            "standard_error": np.concatenate(errors),
        }
    )
    if len(fits["weights"][0]):
        matrix = replace(matrix, example_error=_example_errors(context, subsets, fits))
    write_table(folder, "affinity/estimates.parquet", estimates)
    write_table(folder, "affinity/matrix.parquet", matrix.to_table())
    return StageOutcome(flops=float(2 * len(members) * np.mean(sizes)), workers=1)


def _example_errors(context: StageContext, subsets: Sequence[Sequence[int]], fits: pa.Table) -> NDArray[np.float64]:
    weights = fits["weights"].combine_chunks()
    coordinates = np.split(weights.values.to_numpy(), weights.offsets.to_numpy()[1:-1])
    own = context.folder.read_json(LAYOUT).get("own_coordinates", 0)
    # Fits by a penalty move no heads, and nothing along a subset's own means.
    frozen = context.config.solution == "ridge"
    return example_errors(
        _validation_rows(context, own if frozen else 0),
        len(context.suite.tasks),
        subsets,
        coordinates,
        context.config.fits.seed,
        own_coordinates=0 if frozen else own,
    )


def _validation_rows(context: StageContext, left_out: int) -> Iterator[tuple[int, TaskRows]]:
    """Task by task, without the last `left_out` coordinates where those stay as they are. The driver holds one task's
    rows, however many there are."""
    frozen = context.config.solution == "ridge"
    for rows in rows_by_task(context.folder, VALIDATION):
        task = int(rows.task_of_row[0])
        kept = rows.features[:, : rows.features.shape[1] - left_out]
        products = None if rows.products is None or frozen else torch.from_numpy(rows.products)
        features, margins, targets = (
            torch.from_numpy(array.astype(np.float32)) for array in (kept, rows.margins, rows.targets)
        )
        yield task, TaskRows(features, margins, targets, context.suite.tasks[task].kind == "regression", products)


def group_tasks(context: StageContext) -> StageOutcome:
    """Cluster the centred affinities; `groups.json` holds the groups as names, objective and bound in loss units."""
    names, settings = context.suite.names, context.config.groups
    matrix = AffinityMatrix.from_table(read_table(context.folder, "affinity/matrix.parquet"), names)
    centred = centre_rows(matrix.affinity, settings.centre)
    if settings.shrink:
        centred = shrink_rows(centred, matrix.contrast_error())
    method = "sdp" if settings.method == "direct" else settings.method
    constraints = constraints_of(settings, names)
    grouping = cluster(centred, settings.k, method, seed=settings.seed, constraints=constraints)
    groups, objective, flops = grouping.groups, grouping.objective, 0.0
    more: dict[str, float] = {}
    if settings.method == "direct":
        context.progress(0, 1, "groups by their own predicted losses")
        found = descend(_predictor(context), groups, constraints=constraints)
        more = {"predicted_loss": found.loss, "start_predicted_loss": found.start_loss, "evaluated": found.evaluated}
        moved = found.groups != groups
        if settings.probe and moved:
            context.progress(0, 1, "probes of the groups")
            (start_loss, loss), flops = _probed(context, [groups, found.groups])
            more |= {"probed_loss": loss, "start_probed_loss": start_loss}
        if not settings.probe or (moved and loss < start_loss):
            groups = found.groups
        objective = density(centred, groups)
    named = [[names[task] for task in group] for group in groups]
    context.folder.write_json(
        "groups.json",
        {
            "method": settings.method,
            "k": len(named),
            "centre": settings.centre,
            "shrink": settings.shrink,
            "constrained": not constraints.trivial,
            "groups": named,
            "objective": objective,
            "bound": grouping.bound,
            **more,
        },
    )
    return StageOutcome(flops=flops, workers=1, identity=fingerprint(named))


def _probed(context: StageContext, partitions: Sequence[Sequence[Sequence[int]]]) -> tuple[list[float], float]:
    """Mean loss over all tasks of each partition's groups truly fine-tuned, and what that cost: the choice among many
    predictions flatters itself."""
    from affinity_service.affinity.build import base_weights, device_here
    from affinity_service.evaluation.fine_tuning import FineTuner, seeds_of

    config, folder, suite = context.config, context.folder, context.suite
    wanted = list(dict.fromkeys(tuple(group) for groups in partitions for group in groups))
    tuner = FineTuner(suite, config, base_weights(folder), device_here())
    tuned = tuner.run(wanted, seeds_of("groups", config.groups.seed, GROUP_SEEDS))
    losses = np.mean([each.at(stated_moment(config))[0] for each in tuned], axis=0)
    # A training that diverged is worse than any other.
    total = {
        own: float(np.nan_to_num(row[list(own)].sum(), nan=np.inf)) for own, row in zip(wanted, losses, strict=True)
    }
    means = [sum(total[tuple(group)] for group in groups) / len(suite.tasks) for groups in partitions]
    return means, sum(each.flops for each in tuned)


def _predictor(context: StageContext) -> Predict:
    """Predicted losses of any subsets, as the fits predict theirs."""
    from affinity_service.affinity.build import device_here, study_estimator
    from affinity_service.gradients.anchor import read_anchor
    from affinity_service.gradients.store import FeatureStore

    config, folder, suite = context.config, context.folder, context.suite

    def rows() -> tuple[Any, Any]:
        store = FeatureStore(folder)
        return (store.rows(TRAIN), store.rows(VALIDATION)), read_anchor(folder)

    estimator = study_estimator(config, folder, rows, suite.tasks, lambda: suite, device_here())
    return lambda subsets: estimator.estimate(subsets).losses
