"""Studies in processes of their own that tests kill, and what they must end with."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import psutil

from affinity_service import Study
from affinity_service.tables import read_table

REPEATS = range(int(os.environ.get("FAULT_REPEATS", "1")))
# Seconds that a test waits for one thing; a busy machine needs more.
PATIENCE = int(os.environ.get("FAULT_PATIENCE", "240"))


class Driver:
    """`affinity run` in a process of its own, with the study's files and its Ray processes in sight.

    `root` has the config; `location` is the study's URI where it is not the folder `study`; `environment` has that of a
    cluster which `options` name.
    """

    def __init__(
        self,
        root: Path,
        study: Path,
        log: str,
        until: str,
        *options: str,
        environment: Mapping[str, str] = os.environ,
        location: str = "",
    ) -> None:
        self.study, self.log_path = study, root / f"{study.name}-{log}.log"
        self.cache = root / f"cache-{study.name}"
        self.environment = {**environment, "XDG_CACHE_HOME": str(self.cache)}
        command = [sys.executable, "-m", "affinity_service", "-v", "run", str(root / "config.yaml")]
        with self.log_path.open("w") as stream:
            self.process = subprocess.Popen(
                [*command, "--study", location or str(study), "--until", until, *options],
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
        return pieces(self.study, pattern)

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
def driving(
    root: Path, study: Path, log: str, until: str = "affinity", *options: str, **more: object
) -> Iterator[Driver]:
    driver = Driver(root, study, log, until, *options, **more)
    try:
        yield driver
    finally:
        if driver.process.poll() is None:
            driver.kill()


def pieces(study: Path, pattern: str) -> dict[str, int]:
    """Finished files and when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in study.glob(pattern)}


def with_base_model(undisturbed: Study, study: Path) -> Path:
    """A study as an interrupted run leaves it that had finished the base model."""
    source = Path(undisturbed.folder.root)
    shutil.copytree(source / "base_model", study / "base_model")
    (study / "stages").mkdir()
    for name in ("config.yaml", "suite.json", "stages/base_model.json"):
        shutil.copy(source / name, study / name)
    return study


def same_matrix(study: Path, undisturbed: Study) -> None:
    found = Study.open(study)
    np.testing.assert_allclose(found.affinity.affinity, undisturbed.affinity.affinity, rtol=1e-5)
    for name in ("measurements", "schedule"):
        tables = [read_table(each.folder, f"base_model/{name}.parquet") for each in (found, undisturbed)]
        assert tables[0].equals(tables[1]), f"{name} of the killed training differ"


def none_again(study: Path, finished: Mapping[str, int]) -> None:
    """Each of the pieces is the file that it was."""
    for name, written in finished.items():
        (path,) = study.glob(f"*/{name}")
        assert path.stat().st_mtime_ns == written, f"{name} was computed again"
