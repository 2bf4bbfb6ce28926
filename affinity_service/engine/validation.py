"""The validation stage: sampled subsets are truly trained, and the estimates measured by them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray

from affinity_service.affinity.build import base_model, device_here, study_estimator
from affinity_service.affinity.calibration import Calibration, probes_of, read_calibration
from affinity_service.affinity.estimates import Moment, SubsetEstimates, stated_moment
from affinity_service.affinity.first_order import first_order_losses
from affinity_service.affinity.linearized import LinearizedEstimator
from affinity_service.affinity.recipe import recipe_config, recipe_rows
from affinity_service.affinity.stopping import StopRule
from affinity_service.artifacts import StudyFolder
from affinity_service.config import Config
from affinity_service.engine.context import StageContext, StageOutcome
from affinity_service.engine.fits import Inputs, load_inputs
from affinity_service.engine.measured_affinity import measured_losses
from affinity_service.engine.placement import workers_with_room
from affinity_service.engine.pool import TASK_RETRIES, map_unordered, result, task
from affinity_service.engine.session import actor_options
from affinity_service.engine.threads import take_assigned_threads
from affinity_service.engine.true_trainings import Kind, Piece, pieces_of, read_pieces, seconds_of, train_piece
from affinity_service.errors import UserError
from affinity_service.evaluation.cost import TrainingCost, cost_ratios
from affinity_service.evaluation.fidelity import compare, coverage, row_means
from affinity_service.evaluation.fine_tuning import FineTuned
from affinity_service.evaluation.stacked import split_losses
from affinity_service.stages import estimates_identity
from affinity_service.tasks.suite import VALIDATION, Suite

Losses = NDArray[np.float64]

# After so many epochs, beside the best validation loss, the default truth.
EPOCHS = (2, 5)


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


def moments_of(config: Config, epochs: int) -> list[Moment]:
    """When trainings of so many epochs are looked at, what the fits' config states among them."""
    if config.validation.start != "base":
        return ["best"]
    stated = stated_moment(config)
    counts = {*EPOCHS, *(() if stated == "best" else (stated,))}
    return ["best", *sorted(count for count in counts if count <= epochs)]


def truths_and_oracles(
    config: Config, folder: StudyFolder, suite: Suite, subsets: Sequence[tuple[int, ...]]
) -> tuple[list[Piece], list[Piece]]:
    """Twice the seeds, so that the truth is measured by itself, and the linear oracle where that is asked for."""
    settings = config.validation
    oracles = settings.oracle_seeds if settings.start == "base" else 0

    def of(kind: Kind, count: int) -> list[Piece]:
        return pieces_of(kind, config, folder, suite, subsets, (settings.seed, count), settings.tile)

    return of("truth", 2 * settings.seeds), of("oracle", oracles)


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
    truths, oracles = truths_and_oracles(config, folder, suite, subsets)
    pieces = [*truths, *oracles]
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

    per_seed, oracle = (read_pieces(folder, own, tasks) for own in (truths, oracles))
    epochs = per_seed[0].validation.shape[1]
    moments = moments_of(config, epochs)
    inputs: Any = None if config.measured else load_inputs.options(**TASK_RETRIES).remote(folder)
    context.progress(len(pieces), len(pieces), "estimates")
    predicted = result(task(predict_subsets, options).remote(inputs, reference, subsets, config, folder, moments))
    if oracle:
        predicted["oracle"] = [[np.mean([each.at(moment)[0] for each in oracle], axis=0)] for moment in moments]
    seconds = seconds_of(folder, truths)
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
