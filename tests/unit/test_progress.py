"""What a run leaves of its way for others to see."""

import json
from pathlib import Path

from affinity_service.artifacts import StudyFolder
from affinity_service.progress import PROGRESS, ProgressFile, Several, read_progress
from affinity_service.reporter import LogReporter


def test_stages_and_counts_are_written_at_most_once_a_second(tmp_path):
    now = [100.0]
    folder = StudyFolder.at(tmp_path)
    reporter = ProgressFile(folder, clock=lambda: now[0])
    reporter.started("fits")
    assert read_progress(folder)["stage"] == "fits"
    reporter.progress(1, 4, "tiles")
    assert "done" not in read_progress(folder)["stages"]["fits"]
    now[0] += 1.0
    reporter.progress(2, 4, "tiles")
    assert read_progress(folder)["stages"]["fits"] == {
        "state": "running", "started": 100.0, "done": 2, "total": 4, "text": "tiles"
    }  # fmt: skip
    # A clock that goes back does not silence it.
    now[0] -= 50
    reporter.progress(3, 4, "tiles")
    assert read_progress(folder)["stages"]["fits"]["done"] == 3
    reporter.finished("fits", 2.5, False)
    found = read_progress(folder)
    assert (found["stage"], found["stages"]["fits"]["state"]) == (None, "done")


def test_a_storage_that_fails_ends_nothing(tmp_path):
    folder = StudyFolder.at(tmp_path / "study")
    (tmp_path / "study").write_text("a file where the folder should be")
    reporter = Several(LogReporter(), ProgressFile(folder))
    reporter.progress(0, 1, "before any stage")
    reporter.started("fits")
    reporter.progress(1, 1, "x")
    reporter.warn("y")
    reporter.finished("fits", 1.0, True)


def test_what_cannot_be_read_is_nothing(tmp_path):
    folder = StudyFolder.at(tmp_path)
    assert read_progress(folder) == {}
    for content in ("", "[1]", '{"a":', "\0"):
        Path(tmp_path, PROGRESS).write_text(content)
        assert read_progress(folder) == {}
    Path(tmp_path, PROGRESS).write_text(json.dumps({"stage": "fits"}))
    assert read_progress(folder) == {"stage": "fits"}
