"""As many threads as a task has cores, whatever its process ran before."""

from __future__ import annotations

import os

import pytest
import ray
import torch

from affinity_service.engine.threads import take_assigned_threads

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("ray_session"), pytest.mark.timeout(180)]


@ray.remote
def threads(takes: bool) -> tuple[int, int]:
    if takes:
        take_assigned_threads()
    return os.getpid(), torch.get_num_threads()


def test_a_process_that_began_with_one_core_works_with_two_when_it_has_them():
    # Without cores of its own a task has one thread.
    small = {process for process, _ in ray.get([threads.options(num_cpus=0).remote(False) for _ in range(4)])}
    found = dict(ray.get([threads.options(num_cpus=2).remote(True) for _ in range(4)]))
    assert set(found) & small, "none of the processes that had begun with one core was given two"
    assert set(found.values()) == {2}
