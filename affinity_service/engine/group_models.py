"""The group model stage: Ray Tune trains the models of the groups and of what they are compared with."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
from ray import tune
from safetensors.torch import load as load_safetensors

from affinity_service.artifacts import fingerprint
from affinity_service.config import Config
from affinity_service.config_models import CausalLMConfig, PretrainedConfig
from affinity_service.engine.context import StageContext, StageOutcome
from affinity_service.engine.group_trials import REFUSED, Trial, is_batched, run_trial
from affinity_service.engine.placement import placed_training, workers_with_room
from affinity_service.engine.session import actor_options
from affinity_service.engine.train import progress_board
from affinity_service.errors import UserError
from affinity_service.evaluation.outcomes import GROUPS, RANDOM, plan_runs
from affinity_service.evaluation.run import Run, stack_lengths
from affinity_service.models.adapter_files import adapter_files
from affinity_service.tables import read_table, write_table
from affinity_service.tasks.suite import Suite


class _Refusal(tune.Stopper):
    """Ends all trials as soon as one says what the user must change."""

    def __init__(self) -> None:
        self.met = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        self.met = self.met or REFUSED in result
        return False

    def stop_all(self) -> bool:
        return self.met


def train_group_models(context: StageContext) -> StageOutcome:
    config, folder, suite = context.config, context.folder, context.suite
    settings = config.group_models
    groups = [[suite.names.index(name) for name in group] for group in folder.read_json("groups.json")["groups"]]
    planned = plan_runs(groups, len(suite.tasks), settings)
    if settings.single_tasks < len(suite.tasks):
        context.warn(f"a sample of {settings.single_tasks} of {len(suite.tasks)} tasks is trained alone")
    kept = {p.run for p in planned if p.setting == GROUPS}
    # Random groups are there for their losses: answers take time to write.
    asked = {p.run for p in planned if p.setting != RANDOM}
    # Trained one by one, every model is a piece of work of its own.
    size = settings.models_per_trial if is_batched(config, suite) else 1
    trials = _trials([p.run for p in planned], kept, asked, size)
    missing = [trials[index] for index in context.unfinished([trial.results for trial in trials], "trials")]
    workers = _tune(context, missing, sum(len(trial.runs) for trial in trials)) if missing else 1
    outcomes = {}
    for trial in trials:
        for row in read_table(folder, trial.results).to_pylist():
            outcomes[Run(tuple(row["tasks"]), row["seed"])] = row
    write_table(
        folder,
        "group_models/results.parquet",
        _results([(p, outcomes[p.run]) for p in planned], suite.names, isinstance(config.model, CausalLMConfig)),
    )
    for index, group in enumerate(groups):
        _keep_best(context, trials, tuple(sorted(group)), outcomes, index)
    return StageOutcome(sum(row["flops"] for row in outcomes.values()), workers)


def _trials(runs: Sequence[Run], kept: set[Run], asked: set[Run], size: int) -> list[Trial]:
    # Sorted by number of tasks: models that see equally many examples waste no steps on each other.
    unique = sorted(set(runs), key=lambda run: (-len(run.tasks), run.tasks, run.seed))
    lengths = stack_lengths([len(run.tasks) for run in unique], size)
    starts = accumulate(lengths, initial=0)
    chunks = [unique[start : start + length] for start, length in zip(starts, lengths, strict=False)]
    return [
        Trial(tuple(chunk), *(tuple(run for run in chunk if run in own) for own in (kept, asked))) for chunk in chunks
    ]


def _tune(context: StageContext, trials: Sequence[Trial], models: int) -> int:
    """Train them; how many at a time."""
    config, resources, together = context.config, context.config.resources, 1
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    # Trials of Ray Train hold nothing themselves: more of them than their workers fit would only wait for each other.
    if not is_batched(config, context.suite):
        train, gpus = placed_training(config.base, resources)
        together, resources = train.workers, resources.model_copy(update={"gpus": gpus})
    wanted = min(config.group_models.workers, len(trials))
    at_a_time = workers_with_room("group_models", wanted, resources, context.warn, together)
    with progress_board(context.progress) as board:
        board.update.remote(models - sum(len(trial.runs) for trial in trials), models, "models trained")
        trainable = tune.with_parameters(
            run_trial,
            suite=context.suite,
            config=config,
            folder=context.folder,
            scratch=context.scratch,
            board=board,
        )
        tuner = tune.Tuner(
            tune.with_resources(trainable, _trial_resources(config, context.suite)),
            param_space={"trial": tune.grid_search(list(trials))},
            tune_config=tune.TuneConfig(max_concurrent_trials=at_a_time),
            run_config=tune.RunConfig(
                storage_path=context.scratch,
                name=f"groups-{fingerprint([trial.key for trial in trials])[:12]}",
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=3),
                stop=_Refusal(),
            ),
        )
        ended = list(tuner.fit())
        for each in ended:
            if each.metrics and REFUSED in each.metrics:
                raise UserError(each.metrics[REFUSED])
        for each in ended:
            if each.error is not None:
                last = str(each.error).strip().splitlines()[-1]
                raise RuntimeError(f"a trial of group models failed: {last}") from each.error
    return at_a_time


def _trial_resources(config: Config, suite: Suite) -> dict[str, float]:
    """A trial of stacked models works itself; one that calls Ray Train only waits, and must not take the cores its
    workers need (Tune wants some resource, so a byte of memory)."""
    if not is_batched(config, suite):
        return {"memory": 1}
    options = actor_options(config.resources)
    return {"cpu": options["num_cpus"], "gpu": options["num_gpus"]}


def _results(outcomes: Sequence[tuple[Any, dict[str, Any]]], names: Sequence[str], answers: bool) -> pa.Table:
    """answers : with the column `exact_match`, null where none were asked for."""
    return pa.Table.from_pylist(
        [
            {
                "setting": planned.setting,
                "grouping": planned.grouping,
                "group": planned.group,
                "tasks": [names[t] for t in planned.run.tasks],
                "seed": planned.run.seed,
                "task": names[task],
                "validation_loss": row["validation"][task],
                "test_loss": row["test"][task],
                "best_epoch": row["best_epoch"],
                **({"exact_match": _known(row["exact_match"], task)} if answers else {}),
            }
            for planned, row in outcomes
            for task in planned.run.tasks
        ]
    )


def _keep_best(
    context: StageContext,
    trials: Sequence[Trial],
    tasks: tuple[int, ...],
    outcomes: dict[Run, dict[str, Any]],
    index: int,
) -> None:
    """The group's model is the seed with the lowest validation loss. An adapter lies beside it in a folder of its own,
    in peft's format, with the losses of its tasks."""
    folder, config, names = context.folder, context.config.model, context.suite.names
    mean_loss = {run: float(np.nanmean(np.array(row["validation"], float))) for run, row in outcomes.items()}
    candidates = [(trial, run) for trial in trials for run in trial.kept if run.tasks == tasks]
    trial, run = min(candidates, key=lambda pair: mean_loss[pair[1]])
    place, weights = f"group_models/group-{index:02d}", folder.read_bytes(trial.weights(run))
    folder.write_bytes(f"{place}.safetensors", weights)
    if not isinstance(config, PretrainedConfig):
        return
    for name, content in adapter_files(load_safetensors(weights), config).items():
        folder.write_bytes(f"{place}/{name}", content)
    row = outcomes[run]
    measured = {"validation_loss": row["validation"], "test_loss": row["test"], "exact_match": row["exact_match"]}
    folder.write_json(
        f"{place}/tasks.json",
        {names[task]: {name: _known(values, task) for name, values in measured.items()} for task in run.tasks},
    )


def _known(values: Sequence[float | None] | None, task: int) -> float | None:
    value = None if values is None else values[task]
    return None if value is None or np.isnan(value) else float(value)
