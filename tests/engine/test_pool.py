"""Actors that are lost while there is no room for another."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import ray

from affinity_service.engine.pool import RETRIES, ActorPool

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("ray_session"), pytest.mark.timeout(180)]


@ray.remote
class Worker:
    def work(self, item: int, fatal: str) -> int:
        """Twice the item; its process ends where `fatal` is a file that is not there yet, or a folder."""
        if fatal and not Path(fatal).is_file():
            if not Path(fatal).is_dir():
                Path(fatal).touch()
            os._exit(1)
        if item < 0:
            raise ValueError(f"{item} is below zero")
        return 2 * item


@pytest.fixture
def half() -> dict[str, float]:
    """Two of these fill the cluster."""
    return {"num_cpus": ray.cluster_resources()["CPU"] / 2}


def test_a_lost_actors_piece_goes_to_another_where_there_is_no_room_for_its_successor(half, tmp_path):
    pool = ActorPool(lambda: Worker.options(**half).remote(), 2)
    fillers = []

    def submit(actor, item: int) -> ray.ObjectRef:
        if not fillers:
            # Takes the place of the actor that is lost.
            fillers.append(Worker.options(**half).remote())
        return actor.work.remote(item, str(tmp_path / "met") if item == 3 else "")

    assert sorted(pool.map_unordered(submit, range(10))) == list(range(0, 20, 2))
    assert (tmp_path / "met").exists()
    pool.end()


def test_a_piece_that_ends_its_process_each_time_is_given_up_and_errors_are_what_they_were(tmp_path):
    pool = ActorPool(lambda: Worker.options(num_cpus=0).remote(), 1)
    with pytest.raises(RuntimeError, match=f"ended {RETRIES + 1} times at the same piece"):
        list(pool.map_unordered(lambda actor, item: actor.work.remote(item, str(tmp_path)), [1]))
    pool = ActorPool(lambda: Worker.options(num_cpus=0).remote(), 1)
    with pytest.raises(ValueError, match="-1 is below zero"):
        list(pool.map_unordered(lambda actor, item: actor.work.remote(item, ""), [-1]))
