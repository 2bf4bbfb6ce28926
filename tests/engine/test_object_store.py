"""A study in an S3 store: run by the command line with JSON logs, run again, opened and asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from moto.server import ThreadedMotoServer

from affinity_service import Study
from affinity_service.artifacts import StudyFolder
from affinity_service.doctor.storage import study_storage
from affinity_service.lock import LOCK
from tests.suites import mixed_suite, small_settings, write_suite

pytestmark = [pytest.mark.engine]
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The URI of a path in a bucket, but for what follows the path; and the options after it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in KEYS.items():
            patch.setenv(name, value)
        urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/bucket", method="PUT"))
        yield f"endpoint_override={host}:{port}&scheme=http&region=us-east-1"
    server.stop()


def run(config: Path, study: str, home: Path, *options: str) -> list[dict]:
    """The records that the run wrote."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment |= {"XDG_CACHE_HOME": str(home), "RAY_TMPDIR": str(home), "AFFINITY_STORAGE_PATIENCE": "20"}
    command = [sys.executable, "-m", "affinity_service", "--log-format", "json", "run", str(config), "--study", study]
    done = subprocess.run([*command, *options], env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def written(bucket, tmp_path_factory) -> Iterator[tuple[str, Path, list[dict], Path, list[str]]]:
    root = tmp_path_factory.mktemp("s3")
    content = small_settings(mixed_suite(rows=200), write_suite(mixed_suite(rows=200), root / "suite.parquet"))
    content["base"] |= {"epochs": 1}
    content["fits"] |= {"subsets": 4, "probes": 1}
    content["group_models"] = {"seeds": 1, "random_groupings": 0, "single_tasks": 0}
    (root / "small.yaml").write_text(yaml.safe_dump(content))
    study = f"s3://bucket/studies/small?{bucket}"
    # Short: a socket's path has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="aff", dir="/tmp") as home:
        records = run(root / "small.yaml", study, Path(home))
        workers = [
            line
            # Ray Train has files of its own.
            for pattern in ("worker-*", "train/ray-train-app-worker-*")
            for path in Path(home).glob(f"ray/session_2*/logs/{pattern}")
            for line in path.read_text(errors="replace").splitlines()
        ]
        yield study, root / "small.yaml", records, Path(home), workers


def test_a_study_in_an_object_store_is_whole_and_answers(written):
    study, *_ = written
    opened = Study.open(study)
    assert {task for group in opened.groups for task in group} == {"up", "high", "level", "value"}
    table = opened.predict(["up", "value"])
    assert table.predicted_loss.notna().all()
    assert b"<html" in opened.folder.read_bytes("report/index.html")
    assert not opened.folder.exists(LOCK)
    assert not [name for name in opened.folder.list("stages/") if name.endswith(".part.json")]


def test_every_record_of_the_run_says_which_study_stage_and_job_it_is_of(written):
    _, _, records, _, workers = written
    ours = [record for record in records if record.get("name") == "affinity_service"]
    assert {record["study"] for record in ours} == {"small"}
    finished = {record["stage"] for record in ours if "done in" in record["message"]}
    assert {"base_model", "gradients", "fits", "affinity", "groups", "group_models", "report"} <= finished
    # Ray has given its number once it is connected.
    assert all(record["job_id"] for record in ours if record["stage"] in ("gradients", "fits", "report"))
    # Workers write what Ray's formatter makes, into the files of its session.
    inside = [json.loads(line) for line in workers if line.startswith("{")]
    assert inside
    assert {record["job_id"] for record in inside} == {ours[-1]["job_id"]}
    of = {record["message"]: (record["study"], record["stage"]) for record in inside if "study" in record}
    assert of["training: process 1 of 1 on cpu"] == ("small", "base_model")
    assert of["gradients: the base model is ready on cpu"] == ("small", "gradients")


def test_run_again_nothing_runs_but_what_is_missing(written):
    study, config, _, home, _ = written
    StudyFolder.at(study).delete("stages/groups.json")
    records = run(config, study, home)
    said = [record["message"] for record in records if record.get("name") == "affinity_service"]
    for stage in ("base_model", "gradients", "fits", "affinity"):
        assert f"{stage}: found done" in said
    assert any(message.startswith("groups: done in") for message in said)


def test_the_doctor_tries_the_store_and_leaves_nothing_there(bucket):
    place = f"s3://bucket/elsewhere?{bucket}"
    assert [finding.state for finding in study_storage(place)] == ["ok"]
    assert StudyFolder.at(place).list("") == []
    (found,) = study_storage(f"s3://no-such-bucket/x?{bucket}")
    assert found.state == "fail"
    assert "the storage refuses us" in found.found
