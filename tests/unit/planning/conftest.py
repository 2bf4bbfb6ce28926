"""A config, a workload and a machine of round numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from affinity_service.config import Config, MLPConfig
from affinity_service.planning import Machine
from affinity_service.planning.workload import Workload

GB = 10**9


@pytest.fixture
def config() -> Callable[..., Config]:
    """`config(fits={"subsets": 10})`: the defaults on Yeast, sections replaced."""

    def make(**sections: Any) -> Config:
        return Config.parse({"name": "planned", "data": {"source": "yeast"}, **sections})

    return make


@pytest.fixture
def workload() -> Callable[..., Workload]:
    """`workload(tasks=13, rows=1450)`: binary tasks on as many labelled examples each."""

    def make(tasks: int = 13, rows: int = 1450, inputs: int = 103, hidden: tuple[int, ...] = (64, 64)) -> Workload:
        held_out = rows // 3
        return Workload(
            examples=rows + 2 * held_out,
            input_shape=(inputs,),
            model=MLPConfig(hidden=list(hidden)),
            rows=(rows, held_out, held_out),
            train=(rows,) * tasks,
            validation=(held_out,) * tasks,
            outputs=(1,) * tasks,
        )

    return make


@pytest.fixture
def machine() -> Machine:
    return Machine(cores=4, memory=24 * GB, free_memory=20 * GB, free_disk=100 * GB)
