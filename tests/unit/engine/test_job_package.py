"""What travels with a job, and which paths may."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from affinity_service.config import Config
from affinity_service.engine import job_package
from affinity_service.engine.deepspeed_settings import settings_file
from affinity_service.engine.job_package import check_data_paths, package, study_location, working_dir
from affinity_service.engine.jobs import _url
from affinity_service.errors import UserError
from affinity_service.version import CARRIED, provenance

YEAST = {"source": "yeast"}
FUNCTION = {"source": "python", "function": "mine:suite"}


def config_of(data: dict) -> Config:
    return Config.parse({"name": "mine", "data": data})


def test_config_entry_point_and_package_travel(tmp_path, monkeypatch):
    config = config_of(YEAST)
    job = package(config, "/shared/a study", None, installed=False, stage=tmp_path / "job")
    assert sorted(path.name for path in (tmp_path / "job").iterdir()) == ["affinity-config.yaml", "run_study.py"]
    assert Config.load(tmp_path / "job" / "affinity-config.yaml") == config
    assert job.entrypoint == "python run_study.py affinity-config.yaml --study '/shared/a study' --until report"
    assert [Path(module).name for module in job.runtime_env["py_modules"]] == ["affinity_service"]
    assert job.runtime_env["env_vars"]["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] == "0.2"
    assert job.metadata == {"name": "mine", "study": "/shared/a study"}
    # The package arrives without its metadata and git checkout: the job still knows which code it is.
    expected = provenance()
    monkeypatch.setenv(CARRIED, job.runtime_env["env_vars"][CARRIED])
    assert provenance() == expected


def test_settings_of_deepspeed_travel_whether_ready_made_or_not(tmp_path):
    (tmp_path / "own.json").write_text("{}")
    for number, name in enumerate(["zero2", str(tmp_path / "own.json")]):
        config = Config.parse({"name": "mine", "data": YEAST, "base": {"deepspeed": name, "zero_stage": 2}})
        stage = tmp_path / f"job-{number}"
        package(config, "/shared/s", None, installed=False, stage=stage)
        sent = Config.load(stage / "affinity-config.yaml").base.deepspeed
        assert json.loads((stage / sent).read_text()) == json.loads(settings_file(name).read_text())
        # The study keeps the config that the job got: it must be one that can be submitted again.
        assert sent == ("zero2" if name == "zero2" else "affinity-deepspeed.json")


def test_settings_of_deepspeed_take_no_place_of_the_folder_that_travels(tmp_path):
    folder, stage = tmp_path / "mine", tmp_path / "job"
    (folder / "zero2").mkdir(parents=True)
    config = Config.parse({"name": "mine", "data": YEAST, "base": {"deepspeed": "zero2", "zero_stage": 2}})
    package(config, "/shared/s", folder, installed=False, stage=stage)
    sent = Config.load(stage / "affinity-config.yaml").base.deepspeed
    assert json.loads((stage / sent).read_text()) == json.loads(settings_file("zero2").read_text())
    assert list((stage / "zero2").iterdir()) == []


def test_a_relative_model_must_travel_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "llama").mkdir()
    config = Config.parse({"name": "mine", "data": {"source": "cldr"}, "model": {"kind": "causal_lm", "path": "llama"}})
    with pytest.raises(UserError, match=r"`model.path`: llama is relative"):
        check_data_paths(config, None)
    check_data_paths(config, tmp_path)


def test_an_installed_package_stays_and_names_itself(tmp_path):
    job = package(config_of(YEAST), "/shared/s", None, installed=True, stage=tmp_path / "job")
    assert "py_modules" not in job.runtime_env
    assert CARRIED not in job.runtime_env["env_vars"]


def test_the_folder_travels_whole_but_for_what_no_job_needs(tmp_path):
    folder = tmp_path / "mine"
    for name in (
        "mine.py",
        "data/x.parquet",
        ".gitignore",
        ".git/HEAD",
        ".venv/x",
        "a/__pycache__/b.pyc",
        "studies/s/y",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("data/\n")
    (folder / "broken").symlink_to("nowhere")
    stage = tmp_path / "job"
    package(config_of(FUNCTION), "/shared/s", folder, installed=True, stage=stage)
    found = sorted(str(path.relative_to(stage)) for path in stage.rglob("*") if path.is_file())
    assert found == [".gitignore", "affinity-config.yaml", "data/x.parquet", "mine.py", "run_study.py"]


def test_a_folder_too_large_to_travel_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(job_package, "LARGEST_BYTES", 10)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x").write_bytes(b"x" * 11)
    with pytest.raises(UserError, match=r"--working-dir .*mine holds more than 0 MiB"):
        package(config_of(YEAST), "/s", tmp_path / "mine", installed=True, stage=tmp_path / "job")


def test_the_folder_of_a_config_that_names_a_function_travels(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"data": FUNCTION}))
    assert working_dir(config_of(FUNCTION), None, path) == tmp_path
    assert working_dir(config_of(YEAST), None, path) is None
    assert working_dir(config_of(FUNCTION), tmp_path / "..", path) == tmp_path / ".."
    with pytest.raises(UserError, match=r"--working-dir .*gone: no folder"):
        working_dir(config_of(YEAST), tmp_path / "gone", path)


@pytest.mark.parametrize("path", ["/data/x.parquet", "s3://bucket/x.parquet", "here.parquet", "./sub/../here.parquet"])
def test_paths_that_mean_something_to_the_job(path, tmp_path):
    (tmp_path / "here.parquet").touch()
    check_data_paths(config_of({"source": "parquet", "path": path}), tmp_path)


@pytest.mark.parametrize(
    ("data", "folder", "message"),
    [
        ({"path": "x.parquet"}, None, "`data.path`: x.parquet is relative.*--working-dir DIR"),
        ({"path": "x.parquet"}, "mine", "`data.path`: x.parquet is not in --working-dir .*mine"),
        ({"path": "../outside.parquet"}, "mine", r"`data.path`: \.\./outside.parquet leads out of --working-dir"),
        ({"path": "~/x.parquet"}, "mine", "`data.path`: ~/x.parquet is not in"),
        ({"source": "arff", "path": "/x.arff", "labels": "x.xml"}, None, "`data.labels`: x.xml is relative"),
    ],
)
def test_paths_that_the_job_would_not_find(data, folder, message, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "outside.parquet").touch()
    with pytest.raises(UserError, match=message):
        check_data_paths(config_of({"source": "parquet", **data}), tmp_path / folder if folder else None)


def test_a_study_has_one_meaning_everywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = config_of(YEAST)
    assert study_location(None, config) == str(tmp_path / "studies" / "mine")
    assert study_location("here", config) == str(tmp_path / "here")
    assert study_location("s3://bucket/s/", config) == "s3://bucket/s"


@pytest.mark.parametrize(
    "address", ["127.0.0.1:8265", "ray://head:10001", "auto", "http://", "http://h:port", "ftp://h"]
)
def test_an_address_that_is_no_url_is_refused(address):
    with pytest.raises(UserError, match="expected the URL of the cluster's dashboard"):
        _url(address)


def test_addresses_with_and_without_port():
    assert _url("http://head:8265/") == "http://head:8265"
    assert _url("https://ray.example.org/cluster") == "https://ray.example.org/cluster"


def test_provenance_that_travels_is_json(tmp_path):
    job = package(config_of(YEAST), "/s", None, installed=False, stage=tmp_path / "job")
    assert set(json.loads(job.runtime_env["env_vars"][CARRIED])) == {"version", "commit", "schema_version"}


def test_both_files_of_a_snap_graph_are_looked_for_and_counts_are_no_paths(tmp_path):
    (tmp_path / "e.txt").write_text("")
    snap = config_of({"source": "snap", "edges": "e.txt", "communities": "c.txt"})
    with pytest.raises(UserError, match=r"`data\.communities`: c\.txt is not in --working-dir"):
        check_data_paths(snap, tmp_path)
    check_data_paths(config_of({"source": "generated_graph", "nodes": 10**6, "edges": 10**6}), None)
