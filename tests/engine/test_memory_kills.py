"""A task that its node has no memory for ends the run with a reason, in a Ray of its own that finds memory short."""

from __future__ import annotations

import os
import subprocess
import sys

from affinity_service.engine.pool import RETRIES
from affinity_service.engine.session import ENVIRONMENT, OOM_RETRIES

SCRIPT = """
import os
import ray
# Ray waits longer and longer before it tries again; what it knew at its import says nothing of a local cluster.
os.environ["RAY_task_oom_retries"] = "1"
from affinity_service.engine.pool import TASK_RETRIES, result, task
from affinity_service.engine.session import connected

@ray.remote
def hold():
    import time
    held = bytearray(200 << 20)
    time.sleep(300)
    return len(held)

with connected():
    try:
        result(task(hold, TASK_RETRIES).remote())
    except RuntimeError as error:
        print("ended:", error)
"""
SHORT_OF_MEMORY = {
    "RAY_memory_usage_threshold": "0.01",
    "RAY_memory_monitor_refresh_ms": "100",
}


def test_as_many_tries_as_after_other_losses():
    assert int(ENVIRONMENT[OOM_RETRIES]) == RETRIES


def test_a_task_without_memory_is_not_tried_for_ever():
    environment = {name: value for name, value in os.environ.items() if name not in ENVIRONMENT} | SHORT_OF_MEMORY
    found = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=240)
    assert "ended: a worker process ended" in found.stdout, found.stderr
    assert "ran out of memory" in found.stdout
