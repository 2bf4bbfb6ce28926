"""The fit stage: Ray tasks solve tiles of subsets from features that lie once in the object store."""

from __future__ import annotations

from collections.abc import Sequence

import ray
import torch

from affinity_service.affinity import LinearizedEstimator
from affinity_service.artifacts import StudyFolder
from affinity_service.config import Config
from affinity_service.engine.context import StageContext, StageOutcome
from affinity_service.engine.placement import workers_with_room
from affinity_service.engine.pool import TASK_RETRIES, map_unordered
from affinity_service.engine.session import actor_options
from affinity_service.evaluation.flops import flop_counter
from affinity_service.fitting import subset_design
from affinity_service.gradients.store import FeatureRows, FeatureStore
from affinity_service.tables import read_metadata, write_table
from affinity_service.tasks.suite import TRAIN, VALIDATION, Task


def tile_name(index: int) -> str:
    return f"fits/tile-{index:05d}.parquet"


@ray.remote
def load_rows(folder: StudyFolder) -> tuple[FeatureRows, FeatureRows]:
    """Training and validation rows, into the object store without a detour through the driver."""
    store = FeatureStore(folder)
    return store.rows(TRAIN), store.rows(VALIDATION)


@ray.remote
def fit_tile(
    rows: tuple[FeatureRows, FeatureRows],
    tasks: Sequence[Task],
    subsets: list[tuple[int, ...]],
    first: int,
    config: Config,
    folder: StudyFolder,
) -> None:
    """Fit the subsets and write their tile; `first` is the number of the first one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with flop_counter() as counter:
        estimates = LinearizedEstimator(*rows, tasks, config.fits.l2, device).estimate(subsets)
    cost = {"flops": repr(float(counter.get_total_flops())), "unconverged": str(int((~estimates.converged).sum()))}
    # What a tile cost stays with it, for a run that finds it finished.
    table = estimates.to_table(first).replace_schema_metadata(cost)
    write_table(folder, tile_name(first // config.fits.tile), table)


def fit_subsets_stage(context: StageContext) -> StageOutcome:
    config, folder, suite = context.config, context.folder, context.suite
    subsets = design(config, len(suite.tasks))
    tile = config.fits.tile
    starts = range(0, len(subsets), tile)
    missing = [starts[index] for index in context.unfinished([tile_name(s // tile) for s in starts], "fit tiles")]
    wanted = max(1, min(config.fits.workers, len(missing)))
    workers = workers_with_room("fits", wanted, config.resources, context.warn)
    options = {**actor_options(config.resources), **TASK_RETRIES}
    rows = load_rows.options(**TASK_RETRIES).remote(folder)

    def submit(_: int, start: int) -> ray.ObjectRef:
        return fit_tile.options(**options).remote(
            rows, suite.tasks, subsets[start : start + tile], start, config, folder
        )

    done = len(starts) - len(missing)
    for _ in map_unordered(submit, range(workers), missing):
        done += 1
        context.progress(min(done * tile, len(subsets)), len(subsets), "subset fits")
    costs = [read_metadata(folder, tile_name(start // tile)) for start in starts]
    if unconverged := sum(int(cost["unconverged"]) for cost in costs):
        context.warn(
            f"{unconverged} of {len(subsets)} subset fits did not converge; raise fits.l2 ({config.fits.l2:g})"
        )
    return StageOutcome(flops=sum(float(cost["flops"]) for cost in costs), workers=workers)


def design(config: Config, tasks: int) -> list[tuple[int, ...]]:
    """The subsets of a study: singles, pairs and the larger ones, whose sizes are cut to what the suite has."""
    low, high = (min(size, tasks) for size in config.fits.sizes)
    larger = config.fits.subsets if tasks >= 3 else 0
    return subset_design(tasks, larger, (low, high), config.fits.seed)
