"""What cannot fit is refused at once, with the number to change."""

from __future__ import annotations

import dataclasses
import re
import time

import pytest

from affinity_service.artifacts import StudyFolder
from affinity_service.config import Config
from affinity_service.errors import UserError
from affinity_service.planning import check_fits, limits, plan_study, refuse_if_too_large
from affinity_service.planning.workload import Workload
from affinity_service.tasks import load_suite
from tests.suites import mixed_suite

GB = 10**9


def changed(config: Config, knob: str, value: int) -> Config:
    section, key = knob.split(".")
    return Config.parse({**config.model_dump(), section: {**getattr(config, section).model_dump(), key: value}})


@pytest.mark.parametrize(
    ("sections", "hidden", "knob"),
    [
        (
            {"gradients": {"reduction": "rademacher", "dimension": 8000}, "fits": {"workers": 4}},
            (64, 64),
            "fits.workers",
        ),
        ({"gradients": {"reduction": "rademacher", "dimension": 100_000}}, (64, 64), "gradients.dimension"),
        ({"group_models": {"models_per_trial": 5000, "seeds": 1000}}, (512,), "group_models.models_per_trial"),
    ],
)
def test_the_refusal_names_a_number_that_then_fits(sections, hidden, knob, config, workload, machine):
    settings = config(model={"hidden": list(hidden)}, **sections)
    work = workload(hidden=hidden)
    with pytest.raises(UserError, match=r"need [\d.]+ [GT]B of 22.8 GB memory") as refusal:
        check_fits(plan_study(settings, work, machine))
    found = re.search(r"lower ([\w.]+) from (\d+) to (\d+)", str(refusal.value))
    assert found, refusal.value
    name, now, value = found[1], int(found[2]), int(found[3])
    assert name == knob
    assert 0 < value < now
    check_fits(plan_study(changed(settings, name, value), work, machine))


def test_exact_gradients_of_a_large_model_are_to_be_reduced(config, workload, machine):
    settings = config(gradients={"reduction": "exact"})
    with pytest.raises(UserError, match=r"set gradients.reduction to subspace \(400 numbers per gradient"):
        check_fits(plan_study(settings, workload(hidden=(4000,)), machine))


def test_a_model_too_large_for_the_memory(config, workload, machine):
    settings = config(model={"hidden": [90_000, 90_000]}, group_models={"seeds": 1})
    with pytest.raises(UserError, match=r"lower model.hidden from 90000 to \d+"):
        check_fits(plan_study(settings, workload(hidden=(90_000, 90_000)), machine))


def test_the_disk_and_what_lies_on_it_already(config, workload, machine):
    found = plan_study(config(), workload(), machine)
    needed = sum(stage.disk_bytes for stage in found.stages)
    full = dataclasses.replace(machine, free_disk=needed - 10**6)
    with pytest.raises(UserError, match=r"the study's files need .* free disk: lower gradients.dimension from 400 to"):
        check_fits(plan_study(config(), workload(), full))
    check_fits(plan_study(config(), workload(), full), stored_bytes=2 * 10**6)


def test_the_memory_of_a_gpu(config, workload, machine):
    gpu = dataclasses.replace(machine, memory=10**12, gpus=(8 * GB,))
    check_fits(plan_study(config(), workload(), gpu))
    with pytest.raises(UserError, match=r"of 8.0 GB GPU memory: lower gradients.dimension from 50000 to \d+"):
        check_fits(plan_study(config(gradients={"dimension": 50_000}), workload(), gpu))


def test_only_the_stages_that_will_run_are_asked(config, workload, machine):
    found = plan_study(config(gradients={"dimension": 100_000}), workload(), machine)
    check_fits(found, last="base_model")
    check_fits(found, first="group_models", last="group_models") if found.stages[5].bytes < 22 * GB else None
    with pytest.raises(UserError):
        check_fits(found, first="fits", last="affinity")


def test_a_hundred_gigabytes_are_refused_within_two_seconds(config, tmp_path, monkeypatch, machine):
    monkeypatch.setattr(limits, "inspect_machine", lambda _: machine)
    suite = load_suite(config().data)
    settings = config(gradients={"dimension": 1_000_000})
    work = Workload.of(settings, suite)
    assert work.labels * 4 * settings.gradients.dimension > 100 * GB
    start = time.perf_counter()
    with pytest.raises(UserError, match=r"lower gradients.dimension from 1000000 to \d+"):
        refuse_if_too_large(settings, suite, StudyFolder.at(tmp_path))
    assert time.perf_counter() - start < 2


def test_a_small_study_fits_here(config, tmp_path):
    suite = mixed_suite(rows=300)
    refuse_if_too_large(config(model={"hidden": [8]}), suite, StudyFolder.at(tmp_path))
