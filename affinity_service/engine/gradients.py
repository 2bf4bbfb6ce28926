"""The gradient stage: a pool of actors, each with the base model, writes the shards of the feature store.

Three rounds over the rows: sums of the loss gradients per task; from them and the landmarks the anchor (metric, basis,
means), made once by one actor; the features.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import ray
import torch
from safetensors.torch import load as load_safetensors

from affinity_service.artifacts import StudyFolder
from affinity_service.config import Config
from affinity_service.config_models import PretrainedConfig
from affinity_service.engine.context import StageContext, StageOutcome
from affinity_service.engine.placement import workers_with_room
from affinity_service.engine.pool import ActorPool
from affinity_service.engine.session import actor_options
from affinity_service.engine.threads import take_assigned_threads
from affinity_service.evaluation.flops import flop_counter
from affinity_service.gradients.anchor import ANCHOR, build_anchor, read_anchor, write_anchor
from affinity_service.gradients.batches import per_example_gradients
from affinity_service.gradients.energy import captured_energy, total_energy
from affinity_service.gradients.features import compute_features
from affinity_service.gradients.own_parameters import heads_apart, reduction_of
from affinity_service.gradients.statistics import GradientSums, gradient_sums
from affinity_service.gradients.store import LAYOUT, pair_rows, shard_facts, shard_name, write_shard
from affinity_service.gradients.sums_file import SUMS, read_sums, sums_name, write_sums
from affinity_service.gradients.weight_space import WeightSpace
from affinity_service.models import build_model
from affinity_service.models.placement import spread
from affinity_service.models.state import load_trained, trained_shapes
from affinity_service.tasks.suite import TRAIN, Suite

log = logging.getLogger("affinity_service")


@ray.remote
class GradientActor:
    """Holds the base model; computes and writes one piece per call, unless it is there: the answer of an actor that was
    lost may have been lost after its piece was written.

    The suite comes with every call: it lies in the object store once, whichever actors come and go.
    """

    def __init__(self, config: Config, folder: StudyFolder) -> None:
        take_assigned_threads()
        self.config, self.folder = config, folder
        self.suite: Suite | None = None
        self.reduction: Any = None

    def _load(self, suite: Suite) -> None:
        """Get ready, once per life of the process."""
        if self.suite is not None:
            return
        config = self.config
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = build_model(config.model, suite.inputs.shape[1:], suite.tasks, config.base.seed)
        load_trained(model, load_safetensors(self.folder.read_bytes("base_model/model.safetensors")))
        self.space = WeightSpace(trained_shapes(model), config.gradients.layers)
        if isinstance(config.model, PretrainedConfig) and config.model.max_memory is not None:
            self.scratch = tempfile.TemporaryDirectory(prefix="affinity-weights-")
            model = spread(model, config.model, self.scratch.name)
        else:
            model = model.to(device)
        self.gradients = per_example_gradients(model, suite, config.gradients)
        # Of a model that is spread, where what trains lies.
        self.device = self.gradients.device
        self.apart = heads_apart(config, model, len(suite.tasks))
        self.split, self.task, self.example = pair_rows(suite)
        self.suite = suite
        log.info("gradients: the base model is ready on %s", self.device)

    def _rows(self, shard: int) -> slice:
        size = self.config.gradients.shard_rows
        return slice(shard * size, (shard + 1) * size)

    def sums(self, suite: Suite, shard: int, split: int) -> None:
        """Sums of the loss gradients over one split of one shard."""
        if self.folder.exists(sums_name(shard, split)):
            return
        self._load(suite)
        rows = self._rows(shard)
        own = self.split[rows] == split
        with flop_counter() as counter:
            found = gradient_sums(
                self.gradients,
                self.space,
                suite,
                self.example[rows][own],
                self.task[rows][own],
                self.config.gradients.batch_rows,
                squares=split == TRAIN,
            )
        write_sums(self.folder, shard, split, found, float(counter.get_total_flops()))

    def anchor(self, suite: Suite, pieces: list[tuple[int, int]]) -> None:
        """Metric, means and basis, written once: features of different bases must never mix. pieces : shards and splits
        that sums are there of."""
        if self.folder.exists(ANCHOR):
            return
        self._load(suite)
        settings = self.config.gradients
        costs: list[float] = []

        def sums_of(split: int) -> Iterator[GradientSums]:
            for shard, own in pieces:
                if own == split:
                    sums, flops = read_sums(self.folder, shard, split)
                    costs.append(flops)
                    yield sums
                    del sums

        moments = None
        if settings.metric == "optimizer":
            moments = load_safetensors(self.folder.read_bytes("base_model/second_moments.safetensors"))
        with flop_counter() as counter:
            tensors = build_anchor(settings, self.gradients, self.space, suite, moments, sums_of, self.apart)
        write_anchor(self.folder, tensors, sum(costs) + counter.get_total_flops())

    def compute(self, suite: Suite, shard: int) -> None:
        """The features of one shard."""
        if self.folder.exists(shard_name(shard)):
            return
        self._load(suite)
        settings = self.config.gradients
        if self.reduction is None:
            anchor = read_anchor(self.folder)
            self.reduction = reduction_of(settings, self.space, self.gradients.model, anchor, self.device)
        rows = self._rows(shard)
        split, task, example = self.split[rows], self.task[rows], self.example[rows]
        with flop_counter() as counter:
            content = compute_features(self.gradients, self.reduction, suite, example, task, settings.batch_rows)
        energy = captured_energy(content, suite, split == TRAIN, task)
        facts = {"flops": float(counter.get_total_flops()), "energy": energy, "dimension": self.reduction.dimension}
        write_shard(self.folder, shard, split, task, example, content, facts)

    def layout(self, suite: Suite, shards: int) -> dict[str, Any]:
        """What `layout.json` says, and the FLOPs of all pieces."""
        anchor, settings = read_anchor(self.folder), self.config.gradients
        costs = [shard_facts(self.folder, index) for index in range(shards)]
        coordinates = settings.reduction in ("subspace", "exact")
        captured = sum(cost["energy"] for cost in costs) / total_energy(anchor, suite) if coordinates else None
        return {
            "rows": len(pair_rows(suite)[0]),
            "dimension": int(costs[0]["dimension"]),
            "own_coordinates": anchor["own"].shape[1] if "own" in anchor else 0,
            "products": len(anchor.get("outside", ())),
            "shards": shards,
            "reduction": settings.reduction,
            "metric": settings.metric,
            "landmarks": int(anchor["landmarks"]) if "landmarks" in anchor else None,
            "energy": captured,
            "flops": float(anchor["flops"]) + sum(cost["flops"] for cost in costs),
        }


def compute_gradients(context: StageContext) -> StageOutcome:
    config, folder, suite = context.config, context.folder, context.suite
    rows, size = pair_rows(suite)[0], config.gradients.shard_rows
    shards = -(-len(rows) // size)
    shard_names = [shard_name(index) for index in range(shards)]
    reference = ray.put(suite)
    wanted = max(1, min(config.gradients.workers, shards))
    resources = config.resources
    if config.gradients.gpus is not None:
        resources = resources.model_copy(update={"gpus": float(config.gradients.gpus)})
    workers = workers_with_room("gradients", wanted, resources, context.warn)
    options = actor_options(resources)
    pool = ActorPool(lambda: GradientActor.options(**options).remote(config, folder), workers)  # type: ignore[attr-defined]
    if not folder.exists(ANCHOR):
        pieces = [(shard, int(code)) for shard in range(shards) for code in np.unique(rows[shard * size :][:size])]
        unfinished = context.unfinished([sums_name(*piece) for piece in pieces], "gradient sums")
        sums = pool.map_unordered(lambda actor, i: actor.sums.remote(reference, *pieces[i]), unfinished)
        for done, _ in enumerate(sums, len(pieces) - len(unfinished) + 1):
            context.progress(done, len(pieces), "gradient sums")
        list(pool.map_unordered(lambda actor, all_of_them: actor.anchor.remote(reference, all_of_them), [pieces]))
    folder.delete(SUMS)
    missing = context.unfinished(shard_names, "shards")
    done = shards - len(missing)
    for _ in pool.map_unordered(lambda actor, shard: actor.compute.remote(reference, shard), missing):
        done += 1
        context.progress(done, shards, "gradient shards")
    # The anchor of many tasks and weights is gigabytes, which the driver has no need of.
    (layout,) = pool.map_unordered(lambda actor, count: actor.layout.remote(reference, count), [shards])
    pool.end()
    flops = layout.pop("flops")
    folder.write_json(LAYOUT, layout)
    return StageOutcome(flops=flops, workers=workers)
