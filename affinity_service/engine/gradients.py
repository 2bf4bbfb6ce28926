"""The gradient stage: a pool of actors, each with the base model, writes the shards of the feature store."""

from __future__ import annotations

import ray
import torch
from safetensors.torch import load as load_safetensors
from torch.utils.flop_counter import FlopCounterMode

from affinity_service.artifacts import StudyFolder
from affinity_service.config import Config
from affinity_service.engine.context import StageContext, StageOutcome
from affinity_service.engine.placement import workers_with_room
from affinity_service.engine.pool import ACTOR_RETRIES, map_unordered, result
from affinity_service.engine.session import actor_options
from affinity_service.gradients.features import compute_features
from affinity_service.gradients.per_example import PerExampleGradients
from affinity_service.gradients.reductions import build_reduction
from affinity_service.gradients.store import LAYOUT, pair_rows, shard_flops, shard_name, write_shard
from affinity_service.models import build_model
from affinity_service.tasks.suite import Suite


@ray.remote
class GradientActor:
    """Holds the base model; computes and writes one shard per call."""

    def __init__(self, config: Config, folder: StudyFolder) -> None:
        self.config, self.folder = config, folder
        self.suite: Suite | None = None

    def load(self, suite: Suite) -> int:
        """Get ready, once per life of the process; the dimension of the features."""
        if self.suite is None:
            self._prepare(suite)
        return self.reduction.dimension

    def _prepare(self, suite: Suite) -> None:
        config, folder = self.config, self.folder
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = build_model(config.model, suite.inputs.shape[1:], suite.tasks, config.base.seed)
        model.load_state_dict(load_safetensors(folder.read_bytes("base_model/model.safetensors")))
        shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
        self.reduction = build_reduction(config.gradients, shapes)
        self.gradients = PerExampleGradients(model.to(device), suite.tasks)
        self.split, self.task, self.example = pair_rows(suite)
        self.suite = suite

    def compute(self, suite: Suite, shard: int) -> None:
        self.load(suite)
        settings = self.config.gradients
        rows = slice(shard * settings.shard_rows, (shard + 1) * settings.shard_rows)
        task, example = self.task[rows], self.example[rows]
        with FlopCounterMode(display=False) as counter:
            content = compute_features(self.gradients, self.reduction, suite, example, task, settings.batch_rows)
        flops = float(counter.get_total_flops())
        write_shard(self.folder, shard, self.split[rows], task, example, content, flops)


def compute_gradients(context: StageContext) -> StageOutcome:
    config, folder, suite = context.config, context.folder, context.suite
    rows = len(pair_rows(suite)[0])
    shards = -(-rows // config.gradients.shard_rows)
    missing = context.unfinished([shard_name(index) for index in range(shards)], "shards")
    reference = ray.put(suite)
    wanted = max(1, min(config.gradients.workers, len(missing)))
    workers = workers_with_room("gradients", wanted, config.resources, context.warn)
    actors = [
        GradientActor.options(**actor_options(config.resources), **ACTOR_RETRIES).remote(  # type: ignore[attr-defined]
            config, folder
        )
        for _ in range(workers)
    ]
    # The suite goes with every call, not to the constructor: an actor that is started again then finds it.
    dimension = result(actors[0].load.remote(reference))
    done = shards - len(missing)
    for _ in map_unordered(lambda actor, shard: actor.compute.remote(reference, shard), actors, missing):
        done += 1
        context.progress(done, shards, "gradient shards")
    for actor in actors:
        ray.kill(actor)
    folder.write_json(LAYOUT, {"rows": rows, "dimension": dimension, "shards": shards})
    flops = sum(shard_flops(folder, index) for index in range(shards))
    return StageOutcome(flops=flops, workers=workers)
