"""Jobs and `--address auto` against a real head with token authentication, in processes and ports of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from affinity_service import Study
from affinity_service.engine.session import ENVIRONMENT
from affinity_service.version import provenance
from tests.clusters import Cluster, cluster, free_port

pytestmark = [pytest.mark.engine, pytest.mark.timeout(650)]

MODULE = """
import sys
import time
import numpy as np
import affinity_service
from affinity_service import UserError
from affinity_service.tasks import Suite

print("package at", affinity_service.__file__, file=sys.stderr, flush=True)

def suite():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 5)).astype(np.float32)
    return Suite.from_arrays(x, (x @ rng.normal(size=(5, 4)) + rng.normal(size=(300, 4)) > 0).astype(np.float32))

def slow():
    print("sleeping", flush=True)
    time.sleep(600)
"""
SETTINGS = {
    "data": {"source": "python", "function": "my_suite:suite"},
    "model": {"hidden": [16]},
    "base": {"epochs": 2, "batch_size": 32, "learning_rate": 0.01},
    "gradients": {"dimension": 16, "shard_rows": 400},
    "fits": {"subsets": 0, "tile": 5},
    "groups": {"k": 2},
    "group_models": {"seeds": 1, "random_groupings": 0, "single_tasks": 0},
}


@pytest.fixture(scope="module")
def head() -> Iterator[Cluster]:
    """A cluster of one CPU, where whatever could wait for each other would."""
    with cluster() as made:
        yield made


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: a config and the module that it names."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "my_suite.py").write_text(MODULE)
    write(folder, "small.yaml")
    return folder


def write(folder: Path, name: str, **sections: dict) -> Path:
    (folder / name).write_text(yaml.safe_dump({**SETTINGS, **sections}))
    return folder / name


def test_a_study_begun_as_a_job_is_finished_by_a_run_on_the_same_cluster(head, project, tmp_path):
    study = tmp_path / "study"
    done = head.job("submit", project / "small.yaml", "--study", study, "--until", "gradients", "--follow", "--json")
    assert done.returncode == 0, done.stderr
    state = json.loads(done.stdout)
    assert (state["status"], state["study"]) == ("SUCCEEDED", str(study))
    assert state["ended"] >= state["started"] > 1.6e9
    # The log went to standard error. The code is the submitter's, not what the cluster has installed.
    for line in ("runtime_resources/py_modules_files", "INFO training: asks for 1 × (1 CPU)", "gradients: done in"):
        assert line in done.stderr
    written, here = Study.open(study).config.written_by, provenance()
    assert (written.version, written.commit == "unknown") == (here.version, here.commit == "unknown")

    told = head.job("status", state["id"], "--json")
    assert json.loads(told.stdout) == state
    assert head.job("status", state["id"]).stdout == f"{state['id']}: SUCCEEDED. {state['message']}\n"
    assert "gradients: done in" in head.job("logs", state["id"]).stdout

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        ran = head.affinity("-v", "run", "small.yaml", "--study", study, "--address", "auto", "--json")
    assert ran.returncode == 0, ran.stderr
    assert sum(map(len, json.loads(ran.stdout)["groups"])) == 4
    assert "gradients: found done" in ran.stderr
    for stage in ("fits", "group_models", "report"):
        assert f"{stage}: done in" in ran.stderr
    assert "1 of 2 workers at a time: fits asks for 2 × (1 CPU); the cluster's nodes have 1 × (1 CPU)" in ran.stderr


def test_workers_on_a_running_cluster_get_our_variables_and_code_and_no_gpu_unasked(head, tmp_path):
    script = """
import json, os, ray
from affinity_service.engine.session import ENVIRONMENT, connected

@ray.remote
def seen():
    import affinity_service
    return {**{name: os.environ.get(name) for name in [*ENVIRONMENT, "CUDA_VISIBLE_DEVICES"]},
            "file": affinity_service.__file__}

with connected("auto"):
    print(json.dumps(ray.get(seen.remote())))
"""
    # Elsewhere: Ray lets workers import from the driver's folder before anything else.
    done = subprocess.run(
        [sys.executable, "-c", script], env=head.environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert "runtime_resources/py_modules_files" in seen.pop("file")
    assert seen == {**ENVIRONMENT, "CUDA_VISIBLE_DEVICES": ""}


def test_a_run_that_finds_no_place_is_refused(head, project, tmp_path):
    config = write(project, "wide.yaml", data={"source": "yeast"}, resources={"cpus": 64})
    done = head.affinity("run", config, "--study", tmp_path / "study", "--address", "auto")
    assert done.returncode == 2
    assert "training asks for 1 × (64 CPU) at once; the cluster's nodes have 1 × (1 CPU)" in done.stderr
    assert "resources.wait" in done.stderr


def test_a_failed_job_says_what_the_user_can_change(head, project, tmp_path):
    config = write(project, "gone.yaml", data={"source": "parquet", "path": "/nowhere/x.parquet"})
    done = head.job("submit", config, "--study", tmp_path / "study", "--follow")
    assert done.returncode == 1
    assert "/nowhere/x.parquet" in done.stdout
    assert ": FAILED. " in done.stdout.splitlines()[-1]


def test_cancel_stops_a_job_and_says_so_again(head, project, tmp_path):
    config = write(project, "slow.yaml", data={"source": "python", "function": "my_suite:slow"})
    job = json.loads(head.job("submit", config, "--study", tmp_path / "study", "--json").stdout)["id"]
    end = time.monotonic() + 90
    while "sleeping" not in (log := head.job("logs", job).stdout) and time.monotonic() < end:
        time.sleep(0.5)
    assert "sleeping" in log
    for _ in range(2):
        done = head.job("cancel", job, "--json")
        assert json.loads(done.stdout)["status"] == "STOPPED", done.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"RAY_AUTH_MODE": None}, "Unauthorized: Missing authentication token. Set RAY_AUTH_MODE=token"),
        ({"RAY_AUTH_TOKEN": "wrong"}, "Forbidden: Invalid authentication token. Set RAY_AUTH_MODE=token"),
        # Ray would quietly ask there instead of where it was told to.
        ({"RAY_ADDRESS": "http://127.0.0.1:9"}, "no job `nobody` at http://127.0.0.1:"),
    ],
)
def test_no_token_a_wrong_token_and_an_unknown_job(head, changes, message):
    done = head.job("status", "nobody", **changes)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())


def test_a_cluster_that_does_not_answer(head):
    done = head.affinity("status", "nobody", "--address", f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 2
    assert "no Ray cluster answers there" in done.stderr
