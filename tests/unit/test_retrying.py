"""A storage that fails for a while is waited for, not for ever, and not where waiting helps nothing."""

from __future__ import annotations

import errno
import logging
import pickle
from types import SimpleNamespace

import pyarrow as pa
import pytest
from fsspec.implementations.local import LocalFileSystem
from pyarrow import fs

from affinity_service import lock, retrying
from affinity_service.artifacts import StudyFolder
from affinity_service.config import ResourceConfig
from affinity_service.engine import scratch
from affinity_service.engine.scratch import remove_scratch, scratch_of
from affinity_service.errors import StorageError, UserError
from affinity_service.lock import driver_lock
from affinity_service.retrying import passes, patiently
from affinity_service.tables import read_table, write_table

# As pyarrow words them.
BUSY = "When getting information for key 'x': AWS Error UNKNOWN (HTTP status 503) during HeadObject operation: No body."
DOWN = "AWS Error NETWORK_CONNECTION during PutObject operation: curlCode: 7, Could not connect to server"
DENIED = "AWS Error ACCESS_DENIED during HeadObject operation: No response body."
NO_BUCKET = "AWS Error NO_SUCH_BUCKET during CreateMultipartUpload operation: The specified bucket does not exist"


class Failing(fs.FSSpecHandler):
    """A file system on this disk whose next `failures` operations raise."""

    def __init__(self) -> None:
        super().__init__(LocalFileSystem())
        self.failures, self.text = 0, BUSY


def _failing_first(name):
    whole = getattr(fs.FSSpecHandler, name)

    def operation(self, *arguments, **named):
        if self.failures > 0:
            self.failures -= 1
            raise OSError(self.text)
        return whole(self, *arguments, **named)

    return operation


for _name in (
    *("get_file_info", "get_file_info_selector", "create_dir", "delete_dir", "delete_dir_contents", "delete_file"),
    *("open_input_stream", "open_input_file", "open_output_stream"),
):
    setattr(Failing, _name, _failing_first(_name))


@pytest.fixture
def naps(monkeypatch):
    """Pauses are taken down, not slept; the clock moves by them."""
    taken: list[float] = []
    monkeypatch.setattr(retrying.time, "sleep", taken.append)
    monkeypatch.setattr(retrying.time, "monotonic", lambda: 100.0 + sum(taken))
    return taken


@pytest.fixture
def failing(tmp_path, naps):
    """A folder on a remote storage, and the storage."""
    handler = Failing()
    folder = StudyFolder("s3://bucket/study")
    folder._filesystem["fs"] = fs.SubTreeFileSystem(str(tmp_path / "store"), fs.PyFileSystem(handler))
    folder.write_bytes("there", b"content")
    return folder, handler


OPERATIONS = {
    "exists": lambda f: f.exists("there"),
    "sizes": lambda f: f.sizes(["there"]) == {"there": 7},
    "list": lambda f: f.list("") == ["there"],
    "read": lambda f: f.read_bytes("there") == b"content",
    "write": lambda f: f.write_bytes("new", b"12") is None and f.read_bytes("new") == b"12",
    "copy": lambda f: f.local_path("there").read_bytes() == b"content",
    "delete": lambda f: f.delete("there") is None and not f.exists("there"),
    "table": lambda f: write_table(f, "t", pa.table({"a": [1]})) is None and read_table(f, "t").num_rows == 1,
    "json": lambda f: f.write_json("j", {"a": 1}) is None and f.read_json("j") == {"a": 1},
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("text", [BUSY, DOWN])
def test_every_operation_outlasts_a_storage_that_fails_for_a_while(name, text, failing, naps, caplog):
    folder, storage = failing
    storage.failures, storage.text = 4, text
    with caplog.at_level(logging.WARNING, "affinity_service"):
        assert OPERATIONS[name](folder)
    assert len(naps) == 4
    assert all(0.5 * 0.5 * 2**n <= nap <= 0.5 * 2**n for n, nap in enumerate(naps))
    assert len(caplog.records) == 4
    assert text in caplog.text
    assert "study s3://bucket/study: `" in caplog.text


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_storage_that_goes_on_failing_is_named_with_its_last_error(name, failing, naps):
    folder, storage = failing
    storage.failures = 10**9
    with pytest.raises(StorageError) as caught:
        OPERATIONS[name](folder)
    message = str(caught.value)
    for part in ("study s3://bucket/study: `", "failed", "times in", BUSY, "the same command continues", "PATIENCE"):
        assert part in message
    assert 60 < sum(naps) <= 120
    assert len(naps) < 20


def test_the_patience_is_a_variable_a_field_and_travels_with_the_folder(failing, naps, monkeypatch):
    folder, storage = failing
    storage.failures = 10**9
    monkeypatch.setenv("AFFINITY_STORAGE_PATIENCE", "0")
    with pytest.raises(StorageError, match="failed 1 time in 0 s"):
        folder.exists("there")
    assert naps == []
    monkeypatch.setenv("AFFINITY_STORAGE_PATIENCE", "soon")
    with pytest.raises(UserError, match=r"AFFINITY_STORAGE_PATIENCE is 'soon'; expected seconds"):
        folder.exists("there")
    assert pickle.loads(pickle.dumps(StudyFolder("s3://bucket/study", patience=3.0))).patience == 3.0


@pytest.mark.parametrize("text", [DENIED, NO_BUCKET])
@pytest.mark.parametrize("name", ["exists", "write", "table"])
def test_a_refusal_is_told_at_once(name, text, failing, naps):
    folder, storage = failing
    storage.failures, storage.text = 1, text
    with pytest.raises(UserError, match=r"the storage refuses us: .*credentials of this machine") as caught:
        OPERATIONS[name](folder)
    assert not isinstance(caught.value, StorageError)
    assert naps == []


def test_a_missing_file_is_no_failure(failing, naps):
    folder, _storage = failing
    with pytest.raises(FileNotFoundError):
        folder.read_bytes("nowhere")
    with pytest.raises(UserError, match="`nowhere` is missing; run the study first"):
        folder.read_json("nowhere")
    assert naps == []


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionResetError("gone"), True),
        (TimeoutError(), True),
        (OSError(errno.ETIMEDOUT, "x"), True),
        (OSError("AWS Error SLOW_DOWN during PutObject operation: Please reduce your request rate."), True),
        (OSError("AWS Error UNKNOWN (HTTP status 429) during HeadObject operation: No response body."), True),
        (OSError("curlCode: 28, Timeout was reached"), True),
        (OSError("google::cloud::Status(UNAVAILABLE: try again)"), True),
        (OSError("AWS Error UNKNOWN (HTTP status 404) during HeadObject operation"), False),
        (OSError(DENIED), False),
        (OSError(NO_BUCKET), False),
        (FileNotFoundError(errno.ENOENT, "x"), False),
        (PermissionError(errno.EACCES, "x"), False),
        (OSError(errno.ENOSPC, "full"), False),
    ],
)
def test_which_errors_pass(error, expected):
    assert passes(error) is expected


def test_errors_of_the_code_itself_are_not_tried_again(naps):
    def wrong():
        raise ValueError("HTTP status 503")

    with pytest.raises(ValueError, match="503"):
        patiently("x", wrong)
    assert naps == []


def test_a_lease_is_not_given_up_by_a_storage_that_fails_when_it_is_to_be_renewed(monkeypatch):
    folder = StudyFolder.at("mock:///bucket/study")
    monkeypatch.setattr(lock, "RENEW_SECONDS", 0.05)
    answers = iter([StorageError("busy"), OSError("odd"), StorageError("busy")])
    whole = StudyFolder.exists

    def exists(self, name):
        if self.patience is not None and (error := next(answers, None)) is not None:
            raise error
        return whole(self, name)

    with driver_lock(folder) as check:
        monkeypatch.setattr(StudyFolder, "exists", exists)
        first = folder.read_json(lock.LOCK)["renewed"]
        end = retrying.time.monotonic() + 5
        while folder.read_json(lock.LOCK)["renewed"] == first and retrying.time.monotonic() < end:
            retrying.time.sleep(0.02)
        assert folder.read_json(lock.LOCK)["renewed"] > first
        check()
    assert next(answers, None) is None


def test_scratch_is_made_and_removed_through_failures(tmp_path, naps, monkeypatch):
    handler, place = Failing(), tmp_path / "store" / "place"
    opened = SimpleNamespace(from_uri=lambda uri: (fs.PyFileSystem(handler), str(place)))
    monkeypatch.setattr(scratch, "fs", SimpleNamespace(FileSystem=opened, FileType=fs.FileType))
    handler.failures = 2
    scratch_of(StudyFolder("s3://bucket/study"), ResourceConfig(scratch="s3://bucket/scratch"), "a")
    assert place.is_dir()
    handler.failures = 2
    remove_scratch("s3://bucket/scratch")
    assert not place.exists()
    remove_scratch("s3://bucket/scratch")
    assert len(naps) == 4
