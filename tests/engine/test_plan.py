"""What was planned against what a run then takes."""

from __future__ import annotations

import dataclasses

import pytest

from affinity_service import Study, UserError
from affinity_service.artifacts import StudyFolder
from affinity_service.planning import calibrate, inspect_machine, plan_study
from affinity_service.planning.workload import Workload
from affinity_service.tasks import load_suite
from tests.suites import mixed_suite

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("ray_session")]


def test_a_run_takes_what_was_planned_within_a_factor_of_two(small_config, tmp_path):
    config = small_config(mixed_suite(rows=900), base={"epochs": 6, "patience": 6}, gradients={"shard_rows": 4096})
    work, machine = Workload.of(config, load_suite(config.data)), inspect_machine(tmp_path)
    before = plan_study(config, work, dataclasses.replace(machine, rates=calibrate()))
    study = Study.run(config, tmp_path / "study", until="affinity")
    # Other programs slow a run down or let it go: the plan at its end knows them as well.
    after = plan_study(config, work, dataclasses.replace(machine, rates=calibrate()))
    # What a process obtains may have changed in between by as much as the machine is busy.
    factor = 2 / min(plan.machine.rates.share for plan in (before, after))
    timings = study.folder.read_json("timings.json")["stages"]
    assert [timing["name"] for timing in timings] == ["base_model", "gradients", "fits", "affinity"]
    for timing, early, late in zip(timings, before.stages, after.stages, strict=False):
        assert timing["flops"] / 2 <= early.flops <= 2 * timing["flops"], timing
        assert timing["peak_bytes"] / 2 <= early.bytes <= 2 * timing["peak_bytes"], timing
        assert timing["workers"] == early.workers
        if timing["seconds"] >= 1:
            fast, slow = sorted((early.seconds, late.seconds))
            assert fast / factor <= timing["seconds"] <= factor * slow, timing
    written = sum(study.folder.sizes(study.folder.list("gradients/") + study.folder.list("fits/")).values())
    planned = sum(stage.disk_bytes for stage in before.stages[1:3])
    assert written / 2 <= planned <= 2 * written


def test_a_run_that_cannot_fit_is_refused_before_it_starts(small_config, tmp_path):
    config = small_config(mixed_suite(rows=300), gradients={"dimension": 10**9})
    with pytest.raises(UserError, match=r"memory: lower gradients.dimension from 1000000000 to \d+"):
        Study.run(config, tmp_path / "study")
    assert not StudyFolder.at(tmp_path / "study").exists("timings.json")
