"""The service under uvicorn in a thread, without Ray: jobs are only said to run."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from affinity_service.artifacts import StudyFolder
from affinity_service.config import Config
from affinity_service.service.app import create_app
from affinity_service.service.jobs import RUNNING, STOPPED, JobInfo, JobRunner, LogTail
from affinity_service.service.settings import ServiceSettings


class SaidToRun:
    """Jobs that start at once, write their config and do nothing until they are cancelled."""

    def __init__(self) -> None:
        self.jobs: dict[str, str] = {}

    def submit(self, job: str, config: Config, study: str, until: str) -> None:
        StudyFolder.at(study).write_bytes("config.yaml", config.to_yaml().encode())
        self.jobs[job] = RUNNING

    def state(self, job: str) -> JobInfo | None:
        status = self.jobs.get(job)
        return None if status is None else JobInfo(job, status, started=time.time())

    def cancel(self, job: str) -> JobInfo | None:
        self.jobs[job] = STOPPED
        return self.state(job)

    def log_tail(self, job: str, most: int) -> LogTail | None:
        content = f"INFO {job}: gradients: started\nINFO {job}: 3/8 gradient shards\n".encode()
        return LogTail(content[-most:], len(content) > most)


@contextmanager
def serving(root: Path, runner: JobRunner, require_tokens: bool = False) -> Iterator[str]:
    """The address of a service over the studies in `root`."""
    app = create_app(ServiceSettings(root=str(root), require_tokens=require_tokens, poll_seconds=0.1), runner)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.02)
            assert server.started, "the service did not start"
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join(timeout=10)
