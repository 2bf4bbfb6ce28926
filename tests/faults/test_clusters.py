"""Faults of a whole cluster: a node is lost, a job is cancelled, the head is killed and started anew."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.clusters import QUICK_DEATH, Cluster, cluster, is_running, kill_tree
from tests.faults.driving import PATIENCE, REPEATS, driving, none_again, pieces, same_matrix, with_base_model

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1500)]
SHARDS, TILES = "gradients/shard-*.arrow", "fits/tile-*.parquet"


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[Cluster]:
    """A head of one CPU; tests may kill it and start another."""
    with cluster(**QUICK_DEATH) as made:
        yield made


@pytest.mark.parametrize("repeat", REPEATS)
def test_a_lost_node_takes_no_finished_piece_along(ray_cluster, workspace, undisturbed, repeat):
    study = with_base_model(undisturbed, workspace / f"nodes-{repeat}")
    node = ray_cluster.add_node()
    address = ("--address", f"127.0.0.1:{ray_cluster.port}")
    with driving(workspace, study, "only", "affinity", *address, environment=ray_cluster.environment) as driver:
        driver.wait_until(lambda: len(driver.pieces(SHARDS)) >= 2)
        kill_tree(node)
        # The one CPU that is left does the rest of the gradients. A new node does its part of the fits.
        finished = driver.pieces(SHARDS)
        node = ray_cluster.add_node()
        driver.wait_until(lambda: len(driver.pieces(TILES)) >= 2)
        kill_tree(node)
        finished |= driver.pieces(TILES)
        driver.finish()
    none_again(study, finished)
    same_matrix(study, undisturbed)


def submit(on: Cluster, workspace: Path, study: Path) -> str:
    done = on.job("submit", workspace / "config.yaml", "--study", study, "--until", "affinity", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["id"]


def log_of(on: Cluster, job: str) -> str:
    """As its file has it: each command would take seconds."""
    path = on.root / f"ray/session_latest/logs/job-driver-{job}.log"
    return path.read_text() if path.exists() else ""


def wait_until(on: Cluster, job: str, ready: Callable[[], object]) -> None:
    """While the job runs, or has not yet begun."""
    end = time.monotonic() + PATIENCE
    while not ready():
        log = log_of(on, job)
        if "error:" in log or time.monotonic() > end:
            pytest.fail(f"the job failed, or took {PATIENCE} s:\n{log[-4000:]}")
        time.sleep(0.02)


def of_study(study: Path) -> list[psutil.Process]:
    """The job's driver."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if str(study) in (process.info["cmdline"] or []) and is_running(process)
    ]


@pytest.mark.parametrize("repeat", REPEATS)
def test_a_cancelled_job_and_a_killed_head_are_continued_by_submitting_again(
    ray_cluster, workspace, undisturbed, repeat
):
    study = with_base_model(undisturbed, workspace / f"jobs-{repeat}")
    job = submit(ray_cluster, workspace, study)
    wait_until(ray_cluster, job, lambda: len(pieces(study, SHARDS)) >= 2)
    assert of_study(study)
    done = ray_cluster.job("cancel", job, "--json")
    assert json.loads(done.stdout)["status"] == "STOPPED", done.stderr
    finished = pieces(study, SHARDS)
    assert not of_study(study), "the cancelled job's driver is still there"
    assert not actors(ray_cluster), "an actor of the cancelled job is still there"

    # The study is free again at once.
    job = submit(ray_cluster, workspace, study)
    wait_until(ray_cluster, job, lambda: len(pieces(study, TILES)) >= 2)
    log = log_of(ray_cluster, job)
    assert "base_model: found done" in log
    # On a quick machine the stage was done before the job was stopped.
    assert f"gradients: {len(finished)} of " in log or "gradients: found done" in log
    kill_tree(ray_cluster.head)
    finished |= pieces(study, TILES)
    assert not of_study(study), "the job's driver has outlived its head"

    ray_cluster.start_head()
    job = submit(ray_cluster, workspace, study)
    wait_until(ray_cluster, job, lambda: "affinity: done in" in log_of(ray_cluster, job))
    assert "gradients: found done" in log_of(ray_cluster, job)
    none_again(study, finished)
    same_matrix(study, undisturbed)


def actors(on: Cluster) -> list[str]:
    """Titles of the head's processes that compute."""
    assert on.head is not None
    found = []
    for process in psutil.Process(on.head.pid).children(recursive=True):
        try:
            title = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if title.startswith("ray::GradientActor") and is_running(process):
            found.append(title)
    return found
