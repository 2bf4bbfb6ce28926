"""What tasks do with the cores and devices they are given."""

from __future__ import annotations

import pytest
import torch

from affinity_service.engine.fits import fit_tile
from affinity_service.engine.group_models import _Refusal
from affinity_service.engine.group_trials import REFUSED
from affinity_service.engine.pool import task
from affinity_service.engine.threads import take_assigned_threads


def test_the_process_of_a_task_with_a_gpu_ends_with_it():
    of_gpu, of_cpu = (task(fit_tile, {"num_cpus": 1, "num_gpus": gpus}) for gpus in (0.5, 0))
    # What Ray keeps of the decorator: `max_calls` is no option of a call.
    assert [_default_options(each)["max_calls"] for each in (of_gpu, of_cpu)] == [1, 0]


def _default_options(wrapped) -> dict:
    (function,) = (
        cell.cell_contents for cell in wrapped.remote.__closure__ if hasattr(cell.cell_contents, "_default_options")
    )
    return {"max_calls": 0, **function._default_options}


@pytest.mark.parametrize(("given", "expected"), [("3", 3), ("2,1", 2), ("", 1), ("0", 1), ("all", 1)])
def test_threads_are_what_openmp_is_told(given, expected, monkeypatch):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        take_assigned_threads()
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


def test_trials_end_once_one_is_refused():
    stopper = _Refusal()
    assert not stopper("a", {"models": 1})
    assert not stopper.stop_all()
    assert not stopper("b", {REFUSED: "diverged"})
    assert stopper.stop_all()
