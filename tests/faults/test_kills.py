"""Real processes and kill -9: every stage continues, nothing finished is computed twice, the matrix stays the same.

Once each in `make test`; `make faults` sets FAULT_REPEATS to repeat them.
"""

from __future__ import annotations

import pytest

from affinity_service import Study
from affinity_service.tables import read_table
from tests.faults.driving import REPEATS, driving, none_again, same_matrix

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1500)]


@pytest.mark.parametrize("repeat", REPEATS)
def test_a_killed_train_worker_gradient_actor_fit_task_and_trial_are_replaced(workspace, undisturbed, repeat):
    study = workspace / f"workers-{repeat}"
    with driving(workspace, study, "only", "group_models") as driver:
        driver.wait_until(lambda: driver.epochs() >= 1)
        driver.kill_worker("RayTrainWorker")
        driver.wait_until(lambda: driver.pieces("gradients/shard-*.arrow"))
        driver.kill_worker("GradientActor")
        driver.wait_until(lambda: len(driver.pieces("fits/tile-*.parquet")) >= 2)
        driver.kill_worker("fit_tile")
        driver.kill_worker("ImplicitFunc.train")
        driver.finish()
    same_matrix(study, undisturbed)
    results = read_table(Study.open(study).folder, "group_models/results.parquet").to_pandas()
    assert set(results.setting) == {"groups", "joint", "single", "random"}
    assert results.test_loss.notna().all()


@pytest.mark.parametrize("repeat", REPEATS)
def test_a_killed_driver_continues_every_stage_and_reuses_what_was_finished(workspace, undisturbed, repeat):
    study = workspace / f"driver-{repeat}"
    with driving(workspace, study, "1") as driver:
        driver.wait_until(lambda: driver.epochs() >= 1)
        driver.kill()
    with driving(workspace, study, "2") as driver:
        driver.wait_until(lambda: len(driver.pieces("gradients/shard-*.arrow")) >= 2)
        driver.kill()
        shards = driver.pieces("gradients/shard-*.arrow")
    with driving(workspace, study, "probes") as driver:
        driver.wait_until(lambda: driver.pieces("fits/probe-*.parquet"))
        driver.kill()
        probes = driver.pieces("fits/probe-*.parquet")
    assert "base_model: found done" in driver.log
    assert f"gradients: {len(shards)} of " in driver.log
    for name in shards:
        assert name in driver.log
    with driving(workspace, study, "3") as driver:
        driver.wait_until(lambda: len(driver.pieces("fits/tile-*.parquet")) >= 3)
        driver.kill()
        none_again(study, probes)
        tiles = driver.pieces("fits/tile-*.parquet")
    with driving(workspace, study, "4") as driver:
        driver.finish()
        assert "gradients: found done" in driver.log
        assert f"fits: {len(tiles)} of " in driver.log
        none_again(study, {**shards, **tiles})
    same_matrix(study, undisturbed)
