"""A plan grows with what there is to do, and says so in words."""

from __future__ import annotations

import dataclasses
import io
import json

import pytest
from rich.console import Console

from affinity_service.engine.group_trials import STACKABLE_PARAMETERS
from affinity_service.planning import plan_study
from affinity_service.planning.machine import Rates, inspect_machine
from affinity_service.planning.view import assumptions, duration, plan_table, size
from affinity_service.planning.workload import STACKABLE_PARAMETERS as PLANNED_STACKABLE
from affinity_service.stages import stages_of

QUANTITIES = ("seconds", "flops", "bytes", "disk_bytes")


def planned(config, work, machine):
    return {stage.name: stage for stage in plan_study(config, work, machine).stages}


def test_the_rows_are_the_stages_of_the_driver(config, workload, machine):
    assert list(planned(config(), workload(), machine)) == [
        stage.name for stage in stages_of(config()) if not stage.optional
    ]
    assert PLANNED_STACKABLE == STACKABLE_PARAMETERS


def test_constants_are_those_of_the_code_that_is_planned():
    """Repeated in the plan, which must not load torch and Ray to refuse what cannot fit."""
    from affinity_service.affinity import build, linearized, trained
    from affinity_service.engine import analysis
    from affinity_service.fitting import path
    from affinity_service.gradients import subspace_basis
    from affinity_service.grouping import direct
    from affinity_service.planning import flops, memory, seconds

    for name in ("MEANS_SHARE", "OVERSAMPLING", "POWER_ITERATIONS"):
        assert getattr(flops, name) == getattr(subspace_basis, name)
    assert seconds.DIRECT_MOST == direct.MOST
    assert flops.TRAINED_SEEDS == trained.SEEDS
    assert flops.GROUP_SEEDS == analysis.GROUP_SEEDS
    assert flops.LONGEST_STRIDE == path.LONGEST_STRIDE
    assert PLANNED_STACKABLE == build.SMALL_NETWORK
    for name in ("PATH_BYTES", "PATH_COPIES"):
        assert getattr(memory, name) == getattr(linearized, name)


@pytest.mark.parametrize(
    ("more", "stages"),
    [
        ({"rows": 14_500}, ("base_model", "gradients", "fits", "group_models")),
        ({"tasks": 40}, ("base_model", "gradients", "fits", "affinity", "groups", "group_models")),
        ({"hidden": (640, 64)}, ("base_model", "gradients", "group_models")),
        ({"inputs": 1030}, ("base_model", "gradients", "group_models")),
    ],
)
def test_more_data_costs_more(more, stages, config, workload, machine):
    less, grown = (planned(config(), workload(**sizes), machine) for sizes in ({}, more))
    for name in less:
        for quantity in QUANTITIES:
            assert getattr(grown[name], quantity) >= getattr(less[name], quantity), (name, quantity)
    for name in stages:
        assert grown[name].seconds > less[name].seconds


@pytest.mark.parametrize(
    ("section", "change", "stage"),
    [
        ("fits", {"subsets": 4000}, "fits"),
        ("gradients", {"dimension": 800}, "gradients"),
        ("gradients", {"reduction": "exact"}, "fits"),
        ("base", {"epochs": 400}, "base_model"),
        ("group_models", {"seeds": 30}, "group_models"),
    ],
)
def test_larger_settings_cost_more(section, change, stage, config, workload, machine):
    less = planned(config(), workload(), machine)[stage]
    grown = planned(config(**{section: change}), workload(), machine)[stage]
    assert grown.seconds > less.seconds
    assert grown.flops > less.flops
    assert grown.bytes >= less.bytes


def test_groups_by_their_own_losses_cost_estimates(config, workload, machine):
    times = {m: planned(config(groups={"method": m}), workload(), machine)["groups"].seconds for m in ("sdp", "direct")}
    assert times["direct"] > times["sdp"] + 1
    probed = planned(config(groups={"method": "direct", "probe": True}), workload(), machine)["groups"]
    assert probed.seconds > times["direct"]
    assert probed.flops > 0


def test_more_workers_take_less_time_and_more_memory_up_to_the_cores(config, workload, machine):
    large, one, two, many = (
        planned(config(fits={"workers": n, "subsets": 40_000}), workload(), machine)["fits"] for n in (4, 1, 2, 64)
    )
    assert large.seconds < two.seconds < one.seconds
    assert large.bytes > two.bytes > one.bytes
    assert many == large
    assert large.workers == machine.cores


def test_slower_or_busier_machines_take_longer(config, workload, machine):
    slow = dataclasses.replace(machine, rates=Rates(gemm=1e10, linear=1e10, elements=1e9, interpreter=3))
    busy = dataclasses.replace(machine, rates=Rates(share=0.25))
    normal = plan_study(config(), workload(), machine).total_seconds
    assert plan_study(config(), workload(), slow).total_seconds > 2 * normal
    assert plan_study(config(), workload(), busy).total_seconds > 2 * normal


def test_gpus_take_memory_only_where_they_are_used(config, workload, machine):
    gpu = dataclasses.replace(machine, gpus=(80 * 10**9,))
    with_gpu = planned(config(), workload(), gpu)
    assert all(with_gpu[name].gpu_bytes > 0 for name in ("base_model", "gradients", "fits", "group_models"))
    assert with_gpu["fits"].workers == 1
    assert all(stage.gpu_bytes == 0 for stage in planned(config(), workload(), machine).values())
    without = planned(config(resources={"gpus": 0}), workload(), gpu)
    assert all(stage.gpu_bytes == 0 for stage in without.values())


def test_epochs_lie_between_the_fewest_and_the_most(config, workload, machine):
    open_end = plan_study(config(base={"epochs": 40, "patience": 5}), workload(), machine)
    fewest, expected, most = open_end.epochs
    assert (fewest, most) == (6, 40)
    assert most / expected == pytest.approx(expected / fewest)
    assert open_end.most_seconds > open_end.total_seconds
    certain = plan_study(config(base={"epochs": 4, "patience": 5}), workload(), machine)
    assert certain.epochs == (4, 4, 4)
    assert certain.most_seconds == certain.total_seconds


def test_the_table_and_the_json_say_the_same(config, workload, machine):
    found = plan_study(config(), workload(), machine)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(plan_table(found))
    text = console.export_text()
    content = json.loads(json.dumps(found.to_dict()))
    for stage in content["stages"]:
        assert stage["name"].replace("_", " ") in text
        assert size(stage["bytes"]) in text
    assert duration(content["total"]["seconds"]) in text
    assert "between 6 and 40" in assumptions(found)
    assert "busy" not in assumptions(found)


def test_this_machine_is_inspected_and_calibrated(tmp_path):
    machine = inspect_machine(tmp_path / "not" / "there" / "yet")
    assert machine.cores >= 1
    assert 0 < machine.free_memory <= machine.memory
    assert machine.free_disk > 0
    rates = machine.calibrated().rates
    assert rates.gemm > 1e8
    assert 0 < rates.share <= 1


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (48e9, "48.0 GB"), (250e9, "250 GB"), (3e17, "300 PB")],
)
def test_sizes_read_well(value, text):
    assert size(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.3, "0.3 s"), (42, "42 s"), (600, "10 min"), (3 * 3600, "3.0 h")])
def test_durations_read_well(value, text):
    assert duration(value) == text
