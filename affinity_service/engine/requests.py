"""What every stage of a config will ask of a cluster, and whether there is a place for it, before anything runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from affinity_service.config import Config
from affinity_service.engine.placement import amounts, cluster_nodes, places, there
from affinity_service.engine.session import connected, gpus_per_worker
from affinity_service.stages import stages_of

Verdict = Literal["at once", "in turn", "waits", "refused"]


@dataclass(frozen=True)
class Request:
    """One group of workers: `together` processes make one of them up and start at once.

    `cpus` and `gpus` are per process; `room` is how many processes the nodes hold; the verdict is what a run would do.
    """

    stage: str
    workers: int
    together: int
    cpus: float
    gpus: float
    room: int
    verdict: Verdict

    @property
    def asked(self) -> str:
        return f"{self.workers * self.together} × ({amounts(self.cpus, self.gpus)})"


@dataclass(frozen=True)
class Requests:
    """Of all stages on Ray in their order, and the nodes in words."""

    stages: list[Request]
    nodes: str


def requests(config: Config, one_by_one: bool) -> Requests:
    """Of the connected cluster.

    Parameters
    ----------
    one_by_one : group models are trained through Ray Train, with `base.workers` processes each.
    """
    found = []
    for stage in stages_of(config):
        match stage.name:
            case "suite":
                found.append(_request(config, stage.name, int(getattr(config.data, "workers", 1))))
            case "base_model":
                found.append(_request(config, stage.name, 1, config.base.workers))
            case "gradients":
                found.append(_request(config, stage.name, config.gradients.workers))
            case "fits":
                found.append(_request(config, stage.name, config.fits.workers))
            case "group_models":
                together = config.base.workers if one_by_one else 1
                found.append(_request(config, stage.name, config.group_models.workers, together))
    return Requests(found, there(cluster_nodes()))


def _request(config: Config, stage: str, workers: int, together: int = 1) -> Request:
    resources = config.resources
    gpus = gpus_per_worker(resources)
    if together > 1:
        # Processes that talk to each other need a GPU each.
        gpus = float(math.ceil(gpus))
    nodes = cluster_nodes()
    room = places(nodes, resources.cpus, gpus)
    # Under `auto` a training takes fewer processes, as many as have a GPU.
    least = 1 if resources.gpus == "auto" and gpus else together
    verdict: Verdict = "at once"
    if room < workers * together:
        verdict = "waits" if resources.wait else "in turn" if room >= least else "refused"
    return Request(stage, workers, together, resources.cpus, gpus, room, verdict)


def requests_at(address: str, config: Config, one_by_one: bool) -> Requests:
    """Of the cluster at an address, which is joined for it.

    Raises
    ------
    UserError
        No cluster answers there.
    """
    with connected(address):
        return requests(config, one_by_one)
