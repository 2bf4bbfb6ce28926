"""Each check finds what is wrong, and nothing where nothing is."""

from __future__ import annotations

import json
import platform
import resource
import sys
import tempfile
from collections import namedtuple
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from affinity_service import cli, cli_doctor
from affinity_service.doctor import gpus, memory, storage, system, tokens
from affinity_service.doctor.finding import Finding, look_over
from affinity_service.errors import StorageError

Usage = namedtuple("Usage", "total used free")
GIB = 1 << 30


def only(findings) -> Finding:
    (found,) = findings
    return found


def test_this_environment_has_versions_within_the_bounds():
    found = list(system.package_versions())
    assert [each.state for each in found] == ["ok"], found
    assert int(found[0].found.split()[0]) > 15


def test_versions_out_of_bounds_and_missing_packages_fail_with_the_command_that_mends_them():
    lines = ["pyarrow>=900", "no-such-package-of-ours>=1", "numpy>=1", 'pytest>=900; extra == "dev"']
    low, gone, good = system.package_versions(lines)
    assert (low.state, gone.state, good.state) == ("fail", "fail", "ok")
    assert low.found == f"pyarrow is {metadata.version('pyarrow')}; needed: pyarrow >=900"
    assert low.fix == 'pip install "pyarrow>=900"'
    assert "no-such-package-of-ours is missing" in gone.found
    assert good.found == "1 dependencies within their bounds"


def test_an_old_python_fails(monkeypatch):
    assert only(system.python_version()).state == "ok"
    monkeypatch.setattr(platform, "python_version", lambda: "3.9.1")
    found = only(system.python_version())
    assert found.state == "fail"
    assert "3.9.1, outside" in found.found


def test_a_package_that_is_not_installed_is_said(monkeypatch):
    monkeypatch.setattr(system, "PACKAGE", "no-such-package-of-ours")
    assert only(system.python_version()).state == "warn"
    assert list(system.package_versions()) == []


def test_switched_off_bytecode_is_warned_of():
    assert only(system.bytecode({})).state == "ok"
    found = only(system.bytecode({"PYTHONDONTWRITEBYTECODE": "1"}))
    assert found.state == "warn"
    assert "unset PYTHONDONTWRITEBYTECODE" in found.fix


@pytest.mark.parametrize(
    ("limits", "state"),
    [((1024, 1024), "fail"), ((1024, 8192), "warn"), ((1024, 65536), "ok"), ((1024, resource.RLIM_INFINITY), "ok")],
)
def test_few_open_files(limits, state, monkeypatch):
    monkeypatch.setattr(system.resource, "getrlimit", lambda _: limits)
    found = only(system.open_files())
    assert found.state == state
    assert ("ulimit -n 65536" in found.fix) == (state != "ok")


@pytest.mark.parametrize(("total", "state"), [(64 << 20, "warn"), (4 * GIB, "ok")])
def test_small_shared_memory(total, state, monkeypatch, tmp_path):
    monkeypatch.setattr(memory.shutil, "disk_usage", lambda _: Usage(total, 0, total))
    found = only(memory.shared_memory(str(tmp_path), memory=10 * GIB))
    assert found.state == state
    if state == "warn":
        assert "0.1 GiB, less than Ray's object store would take (3.0 GiB)" in found.found
        assert "--shm-size 3g" in found.fix
    assert only(memory.shared_memory(str(tmp_path / "none"))).state == "ok"


def test_little_memory_is_warned_of(monkeypatch):
    machine = SimpleNamespace(cores=2, memory=10 * GIB, free_memory=GIB // 2)
    monkeypatch.setattr(memory, "inspect_machine", lambda: machine)
    assert only(memory.free_memory()).state == "warn"
    machine.free_memory = 5 * GIB
    assert only(memory.free_memory()).found == "2 cores, 5.0 of 10.0 GiB memory free"


def test_missing_compilers_are_warned_of(monkeypatch):
    monkeypatch.setattr(system.shutil, "which", lambda name: None)
    found = only(system.compilers())
    assert found.state == "warn"
    assert "g++ and ninja not found" in found.found
    monkeypatch.setattr(system.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert only(system.compilers()).state == "ok"


@pytest.fixture
def open_path():
    """A folder that everybody may pass; pytest's own are not."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.parametrize(("mode", "state"), [(0o600, "ok"), (0o440, "warn"), (0o644, "fail")])
def test_token_files_that_others_can_read(mode, state, open_path):
    tmp_path = open_path
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("secret")
    token.chmod(mode)
    *_, found = tokens.token_files({"HOME": str(tmp_path)})
    assert (found.state, str(token) in found.found) == (state, True)
    assert "secret" not in found.found
    service = tmp_path / "root" / ".service" / "tokens.json"
    service.parent.mkdir(parents=True)
    service.write_text("{}")
    service.chmod(mode)
    for study in (tmp_path / "root", tmp_path / "root" / "yeast"):
        found = [each for each in tokens.token_files({"HOME": "/nowhere"}, str(study)) if str(service) in each.found]
        assert [each.state for each in found] == [state]


def test_a_token_in_a_folder_that_others_may_not_pass_is_safe(open_path):
    token = open_path / "home" / "token"
    token.parent.mkdir(mode=0o700)
    token.write_text("secret")
    token.chmod(0o644)
    assert only(tokens.permissions(token)).state == "ok"


def test_token_mode_without_a_token_fails(tmp_path):
    found = only(tokens.token_files({"RAY_AUTH_MODE": "token", "HOME": str(tmp_path)}))
    assert found.state == "fail"
    assert str(tmp_path / ".ray" / "auth_token") in found.found
    assert "ray get-auth-token --generate" in found.fix
    given = {"RAY_AUTH_MODE": "token", "HOME": str(tmp_path), "RAY_AUTH_TOKEN": "x"}
    assert only(tokens.token_files(given)).state == "ok"
    elsewhere = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "t")}
    assert str(tmp_path / "t") in only(tokens.token_files(elsewhere)).found


def fake_torch(monkeypatch, available, cuda):
    device = SimpleNamespace(
        is_available=lambda: available, device_count=lambda: 2, get_device_name=lambda index: "NVIDIA X"
    )
    module = SimpleNamespace(__version__="2.9", cuda=device, version=SimpleNamespace(cuda=cuda, hip=None))
    monkeypatch.setitem(sys.modules, "torch", module)


@pytest.mark.parametrize(
    ("available", "cuda", "state", "said"),
    [
        (True, "13.0", "ok", "2 × NVIDIA X; driver 580.65.06, torch 2.9"),
        (False, None, "fail", "built for CPUs only"),
        (False, "13.0", "fail", "driver 580.65.06 shows a GPU that torch 2.9 (CUDA 13.0) cannot use"),
    ],
)
def test_gpus_that_torch_cannot_use(available, cuda, state, said, tmp_path, monkeypatch):
    assert only(gpus.gpus(tmp_path)).found.startswith("none on this machine")
    (tmp_path / "nvidiactl").touch()
    driver = tmp_path / "version"
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27\n")
    fake_torch(monkeypatch, available, cuda)
    found = only(gpus.gpus(tmp_path, driver))
    assert found.state == state
    assert said in found.found
    assert bool(found.fix) == (state == "fail")


def test_a_place_for_studies_is_tried_and_left_as_it_was(tmp_path):
    place = tmp_path / "new" / "study"
    found = list(storage.study_storage(str(place)))
    assert [each.check for each in found] == ["storage", "free space"]
    assert found[0].state == "ok"
    assert not place.exists()
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "a").write_text("x")
    assert next(iter(storage.study_storage(str(tmp_path / "kept")))).state == "ok"
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["a"]


def test_a_place_that_cannot_be_written_fails(tmp_path):
    (tmp_path / "file").write_text("x")
    found = only(storage.study_storage(str(tmp_path / "file" / "study")))
    assert found.state == "fail"
    assert "cannot be written: Not a directory" in found.found
    assert only(storage.study_storage("nosuch://bucket/x")).state == "fail"


def test_storage_that_lies_or_does_not_answer_fails(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(storage.StudyFolder, "read_bytes", lambda self, name: b"stale")
        assert "does not give back" in only(storage.study_storage(str(tmp_path))).found
    with monkeypatch.context() as patch:

        def down(self, name, content):
            raise StorageError("the storage failed 3 times")

        patch.setattr(storage.StudyFolder, "write_bytes", down)
        assert "failed 3 times" in only(storage.study_storage(str(tmp_path))).found
    with monkeypatch.context() as patch:
        patch.setattr(storage.StudyFolder, "list", lambda self, name: [])
        assert only(storage.study_storage(str(tmp_path))).state == "fail"


@pytest.mark.parametrize(("free", "state"), [(GIB // 10, "fail"), (2 * GIB, "warn"), (50 * GIB, "ok")])
def test_little_space(free, state, monkeypatch, tmp_path):
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda _: Usage(100 * GIB, 0, free))
    assert only(storage.free_space(str(tmp_path / "not" / "yet"))).state == state


def test_a_check_that_breaks_does_not_hide_the_others():
    def broken():
        raise RuntimeError("oh")

    found = list(look_over([("a", broken), ("b", lambda: [Finding("b", "ok", "fine")])]))
    assert [each.state for each in found] == ["fail", "ok"]
    assert "RuntimeError: oh" in found[0].found


@pytest.mark.parametrize(("states", "code"), [(["ok", "warn"], 0), (["ok", "fail"], 1)])
def test_the_command_leaves_with_1_when_something_fails(states, code, monkeypatch):
    def some(*_):
        return [("x", lambda: [Finding(state, state, f"found [{state}]", "mend it") for state in states])]

    monkeypatch.setattr(cli_doctor, "checks", some)
    shown = CliRunner().invoke(cli.app, ["doctor", "--json"])
    assert shown.exit_code == code
    answer = json.loads(shown.output)
    assert answer["ok"] == (code == 0)
    assert [each["state"] for each in answer["findings"]] == states
    assert CliRunner().invoke(cli.app, ["doctor"]).exit_code == code


def test_the_quick_look_imports_neither_torch_nor_ray(tmp_path):
    import subprocess

    code = (
        "import sys; from affinity_service.cli_doctor import checks; from affinity_service.doctor.finding import "
        f"look_over; list(look_over(checks(None, {str(tmp_path)!r}, True))); "
        "print(sorted({'torch', 'ray', 'deepspeed'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
