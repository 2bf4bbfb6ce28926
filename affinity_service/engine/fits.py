"""The fit stage: probes first, then Ray tasks that estimate tiles of subsets from features that lie once in the
object store."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Literal

import numpy as np
import pyarrow as pa
import ray
from torch import Tensor

from affinity_service.affinity.build import (
    CHOSEN,
    EXAMPLES,
    base_model,
    base_weights,
    device_here,
    keep_examples,
    linearized_estimator,
    resolved,
    runs_network,
    study_estimator,
)
from affinity_service.affinity.calibration import (
    CALIBRATION,
    PENALTY_FACTORS,
    REACHES,
    Calibration,
    calibrate,
    chosen_reach,
    probes_of,
    read_calibration,
)
from affinity_service.affinity.estimates import stated_moment
from affinity_service.affinity.stopping import StopRule, course_correction, mean_course, stop_noise
from affinity_service.artifacts import StudyFolder
from affinity_service.config import Config
from affinity_service.engine.context import StageContext, StageOutcome
from affinity_service.engine.placement import workers_with_room
from affinity_service.engine.pool import TASK_RETRIES, map_unordered, result, task
from affinity_service.engine.session import actor_options
from affinity_service.engine.threads import take_assigned_threads
from affinity_service.engine.true_trainings import Piece, pieces_of, read_pieces, seconds_of, train_piece
from affinity_service.evaluation.flops import flop_counter
from affinity_service.evaluation.stacked import split_losses
from affinity_service.fitting import subset_design
from affinity_service.gradients.anchor import read_anchor
from affinity_service.gradients.store import FeatureRows, FeatureStore
from affinity_service.planning.estimator import cheaper_estimator
from affinity_service.planning.workload import Workload
from affinity_service.tables import read_metadata, write_table
from affinity_service.tasks.suite import TRAIN, VALIDATION, Suite

PROBES = "fits/probes.parquet"

Inputs = tuple[tuple[FeatureRows, FeatureRows], Mapping[str, Tensor]]


def tile_name(index: int) -> str:
    return f"fits/tile-{index:05d}.parquet"


@ray.remote
def load_inputs(folder: StudyFolder) -> Inputs:
    """Rows and anchor, into the object store without a detour through the driver."""
    store = FeatureStore(folder)
    return (store.rows(TRAIN), store.rows(VALIDATION)), read_anchor(folder)


@ray.remote
def fit_tile(
    inputs: Inputs,
    suite: Suite,
    subsets: list[tuple[int, ...]],
    first: int,
    config: Config,
    folder: StudyFolder,
) -> None:
    """Estimate the subsets and write their tile, unless a process that was lost later has; `first` is the number of the
    first one."""
    name = tile_name(first // config.fits.tile)
    if folder.exists(name):
        return
    take_assigned_threads()
    with flop_counter() as counter:
        estimator = study_estimator(config, folder, lambda: inputs, suite.tasks, lambda: suite, device_here())
        estimates = estimator.estimate(subsets)
    cost = {"flops": repr(float(counter.get_total_flops())), "unconverged": str(int((~estimates.converged).sum()))}
    # What a tile cost stays with it, for a run that finds it finished.
    table = estimates.to_table(first).replace_schema_metadata(cost)
    write_table(folder, name, table)


def probe_pieces(config: Config, folder: StudyFolder, suite: Suite) -> list[Piece]:
    """True trainings of the probes: all of a seed side by side; of a model too large for that each by itself."""
    subsets = probes_of(config.fits, len(suite.tasks))
    tile = max(1, len(subsets)) if Workload.of(config, suite).stackable else 1
    return pieces_of("probe", config, folder, suite, subsets, (config.fits.seed, config.fits.probe_seeds), tile)


@ray.remote
def calibrate_by_probes(inputs: Inputs, suite: Suite, config: Config, folder: StudyFolder) -> None:
    """Compare the probes with their predictions and write what they say, unless it is written."""
    if folder.exists(CALIBRATION):
        return
    take_assigned_threads()
    start = time.perf_counter()
    rows, anchor = inputs
    subsets, pieces = probes_of(config.fits, len(suite.tasks)), probe_pieces(config, folder, suite)
    truths = read_pieces(folder, pieces, len(suite.tasks))
    moment = stated_moment(config)
    losses, epochs = (np.mean(each, axis=0) for each in zip(*(truth.at(moment) for truth in truths), strict=True))
    follows = config.solution == "path"
    # A penalty that the user gave stays as it is.
    factors = PENALTY_FACTORS if config.solution == "ridge" and config.fits.l2 == "auto" else (1.0,)
    predicted = {}
    with flop_counter() as counter:
        estimator = linearized_estimator(config, folder, rows, anchor, suite.tasks, Calibration(), device_here())
        courses = [truth.validation for truth in truths]
        # Ridge has its penalty to move the stop by.
        correction: tuple[float, ...] = ()
        if follows and (estimator.network is None or moment == "best"):
            reaches = (None, *REACHES) if estimator.network is None else (None,)
            by_reach = estimator.courses_by_reach(subsets, reaches)
            estimator.reach_steps = chosen_reach(by_reach, np.mean(courses, axis=0))
            if moment == "best":
                predicted_course = mean_course([by_reach[estimator.reach_steps]])
                correction = course_correction(mean_course(courses), predicted_course)
        estimator.stop = stop = StopRule(stop_noise(courses), correction)
        for factor in factors:
            estimator.penalty_factor = factor
            predicted[factor] = estimator.estimate(subsets).losses
    base = split_losses(base_model(config, folder, suite.inputs.shape[1:], suite.tasks), suite, VALIDATION)
    true = [losses[i, list(subset)] for i, subset in enumerate(subsets)]
    flops = sum(truth.flops for truth in truths) + float(counter.get_total_flops())
    spent = seconds_of(folder, pieces) + time.perf_counter() - start
    found = calibrate(predicted, true, base, subsets, flops, spent, stop, estimator.reach_steps)
    table = pa.table(
        {
            "tasks": [[suite.names[task] for task in subset] for subset in subsets],
            "true_loss": true,
            "predicted_loss": predicted[found.penalty_factor],
            "epochs": epochs,
        }
    )
    write_table(folder, PROBES, table)
    folder.write_json(CALIBRATION, found.to_json())


def fit_subsets_stage(context: StageContext) -> StageOutcome:
    config, folder, suite = context.config, context.folder, context.suite
    config = _chosen(context)
    subsets = design(config, len(suite.tasks))
    tile = config.fits.tile
    starts = range(0, len(subsets), tile)
    missing = [starts[index] for index in context.unfinished([tile_name(s // tile) for s in starts], "fit tiles")]
    linearized = config.affinity.estimator == "linearized"
    probes = probe_pieces(config, folder, suite) if linearized and not folder.exists(CALIBRATION) else []
    wanted = max(1, min(config.fits.workers, max(len(missing), len(probes))))
    workers = workers_with_room("fits", wanted, config.resources, context.warn)
    options = {**actor_options(config.resources), **TASK_RETRIES}
    inputs = load_inputs.options(**TASK_RETRIES).remote(folder)
    reference = ray.put(suite)
    if linearized and runs_network(config, base_weights(folder), len(suite.tasks)) and not folder.exists(EXAMPLES):
        keep_examples(folder, suite)
    if probes:
        unfinished = [probes[index] for index in context.unfinished([piece.name for piece in probes], "probes")]
        training = task(train_piece, options)

        def probe(_: int, piece: Piece) -> ray.ObjectRef:
            return training.remote(reference, piece, config, folder)

        trained = map_unordered(probe, range(workers), unfinished)
        for done, _ in enumerate(trained, len(probes) - len(unfinished) + 1):
            context.progress(done, len(probes), "probes")
        result(task(calibrate_by_probes, options).remote(inputs, reference, config, folder))
    calibration = read_calibration(folder)

    fitting = task(fit_tile, options)

    def submit(_: int, start: int) -> ray.ObjectRef:
        return fitting.remote(inputs, reference, subsets[start : start + tile], start, config, folder)

    done = len(starts) - len(missing)
    for _ in map_unordered(submit, range(workers), missing):
        done += 1
        context.progress(min(done * tile, len(subsets)), len(subsets), "subset fits")
    costs = [read_metadata(folder, tile_name(start // tile)) for start in starts]
    if unconverged := sum(int(cost["unconverged"]) for cost in costs):
        context.warn(f"{unconverged} of {len(subsets)} subset fits did not converge; raise fits.l2 ({config.fits.l2})")
    if calibration.misleads:
        context.warn(
            f"the probes' losses are predicted no better ({calibration.residual:.4f} off) than by the base model's own "
            f"({calibration.base_residual:.4f}): do not trust these affinities; train the base model longer, or use "
            "affinity.estimator trained"
        )
    flops = calibration.flops + sum(float(cost["flops"]) for cost in costs)
    return StageOutcome(flops=flops, workers=workers)


def _chosen(context: StageContext) -> Config:
    """The config with its estimator settled: `auto` is decided once, or the tiles of an interrupted run would mix."""
    config, folder = context.config, context.folder
    if config.affinity.estimator == "auto" and not folder.exists(CHOSEN):
        chosen, why = cheaper_estimator(config, context.suite)
        context.warn(f"affinity.estimator auto: {chosen}, because {why}")
        folder.write_json(CHOSEN, {"estimator": chosen, "because": why})
    return resolved(config, folder)


def design(config: Config, tasks: int) -> list[tuple[int, ...]]:
    """The subsets of a study: singles, pairs and the larger ones, whose sizes are cut to what the suite has."""
    low, high = (min(size, tasks) for size in config.fits.sizes)
    larger = config.fits.subsets if tasks >= 3 else 0
    pairs: Literal["all", "uncovered"] = "all" if config.fits.fits_every_pair(tasks) else "uncovered"
    return subset_design(tasks, larger, (low, high), config.fits.seed, pairs)
