"""The validation stage: sampled subsets are truly trained, and the estimates measured by them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from numpy.typing import NDArray

from affinity_service.affinity.build import base_model, base_weights, device_here, study_estimator
from affinity_service.affinity.calibration import Calibration, probes_of, read_calibration
from affinity_service.affinity.estimates import Moment, SubsetEstimates, stated_moment
from affinity_service.affinity.first_order import first_order_losses
from affinity_service.affinity.linearized import LinearizedEstimator
from affinity_service.affinity.recipe import recipe_config, recipe_rows
from affinity_service.affinity.stopping import StopRule
from affinity_service.artifacts import StudyFolder, fingerprint
from affinity_service.config import Config
from affinity_service.engine.context import StageContext, StageOutcome
from affinity_service.engine.fits import Inputs, load_inputs
from affinity_service.engine.measured_affinity import measured_losses
from affinity_service.engine.placement import workers_with_room
from affinity_service.engine.pool import TASK_RETRIES, map_unordered, result, task
from affinity_service.engine.session import actor_options
from affinity_service.engine.threads import take_assigned_threads
from affinity_service.errors import UserError
from affinity_service.evaluation.cost import TrainingCost, cost_ratios
from affinity_service.evaluation.fidelity import compare, coverage, row_means
from affinity_service.evaluation.fine_tuning import FineTuned, FineTuner, seeds_of
from affinity_service.evaluation.stacked import split_losses
from affinity_service.stages import estimates_identity
from affinity_service.tables import read_metadata, read_table, write_table
from affinity_service.tasks.suite import VALIDATION, Suite

Losses = NDArray[np.float64]

# After so many epochs, beside the best validation loss, the default truth.
EPOCHS = (2, 5)
# Counts changes of what a true training computes: pieces of another version are not read.
TRAINING_VERSION = 2


def anchor_tasks(config: Config, tasks: int) -> list[int]:
    """The tasks whose losses count: all, or the seeded sample that `validation.anchors` asks for."""
    settings = config.validation
    if settings.anchors is None or settings.anchors >= tasks:
        return list(range(tasks))
    rng = np.random.default_rng([settings.seed, 58])
    return sorted(rng.choice(tasks, size=settings.anchors, replace=False).tolist())


def validation_subsets(config: Config, tasks: int) -> list[tuple[int, ...]]:
    """Distinct random subsets of the sizes asked for, none of them a probe; fewer where there are no more. Where there
    are anchors, each subset is built around one of them in turn; others may be in it by chance."""
    settings, anchors = config.validation, anchor_tasks(config, tasks)
    low, high = (min(size, tasks) for size in settings.sizes)
    rng = np.random.default_rng([settings.seed, 57])
    probes = set(probes_of(config.fits, tasks))
    chosen: dict[tuple[int, ...], None] = {}
    for _ in range(100 * settings.subsets):
        size = int(rng.integers(low, high + 1))
        if len(anchors) == tasks:
            drawn = rng.choice(tasks, size=size, replace=False)
        else:
            anchor = anchors[len(chosen) % len(anchors)]
            others = rng.choice(tasks - 1, size=size - 1, replace=False)
            drawn = np.array([anchor, *np.where(others < anchor, others, others + 1)])
        subset = tuple(sorted(drawn.tolist()))
        if subset not in probes:
            chosen[subset] = None
        if len(chosen) == settings.subsets:
            break
    return list(chosen)


@dataclass(frozen=True)
class Piece:
    """One seed of some subsets, from number `first` on; `linearised` trains the oracle instead of the truth. `key`
    fingerprints all that decides its losses, so that a piece outlives changes that do not: of the estimates, of how
    many subsets and seeds are asked for."""

    linearised: bool
    number: int
    seed: int
    first: int
    subsets: list[tuple[int, ...]]
    key: str

    @property
    def name(self) -> str:
        return f"validation/{'oracle' if self.linearised else 'truth'}-{self.key}.parquet"


def pieces_of(config: Config, folder: StudyFolder, suite: Suite, subsets: Sequence[tuple[int, ...]]) -> list[Piece]:
    settings = config.validation
    from_base = settings.start == "base"
    base = (folder.manifest("base_model") or {})["identity"] if from_base else None
    epochs = config.fits.epochs if from_base else config.base.epochs
    training = config.tuning if from_base and config.fits.learning_rate else config.base
    sections = [config.model.fingerprint_part(), training.fingerprint_part()]
    parts = [TRAINING_VERSION, suite.content_hash, sections, settings.start, base, epochs]
    found = []
    for linearised, count in ((False, 2 * settings.seeds), (True, settings.oracle_seeds if from_base else 0)):
        for number, seed in enumerate(seeds_of("oracle" if linearised else "truth", settings.seed, count)):
            for first in range(0, len(subsets), settings.tile):
                own = list(subsets[first : first + settings.tile])
                key = fingerprint([parts, linearised, seed, own])[:16]
                found.append(Piece(linearised, number, seed, first, own, key))
    return found


@ray.remote
def train_piece(suite: Suite, piece: Piece, config: Config, folder: StudyFolder) -> None:
    """Train one piece and write its losses after every epoch, unless a process that was lost later has."""
    if folder.exists(piece.name):
        return
    take_assigned_threads()
    start = time.perf_counter()
    weights, epochs = None, config.base.epochs
    if config.validation.start == "base":
        weights, epochs = base_weights(folder), config.fits.epochs
    tuner = FineTuner(suite, config, weights, device_here(), piece.linearised, record_test=True, epochs=epochs)
    (tuned,) = tuner.run(piece.subsets, [piece.seed])
    facts = {"flops": repr(tuned.flops), "seconds": repr(time.perf_counter() - start)}
    table = _truth_table(tuned, piece.subsets).replace_schema_metadata(facts)
    write_table(folder, piece.name, table)


def _truth_table(tuned: FineTuned, subsets: Sequence[tuple[int, ...]]) -> pa.Table:
    """One row per subset, by its number in the piece, and epoch: lists over the subset's tasks."""
    assert tuned.test is not None
    epochs = tuned.validation.shape[1]
    return pa.table(
        {
            "subset": np.repeat(np.arange(len(subsets)), epochs),
            "epoch": np.tile(np.arange(1, epochs + 1), len(subsets)),
            "tasks": [list(s) for s in subsets for _ in range(epochs)],
            "validation_loss": [tuned.validation[i, e, list(s)] for i, s in enumerate(subsets) for e in range(epochs)],
            "test_loss": [tuned.test[i, e, list(s)] for i, s in enumerate(subsets) for e in range(epochs)],
        }
    )


def read_truth(folder: StudyFolder, pieces: Sequence[Piece], tasks: int) -> FineTuned:
    """The pieces of one seed."""
    rows = [(piece.first, row) for piece in pieces for row in read_table(folder, piece.name).to_pylist()]
    epochs = max(row["epoch"] for _, row in rows)
    subsets = sum(len(piece.subsets) for piece in pieces)
    validation, test = (np.full((subsets, epochs, tasks), np.nan) for _ in range(2))
    for first, row in rows:
        validation[first + row["subset"], row["epoch"] - 1, row["tasks"]] = row["validation_loss"]
        test[first + row["subset"], row["epoch"] - 1, row["tasks"]] = row["test_loss"]
    return FineTuned(validation, test, sum(float(read_metadata(folder, piece.name)["flops"]) for piece in pieces))


@ray.remote
def predict_subsets(
    inputs: Inputs | None,
    suite: Suite,
    subsets: list[tuple[int, ...]],
    config: Config,
    folder: StudyFolder,
    moments: list[Moment],
) -> dict[str, list[list[Losses]]]:
    """Per estimator and moment, (M, T) predictions: one, or one per projection seed. inputs : None where the study has
    no features, as its affinities were measured while the base model trained."""
    take_assigned_threads()
    model = base_model(config, folder, suite.inputs.shape[1:], suite.tasks)
    base = split_losses(model, suite, VALIDATION)
    answer = {} if inputs is None else _from_features(inputs, suite, subsets, config, folder, moments, base)
    answer["base"] = [[_only_members(np.broadcast_to(base, (len(subsets), len(base))), subsets)] for _ in moments]
    # What was measured while training knows of no moment: it is compared with all of them.
    for name, losses in measured_losses(config, folder, suite.names, base, subsets).items():
        answer[name] = [[losses] for _ in moments]
    return answer


def _from_features(
    inputs: Inputs,
    suite: Suite,
    subsets: list[tuple[int, ...]],
    config: Config,
    folder: StudyFolder,
    moments: list[Moment],
    base: Losses,
) -> dict[str, list[list[Losses]]]:
    """The study's own estimate, the published recipe and first-order affinity at the base model."""
    rows, anchor = inputs
    device, tasks = device_here(), len(suite.tasks)
    own = study_estimator(config, folder, lambda: (rows, anchor), suite.tasks, lambda: suite, device)
    model = base_model(config, folder, suite.inputs.shape[1:], suite.tasks)
    estimates = own.estimates(subsets, moments)
    answer: dict[str, list[list[Losses]]] = {
        "estimate": [[_matrix(estimate, tasks)] for estimate in estimates],
        "published_recipe": [[] for _ in moments],
    }
    # A random projection knows no metric and no basis.
    plainly = Calibration(stop=StopRule(noise=read_calibration(folder).stop.noise))
    plain = {name: anchor[name] for name in ("weights", "mean", "validation_mean", "square")}
    plain["scale"] = torch.ones_like(anchor["scale"])
    for seed in range(config.validation.recipe_seeds):
        recipe = recipe_config(config, seed)
        features = recipe_rows(model.to(device), suite, recipe)
        estimator = LinearizedEstimator(*features, suite.tasks, recipe, plain, calibration=plainly, device=device)
        for number, estimate in enumerate(estimator.estimates(subsets, moments)):
            answer["published_recipe"][number].append(_matrix(estimate, tasks))
    # One length of step for all subsets: first-order affinity has no notion of when to stop.
    epochs = [int(np.median(estimate.epochs)) for estimate in estimates]
    answer["first_order"] = [[first_order_losses(anchor, base, subsets, suite, config, each)] for each in epochs]
    return answer


def _matrix(estimates: SubsetEstimates, tasks: int) -> Losses:
    losses = np.full((len(estimates.subsets), tasks), np.nan)
    for row, subset, values in zip(losses, estimates.subsets, estimates.losses, strict=True):
        row[list(subset)] = values
    return losses


def _only_members(losses: Losses, subsets: Sequence[Sequence[int]]) -> Losses:
    member = np.zeros(losses.shape, bool)
    for row, subset in zip(member, subsets, strict=True):
        row[list(subset)] = True
    return np.where(member, losses, np.nan)


def validate(context: StageContext) -> StageOutcome:
    config, folder, suite = context.config, context.folder, context.suite
    settings, tasks = config.validation, len(suite.tasks)
    subsets = validation_subsets(config, tasks)
    if len(subsets) < 2:
        raise UserError(
            f"validation.sizes {settings.sizes} leave {len(subsets)} subsets of {tasks} tasks beside the probes: at "
            "least 2 are needed; widen the sizes or set fits.probes to 0"
        )
    pieces = pieces_of(config, folder, suite, subsets)
    missing = [pieces[index] for index in context.unfinished([piece.name for piece in pieces], "true trainings")]
    wanted = max(1, min(settings.workers, len(missing)))
    workers = workers_with_room("validation", wanted, config.resources, context.warn)
    options = {**actor_options(config.resources), **TASK_RETRIES}
    reference = ray.put(suite)

    training = task(train_piece, options)

    def submit(_: int, piece: Piece) -> ray.ObjectRef:
        return training.remote(reference, piece, config, folder)

    for done, _ in enumerate(map_unordered(submit, range(workers), missing), len(pieces) - len(missing) + 1):
        context.progress(done, len(pieces), "pieces of true training")

    def read(linearised: bool) -> list[FineTuned]:
        own = [piece for piece in pieces if piece.linearised == linearised]
        numbers = sorted({piece.number for piece in own})
        return [read_truth(folder, [piece for piece in own if piece.number == n], tasks) for n in numbers]

    per_seed, oracle = read(False), read(True)
    epochs = per_seed[0].validation.shape[1]
    moments: list[Moment] = ["best", *(e for e in EPOCHS if e <= epochs and settings.start == "base")]
    inputs: Any = None if config.measured else load_inputs.options(**TASK_RETRIES).remote(folder)
    context.progress(len(pieces), len(pieces), "estimates")
    predicted = result(task(predict_subsets, options).remote(inputs, reference, subsets, config, folder, moments))
    if oracle:
        predicted["oracle"] = [[np.mean([each.at(moment)[0] for each in oracle], axis=0)] for moment in moments]
    truths = [piece.name for piece in pieces if not piece.linearised]
    seconds = sum(float(read_metadata(folder, name)["seconds"]) for name in truths)
    trainings = 2 * settings.seeds * len(subsets)
    one = TrainingCost(sum(each.flops for each in per_seed) / trainings, seconds / trainings)
    folder.write_json("fidelity.json", _report(config, folder, suite, per_seed, predicted, moments, one))
    return StageOutcome(flops=sum(each.flops for each in (*per_seed, *oracle)), workers=workers)


def _report(
    config: Config,
    folder: StudyFolder,
    suite: Suite,
    per_seed: Sequence[FineTuned],
    predicted: dict[str, list[list[Losses]]],
    moments: Sequence[Moment],
    training: TrainingCost,
) -> dict[str, object]:
    seeds, anchors = config.validation.seeds, anchor_tasks(config, len(suite.tasks))
    base = np.nanmax(np.nan_to_num(predicted["base"][0][0], nan=-np.inf), axis=0)[anchors]
    answer: dict[str, object] = {}
    for number, moment in enumerate(moments):
        first, second = (
            np.mean([truth.at(moment)[0] for truth in part], axis=0)[:, anchors]
            for part in (per_seed[:seeds], per_seed[seeds:])
        )
        found = {name: predictions[number] for name, predictions in predicted.items() if predictions[number]}
        estimates = {name: [each[:, anchors] for each in predictions] for name, predictions in found.items()}
        compared = compare({**estimates, "row_mean": [row_means(first)], "ceiling": [second]}, first, base)
        calibration = Calibration() if config.measured else read_calibration(folder)
        errors = np.array(calibration.task_errors or np.full(len(suite.tasks), np.nan))[anchors]
        # The errors are of predictions of fine-tuning, at the moment that the fits' config names.
        if config.validation.start == "base" and moment == stated_moment(config) and np.isfinite(errors).all():
            compared["estimate"]["coverage_90"] = coverage(estimates["estimate"][0], errors, first)
        answer["best_validation" if moment == "best" else f"epoch_{moment}"] = compared
    return {
        **answer,
        "subsets": len(per_seed[0].validation),
        "seeds": seeds,
        "anchors": [suite.names[task] for task in anchors],
        "start": config.validation.start,
        # Which estimates were measured: a report shows only what is of the present ones.
        "fits": estimates_identity(config, folder),
        **({} if config.measured else cost_ratios(config, folder, suite, training)),
    }
