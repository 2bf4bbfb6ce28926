"""The gradient stage: a pool of actors, each with the base model, writes the shards of the feature store."""

from __future__ import annotations

from typing import Any

import ray
import torch
from safetensors.torch import load as load_safetensors
from torch.utils.flop_counter import FlopCounterMode

from affinity_service.artifacts import StudyFolder
from affinity_service.config import Config
from affinity_service.engine.context import StageContext, StageOutcome
from affinity_service.engine.pool import ACTOR_RETRIES, map_unordered, result
from affinity_service.engine.session import actor_options
from affinity_service.gradients.features import compute_features
from affinity_service.gradients.per_example import PerExampleGradients
from affinity_service.gradients.reductions import build_reduction
from affinity_service.gradients.store import LAYOUT, pair_rows, shard_name, write_shard
from affinity_service.models import build_model
from affinity_service.tasks.suite import Suite


@ray.remote
class GradientActor:
    """Holds the base model; computes and writes one shard per call."""

    def __init__(self, boxed: list[ray.ObjectRef], config: Config, folder: StudyFolder) -> None:
        # In a list Ray passes the reference itself, which the driver keeps alive over restarts of the actor.
        self.suite: Suite = ray.get(boxed[0])
        suite = self.suite
        self.config, self.folder = config.gradients, folder
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = build_model(config.model, suite.inputs.shape[1:], suite.tasks, config.base.seed)
        model.load_state_dict(load_safetensors(folder.read_bytes("base_model/model.safetensors")))
        shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        self.reduction = build_reduction(config.gradients, shapes)
        self.gradients = PerExampleGradients(model.to(device), suite.tasks)
        self.split, self.task, self.example = pair_rows(suite)

    def dimension(self) -> int:
        return self.reduction.dimension

    def compute(self, shard: int) -> dict[str, Any]:
        rows = slice(shard * self.config.shard_rows, (shard + 1) * self.config.shard_rows)
        task, example = self.task[rows], self.example[rows]
        with FlopCounterMode(display=False) as counter:
            content = compute_features(
                self.gradients, self.reduction, self.suite, example, task, self.config.batch_rows
            )
        write_shard(self.folder, shard, self.split[rows], task, example, content)
        return {"rows": len(task), "flops": counter.get_total_flops()}


def compute_gradients(context: StageContext) -> StageOutcome:
    config, folder, suite = context.config, context.folder, context.suite
    rows = len(pair_rows(suite)[0])
    shards = -(-rows // config.gradients.shard_rows)
    missing = context.unfinished([shard_name(index) for index in range(shards)], "shards")
    flops = 0.0
    reference = ray.put(suite)
    workers = max(1, min(config.gradients.workers, len(missing)))
    actors = [
        GradientActor.options(**actor_options(config.resources), **ACTOR_RETRIES).remote(  # type: ignore[attr-defined]
            [reference], config, folder
        )
        for _ in range(workers)
    ]
    dimension = result(actors[0].dimension.remote())
    done = shards - len(missing)
    for outcome in map_unordered(lambda actor, shard: actor.compute.remote(shard), actors, missing):
        flops += outcome["flops"]
        done += 1
        context.progress(done, shards, "gradient shards")
    for actor in actors:
        ray.kill(actor)
    folder.write_json(LAYOUT, {"rows": rows, "dimension": dimension, "shards": shards})
    return StageOutcome(flops=flops, workers=workers)
