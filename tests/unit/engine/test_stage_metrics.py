"""What a stage tells the metrics, with instruments that write down instead of Ray's."""

from __future__ import annotations

import pytest

from affinity_service.artifacts import StudyFolder
from affinity_service.engine import driver, stage_metrics
from affinity_service.engine.context import StageOutcome
from affinity_service.engine.stage_metrics import FAILURES, GAUGES, StageMetrics, study_name
from affinity_service.stages import Stage
from tests.suites import mixed_suite


class Instrument:
    def __init__(self):
        self.values = []

    def set(self, value, tags):
        self.values.append((value, tags["study"], tags["stage"]))

    inc = set


@pytest.fixture
def told(monkeypatch):
    made = {name: Instrument() for name in (*GAUGES, FAILURES)}
    monkeypatch.setattr(stage_metrics, "_instruments", lambda: made)
    return made


class Quiet:
    def __getattr__(self, name):
        return lambda *_, **__: None


def run(tmp_path, monkeypatch, body):
    """One stage whose work is `body`."""
    from affinity_service.config import Config
    from affinity_service.engine import analysis

    monkeypatch.setattr(analysis, "body", body, raising=False)
    config = Config.parse(
        {"name": "c", "data": {"source": "yeast"}, "resources": {"scratch": str(tmp_path / "scratch")}}
    )
    stage = Stage("fits", (), (), ("fits/",), "analysis:body")
    folder = StudyFolder.at(tmp_path / "yeast")
    return driver._run_stage(stage, "f", config, folder, mixed_suite(), Quiet())


def test_a_stage_tells_its_pieces_and_what_it_took(told, tmp_path, monkeypatch):
    def body(context):
        context.progress(1, 4, "tiles")
        context.progress(4, 4, "tiles")
        return StageOutcome(12.0, 1)

    seconds = run(tmp_path, monkeypatch, body)
    values = {name.removeprefix("affinity_stage_"): made.values for name, made in told.items()}
    assert values["pieces_done"] == [(1.0, "yeast", "fits"), (4.0, "yeast", "fits")]
    assert values["pieces_total"] == [(4.0, "yeast", "fits")] * 2
    assert [value for value, *_ in values["running"]] == [1.0, 0.0]
    assert values["flops"] == [(12.0, "yeast", "fits")]
    assert values["seconds"][0][0] == pytest.approx(seconds)
    assert values["peak_bytes"][0][0] > 1e6
    assert values["failures"] == []


def test_a_stage_that_fails_is_counted_and_no_longer_running(told, tmp_path, monkeypatch):
    def body(context):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        run(tmp_path, monkeypatch, body)
    assert told[FAILURES].values == [(1.0, "yeast", "fits")]
    assert [value for value, *_ in told["affinity_stage_running"].values] == [1.0, 0.0]
    assert told["affinity_stage_seconds"].values == []


def test_without_a_connection_nothing_is_told(monkeypatch):
    monkeypatch.setattr(stage_metrics.sys, "modules", {})
    StageMetrics("s", "fits").set(running=1)
    StageMetrics("s", "fits").failed()


@pytest.mark.parametrize(
    ("root", "name"),
    [
        ("/studies/yeast", "yeast"),
        ("s3://key:secret@bucket/studies/a.b?endpoint_override=h:1", "a.b"),
        ("s3://bucket", "study"),
    ],
)
def test_a_study_is_named_by_the_end_of_its_path_and_by_no_key(root, name):
    assert study_name(root) == name
