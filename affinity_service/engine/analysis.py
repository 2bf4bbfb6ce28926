"""The stages that need no cluster: subset estimates → matrix → groups."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from affinity_service.affinity.matrix import AffinityMatrix, matrix_from_estimates
from affinity_service.artifacts import fingerprint
from affinity_service.engine.context import StageContext, StageOutcome
from affinity_service.grouping import centre_rows, cluster
from affinity_service.tables import read_table, write_table

ESTIMATE_COLUMNS = ["subset", "tasks", "predicted_loss", "standard_error"]


def estimate_affinity(context: StageContext) -> StageOutcome:
    """Gather what the fit tiles predict into `affinity/estimates.parquet` and `affinity/matrix.parquet`."""
    folder, names = context.folder, context.suite.names
    tiles = [read_table(folder, name, ESTIMATE_COLUMNS) for name in folder.list("fits/tile-", ".parquet")]
    fits = pa.concat_tables(tiles)
    subsets, losses, errors = (fits[n].to_pylist() for n in ESTIMATE_COLUMNS[1:])
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
    write_table(folder, "affinity/estimates.parquet", estimates)
    write_table(folder, "affinity/matrix.parquet", matrix.to_table())
    return StageOutcome(flops=float(2 * len(members) * np.mean(sizes)), workers=1)


def group_tasks(context: StageContext) -> StageOutcome:
    """Cluster the centred affinities; `groups.json` holds the groups as names, objective and bound in loss units."""
    names = context.suite.names
    matrix = AffinityMatrix.from_table(read_table(context.folder, "affinity/matrix.parquet"), names)
    settings = context.config.groups
    grouping = cluster(centre_rows(matrix.affinity, settings.centre), settings.k, settings.method, seed=settings.seed)
    groups = [[names[task] for task in group] for group in grouping.groups]
    context.folder.write_json(
        "groups.json",
        {
            "method": grouping.method,
            "k": len(groups),
            "centre": settings.centre,
            "groups": groups,
            "objective": grouping.objective,
            "bound": grouping.bound,
        },
    )
    return StageOutcome(flops=0.0, workers=1, identity=fingerprint(groups))
