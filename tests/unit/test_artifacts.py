import os
import subprocess
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pytest

from affinity_service.artifacts import StudyFolder, fingerprint
from affinity_service.errors import UserError
from affinity_service.lock import driver_lock
from affinity_service.tables import read_table, write_table


@pytest.fixture
def folder(tmp_path):
    return StudyFolder.at(tmp_path / "study")


def test_a_file_appears_only_when_it_is_whole(folder):
    def interrupted():
        with folder.writing("a/b.bin") as stream:
            stream.write(b"half")
            assert not folder.exists("a/b.bin")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert folder.list("a/") == []
    assert os.listdir(folder.local_path("a")) == []
    folder.write_bytes("a/b.bin", b"whole")
    assert folder.list("a/") == ["a/b.bin"]
    assert folder.read_bytes("a/b.bin") == b"whole"


def test_leftover_parts_are_not_listed(folder):
    folder.write_bytes("a/b.bin", b"x")
    Path(folder.local_path("a/c.bin.123.part")).write_bytes(b"half")
    assert folder.list("a/") == ["a/b.bin"]


def finish(folder, wanted, identity=None):
    folder.complete("fits", wanted, ("fits/",), {"seconds": 1.0}, identity)


def test_a_stage_is_done_under_its_fingerprint_and_with_its_files_only(folder):
    folder.begin("fits", "f1", ("fits/",))
    folder.write_bytes("fits/a", b"12345")
    assert not folder.is_done("fits", "f1")
    finish(folder, "f1")
    assert folder.is_done("fits", "f1")
    assert not folder.is_done("fits", "f2")
    folder.write_bytes("fits/a", b"1")
    assert not folder.is_done("fits", "f1")
    folder.delete("fits/a")
    assert not folder.is_done("fits", "f1")


def test_an_interrupted_stage_keeps_its_pieces_unless_the_fingerprint_changed(folder):
    first = folder.begin("fits", "f1", ("fits/",))
    folder.write_bytes("fits/a", b"x")
    with folder.counting_seconds(first, every=0.01):
        time.sleep(0.1)
    again = folder.begin("fits", "f1", ("fits/",))
    assert again.attempt == first.attempt
    assert 0.01 <= again.seconds < 10
    assert folder.exists("fits/a")
    other = folder.begin("fits", "f2", ("fits/",))
    assert other.attempt != first.attempt
    assert other.seconds == 0
    assert not folder.exists("fits/a")


def test_a_stage_run_again_has_a_new_identity_unless_it_names_its_content(folder):
    seen = set()
    for _ in range(2):
        folder.begin("fits", "f1", ("fits/",))
        finish(folder, "f1")
        seen.add(folder.manifest("fits")["identity"])
    assert len(seen) == 2
    finish(folder, "f1", identity="content")
    assert folder.manifest("fits")["identity"] == "content"


def test_fingerprints_ignore_the_order_of_keys():
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_broken_json_and_tables_are_named(folder):
    folder.write_bytes("groups.json", b"{")
    with pytest.raises(UserError, match=r"`groups.json` is not valid JSON"):
        folder.read_json("groups.json")
    with pytest.raises(UserError, match=r"`suite.json` is missing; run the study first"):
        folder.read_json("suite.json")
    write_table(folder, "t.parquet", pa.table({"a": [1]}))
    folder.write_bytes("t.parquet", folder.read_bytes("t.parquet")[:-9])
    with pytest.raises(UserError, match=r"`t.parquet` cannot be read"):
        read_table(folder, "t.parquet")


def test_a_remote_filesystem_serves_and_shows_nothing_half():
    remote = StudyFolder.at("mock:///bucket/study")
    assert not remote.is_local
    remote.begin("fits", "f1", ("fits/",))

    def interrupted():
        with remote.writing("fits/half") as stream:
            stream.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    remote.write_bytes("fits/a", b"x" * 10)
    assert remote.list("fits/") == ["fits/a"]
    finish(remote, "f1")
    assert remote.is_done("fits", "f1")
    assert remote.local_path("fits/a").read_bytes() == b"x" * 10


def test_copies_of_a_remote_study_lie_where_nobody_else_can_put_some(tmp_path, monkeypatch):
    remote = StudyFolder.at("mock:///bucket/study")
    remote.write_bytes("fits/a", b"x" * 10)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    place = tmp_path / f"affinity-cache-{os.getuid()}"
    (tmp_path / "elsewhere").mkdir()
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="remove it, or set TMPDIR"):
        remote.local_path("fits/a")
    assert os.listdir(tmp_path / "elsewhere") == []
    place.unlink()
    assert remote.local_path("fits/a").is_relative_to(place)
    assert place.stat().st_mode & 0o777 == 0o700
    place.chmod(0o777)
    with pytest.raises(UserError, match="remove it, or set TMPDIR"):
        remote.local_path("fits/a")


def test_a_file_uri_is_a_local_folder(tmp_path):
    assert StudyFolder.at(f"file://{tmp_path}/study") == StudyFolder.at(tmp_path / "study")


def test_an_unknown_storage_is_named():
    with pytest.raises(UserError, match="nosuch://x: not a storage"):
        StudyFolder.at("nosuch://x").exists("a")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_and_a_read_only_disk_are_named_and_keep_what_is_there(small_disk):
    folder = StudyFolder.at(small_disk / "study")
    folder.write_bytes("kept", b"x" * 1000)
    with pytest.raises(UserError, match=r"`big` cannot be written: No space left on device; make room"):
        folder.write_bytes("big", b"x" * 100_000)
    assert folder.list("") == ["kept"]
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with (
        pytest.raises(UserError, match=r"`driver.lock` cannot be written: Read-only file system"),
        driver_lock(StudyFolder.at(small_disk / "other")),
    ):
        pass
    assert folder.read_bytes("kept") == b"x" * 1000
