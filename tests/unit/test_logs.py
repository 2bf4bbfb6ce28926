"""Logs for machines: every record is one line of JSON that says which study and stage it is of."""

from __future__ import annotations

import io
import json
import logging
import pickle

import pytest

from affinity_service import logs
from affinity_service.artifacts import StudyFolder
from affinity_service.cli import app, attempt
from affinity_service.errors import UserError


@pytest.fixture
def fresh(monkeypatch):
    """The process's log as it was, afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(logs, "_stamps", {})
    monkeypatch.delenv(logs.FORMAT, raising=False)
    yield monkeypatch
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def begin() -> io.StringIO:
    """The log set up as in a process of its own, where pytest's handlers are not."""
    logging.getLogger().handlers[:] = []
    stream = io.StringIO()
    logs.begin_logging(stream)
    return stream


def written(stream: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_every_record_is_a_line_with_study_and_stage(fresh):
    fresh.setenv(logs.FORMAT, "json")
    stream = begin()
    logs.stamp(study="yeast", stage="fits", job_id="01000000")
    logging.getLogger("affinity_service").warning("tile %d\nof many: “é”", 3)
    try:
        raise RuntimeError("gone\nwrong")
    except RuntimeError:
        logging.getLogger("elsewhere").exception("failed")
    logging.getLogger("x").warning("own", extra={"stage": "mine"})
    first, second, third = written(stream)
    assert first["message"] == "tile 3\nof many: “é”"
    assert (first["study"], first["stage"], first["job_id"]) == ("yeast", "fits", "01000000")
    assert (first["levelname"], first["name"]) == ("WARNING", "affinity_service")
    assert first["asctime"].endswith("Z")
    assert first["timestamp_ns"] > 1e18
    assert "RuntimeError: gone\nwrong" in second["exc_text"]
    assert second["study"] == "yeast"
    assert third["stage"] == "mine"


def test_the_stage_moves_on(fresh):
    fresh.setenv(logs.FORMAT, "json")
    stream = begin()
    for stage in ("fits", "affinity"):
        logs.stamp(study="s", stage=stage)
        logging.warning("x")
    assert [record["stage"] for record in written(stream)] == ["fits", "affinity"]


def test_a_folder_that_arrives_at_a_worker_says_whom_its_log_is_for(fresh):
    fresh.setenv(logs.FORMAT, "json")
    begin()
    logs.stamp(study="yeast", stage="gradients", job_id="01")
    sent = pickle.dumps(StudyFolder("/studies/yeast"))
    fresh.setattr(logs, "_stamps", {})
    assert pickle.loads(sent) == StudyFolder("/studies/yeast")
    # The worker is of the same job, which Ray knows itself.
    assert logs.stamps() == {"study": "yeast", "stage": "gradients"}
    assert logs._stamps == logs.stamps()


def test_text_is_as_ever(fresh):
    stream = begin()
    logs.stamp(study="yeast", stage="fits")
    logging.warning("plain")
    assert stream.getvalue().endswith(" WARNING plain\n")


def test_an_unknown_format_is_named_by_option_and_variable(fresh, capsys):
    assert attempt(lambda: app(["--log-format", "xml", "report", "nowhere"], standalone_mode=False)) == 2
    fresh.setenv(logs.FORMAT, "yaml")
    with pytest.raises(UserError, match=r"AFFINITY_LOG_FORMAT: found 'yaml'; expected text or json"):
        logs.begin_logging()
