"""Real processes and kill -9: every stage continues, nothing finished is computed twice, the matrix stays the same.

Once each in `make test`; `make faults` sets FAULT_REPEATS to repeat them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

from affinity_service import Study
from affinity_service.config import Config
from affinity_service.tables import read_table
from tests.suites import mixed_suite, small_settings, write_suite

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1500)]
REPEATS = range(int(os.environ.get("FAULT_REPEATS", "1")))
PATIENCE = 240


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config whose stages consist of many small pieces, so that a kill finds some finished and some not."""
    root = tmp_path_factory.mktemp("faults")
    suite = mixed_suite(rows=900, features=8)
    settings = small_settings(suite, write_suite(suite, root / "suite.parquet"))
    settings["base"] |= {"epochs": 8, "patience": 8, "learning_rate": 0.003}
    # What is measured and scheduled on the way must continue as well.
    settings["measure"], settings["schedule"] = {"always": True, "every": 3}, {"refresh": 3, "tau": 0.0}
    # Nearly a third as many backward passes as rows: slow enough to be caught at work.
    settings["gradients"] |= {"landmarks": 50, "shard_rows": 200, "batch_rows": 3, "workers": 2}
    settings["fits"] |= {"tile": 1, "workers": 2}
    settings["group_models"] |= {"models_per_trial": 4, "workers": 2}
    (root / "config.yaml").write_text(yaml.safe_dump(settings))
    return root


class Driver:
    """`affinity run` in a process of its own, with the study's files and its Ray processes in sight."""

    def __init__(self, root: Path, study: Path, log: str, until: str) -> None:
        self.study, self.log_path = study, root / f"{study.name}-{log}.log"
        self.cache = root / f"cache-{study.name}"
        self.environment = {**os.environ, "XDG_CACHE_HOME": str(self.cache)}
        command = [sys.executable, "-m", "affinity_service", "-v", "run", str(root / "config.yaml")]
        with self.log_path.open("w") as stream:
            self.process = subprocess.Popen(
                [*command, "--study", str(study), "--until", until],
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def wait_until(self, ready: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not ready():
            assert self.process.poll() is None, f"the driver ended too early:\n{self.log[-4000:]}"
            assert time.monotonic() < deadline, f"waited {PATIENCE} s in vain:\n{self.log[-4000:]}"
            time.sleep(0.005)

    def kill_worker(self, title: str) -> None:
        """kill -9 of the first Ray process whose title begins so: Ray names a process after what it runs."""
        family: list[psutil.Process] = []
        listed = 0.0

        def killed() -> bool:
            nonlocal family, listed
            # Listing is slow and a task may last only tenths of a second: list seldom, look often.
            if time.monotonic() - listed > 0.5:
                family, listed = psutil.Process(self.process.pid).children(recursive=True), time.monotonic()
            for process in family:
                with contextlib.suppress(OSError):
                    if Path(f"/proc/{process.pid}/cmdline").read_text().startswith(f"ray::{title}"):
                        os.kill(process.pid, signal.SIGKILL)
                        return True
            return False

        self.wait_until(killed)

    def epochs(self) -> int:
        """Checkpoints of the base model so far, by their number."""
        numbers = self.cache.glob("affinity_service/*/*/base/checkpoint_*")
        return len({path.name for path in numbers})

    def pieces(self, pattern: str) -> dict[str, int]:
        """Finished files and when they were written."""
        return {path.name: path.stat().st_mtime_ns for path in self.study.glob(pattern)}

    def finish(self) -> None:
        assert self.process.wait(timeout=PATIENCE) == 0, self.log[-4000:]

    def kill(self) -> None:
        """kill -9 of the driver; its Ray goes with it, or is ended here by process id."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        _, alive = psutil.wait_procs(family, timeout=3)
        for process in alive:
            with contextlib.suppress(psutil.Error):
                process.kill()


@contextlib.contextmanager
def driving(root: Path, study: Path, log: str, until: str = "affinity") -> Iterator[Driver]:
    driver = Driver(root, study, log, until)
    try:
        yield driver
    finally:
        if driver.process.poll() is None:
            driver.kill()


@pytest.fixture(scope="session")
def undisturbed(workspace: Path, ray_session: None) -> Study:
    settings = yaml.safe_load((workspace / "config.yaml").read_text())
    # Nothing is to be caught here, and the number of rows at a time changes no result.
    settings["gradients"]["batch_rows"] = 512
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(workspace / "cache-undisturbed"))
        return Study.run(Config.parse(settings), workspace / "undisturbed", until="affinity")


def same_matrix(study: Path, undisturbed: Study) -> None:
    found = Study.open(study)
    np.testing.assert_allclose(found.affinity.affinity, undisturbed.affinity.affinity, rtol=1e-5)
    for name in ("measurements", "schedule"):
        tables = [read_table(each.folder, f"base_model/{name}.parquet") for each in (found, undisturbed)]
        assert tables[0].equals(tables[1]), f"{name} of the killed training differ"


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
    with driving(workspace, study, "3") as driver:
        driver.wait_until(lambda: len(driver.pieces("fits/tile-*.parquet")) >= 3)
        driver.kill()
        tiles = driver.pieces("fits/tile-*.parquet")
    assert "base_model: found done" in driver.log
    assert f"gradients: {len(shards)} of " in driver.log
    for name in shards:
        assert name in driver.log
    with driving(workspace, study, "4") as driver:
        driver.finish()
        assert "gradients: found done" in driver.log
        assert f"fits: {len(tiles)} of " in driver.log
        for name, written in {**shards, **tiles}.items():
            (path,) = study.glob(f"*/{name}")
            assert path.stat().st_mtime_ns == written, f"{name} was computed again"
    same_matrix(study, undisturbed)
