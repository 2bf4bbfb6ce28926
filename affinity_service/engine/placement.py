"""What a stage asks of the cluster against what there is, so that nothing waits forever for a place."""

from __future__ import annotations

import functools
import logging
import math
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from affinity_service.artifacts import StudyFolder
from affinity_service.config import ResourceConfig, TrainConfig
from affinity_service.engine.session import gpus_per_worker
from affinity_service.errors import UserError

log = logging.getLogger("affinity_service")


def places(nodes: Iterable[Mapping[str, float]], cpus: float, gpus: float) -> int:
    """How many workers the nodes hold at once; a worker lies on one node, a fraction of a GPU on one GPU."""
    return sum(_on_node(node, cpus, gpus) for node in nodes)


def _on_node(node: Mapping[str, float], cpus: float, gpus: float) -> int:
    # Ray counts in ten-thousandths, so 0.3 + 0.3 + 0.3 fits below 0.9.
    by_cpu = math.floor(node.get("CPU", 0) / cpus + 1e-9)
    if not gpus:
        return by_cpu
    devices = math.floor(node.get("GPU", 0))
    by_gpu = devices * math.floor(1 / gpus + 1e-9) if gpus < 1 else math.floor(devices / gpus)
    return min(by_cpu, by_gpu)


def cluster_nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def workers_with_room(
    stage: str, workers: int, resources: ResourceConfig, warn: Callable[[str], None], together: int = 1
) -> int:
    """How many of `workers` to start: as many as there is room for. `together` processes make up one worker.

    Raises
    ------
    UserError
        There is no room for a single one.
    """
    nodes, gpus = cluster_nodes(), gpus_per_worker(resources)
    room = places(nodes, resources.cpus, gpus) // together
    asked = f"{workers * together} × ({amounts(resources.cpus, gpus)})"
    log.info("%s: asks for %s; %s", stage, asked, there(nodes))
    if resources.wait or room >= workers:
        return workers
    if room == 0:
        raise _refusal(stage, f"{together} × ({amounts(resources.cpus, gpus)})", nodes)
    warn(f"{room} of {workers} workers at a time: {stage} asks for {asked}; {there(nodes)}")
    return room


def placed_training(train: TrainConfig, resources: ResourceConfig) -> tuple[TrainConfig, float]:
    """The training as it can be placed, and the GPUs of each of its workers, which all run at once.

    Where GPUs are handed out by `auto` and there are fewer than workers, fewer workers accumulate more micro-batches:
    the same steps. Workers that talk to each other need a GPU each, so fractions are for one worker only.

    Raises
    ------
    UserError
        The workers do not fit on the cluster together.
    """
    nodes, gpus = cluster_nodes(), gpus_per_worker(resources)
    if train.workers > 1:
        gpus = float(math.ceil(gpus))
    room = places(nodes, resources.cpus, gpus)
    asked = f"{train.workers} × ({amounts(resources.cpus, gpus)})"
    log.info("training: asks for %s; %s", asked, there(nodes))
    if resources.wait or room >= train.workers:
        return train, gpus
    if resources.gpus == "auto" and room > 0 and places(nodes, resources.cpus, 0) >= train.workers:
        fewer = max(n for n in range(1, room + 1) if train.workers % n == 0)
        more = train.accumulation * train.workers // fewer
        log.warning(
            "training: asks for %s; %s: %d worker(s) with %d micro-batches per step",
            *(asked, there(nodes), fewer, more),
        )
        return train.model_copy(update={"workers": fewer, "accumulation": more}), gpus
    raise _refusal("training", f"{asked} at once", nodes)


def _refusal(stage: str, asked: str, nodes: list[dict[str, float]]) -> UserError:
    return UserError(
        f"{stage} asks for {asked}; {there(nodes)}: lower `resources.cpus`, `resources.gpus` or the stage's "
        "`workers`, or set `resources.wait: true` if an autoscaler can add nodes"
    )


def amounts(cpus: float, gpus: float) -> str:
    """Of one worker, in words."""
    return f"{cpus:g} CPU" + (f", {gpus:g} GPU" if gpus else "")


def there(nodes: list[dict[str, float]]) -> str:
    """The nodes in words: how many have which CPUs and GPUs."""
    each = [amounts(node.get("CPU", 0), node.get("GPU", 0)) for node in nodes]
    counted = " + ".join(f"{each.count(kind)} × ({kind})" for kind in dict.fromkeys(each))
    return f"the cluster's nodes have {counted or 'nothing'}"


@ray.remote(num_cpus=0)
def _sees(path: str) -> bool:
    return Path(path).is_file()


@functools.cache
def check_shared(folder: StudyFolder) -> None:
    """Whether every node sees the study folder; asked once.

    Raises
    ------
    UserError
        A node does not: what its workers wrote would be missing.
    """
    nodes: list[dict[str, Any]] = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) == 1 or not folder.is_local:
        return
    probe = f"probe-{uuid.uuid4().hex}"
    folder.write_bytes(probe, b"")
    try:
        answers = {
            node["NodeManagerAddress"]: _sees.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(f"{folder.root}/{probe}")
            for node in nodes
        }
        blind = [address for address, answer in answers.items() if not ray.get(answer)]
    finally:
        folder.delete(probe)
    if blind:
        raise UserError(
            f"study {folder.root}: node {', '.join(blind)} does not see this folder; --study must lie on storage "
            "that every node of the cluster mounts at the same path, or be a URI such as s3://bucket/study"
        )
