"""The service as it runs: `affinity serve` with Serve and Ray of its own, real jobs, a request at a time over HTTP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from affinity_service.service.auth import TokenStore, token_file
from tests.served import told
from tests.suites import mixed_suite, small_settings, write_suite

pytestmark = [pytest.mark.engine, pytest.mark.timeout(650)]


class Running:
    """A service in a process of its own, asked with a token."""

    def __init__(self, root: Path, data: Path) -> None:
        _, self.secret = TokenStore(token_file(str(root), None)).create("test", "write")
        log = root.parent / "serve.log"
        self.log = log.open("w+")
        command = [sys.executable, "-m", "affinity_service", "serve", str(root), "--port", "0", "--json"]
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        self.process = subprocess.Popen(
            [*command, "--data-root", str(data)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            start_new_session=True,
        )
        self.url = told(self.process, log)["url"]

    def ask(self, path: str, body: Any = None, token: bool = True) -> Any:
        headers = {"Authorization": f"Bearer {self.secret}"} if token else {}
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", content, {**headers, "Content-Type": "application/json"})
        return urllib.request.urlopen(request, timeout=300)

    def json(self, path: str, body: Any = None) -> Any:
        return json.loads(self.ask(path, body).read())

    def end(self) -> int:
        """As Ctrl-C does; what is left after half a minute is killed."""
        started = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(60)
        finally:
            left = [each for each in (*started, psutil.Process(os.getpid())) if each.pid != os.getpid()]
            _, alive = psutil.wait_procs(left, timeout=20)
            for each in alive:
                each.kill()
            self.log.close()
            assert not alive, f"left behind: {alive}"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    place = tmp_path_factory.mktemp("served")
    (place / "root").mkdir()
    (place / "data").mkdir()
    write_suite(mixed_suite(rows=200), place / "data/suite.parquet")
    running = Running(place / "root", place / "data")
    code = None
    try:
        yield running
    finally:
        code = running.end()
    assert code == 0


def config() -> dict[str, Any]:
    whole = small_settings(mixed_suite(rows=200), "suite.parquet")
    smaller = {
        "fits": {"subsets": 0, "tile": 5},
        "group_models": {"seeds": 1, "random_groupings": 0, "single_tasks": 0},
    }
    return {**whole, **smaller, "base": {"epochs": 2, "batch_size": 32, "learning_rate": 0.01}}


def test_a_study_is_submitted_watched_asked_and_another_one_cancelled(running):
    with pytest.raises(urllib.error.HTTPError) as refused:
        running.ask("/v1/studies", token=False)
    assert refused.value.code == 401
    assert json.loads(running.ask("/healthz", token=False).read()) == {"status": "ok"}

    made = running.json("/v1/studies", {"name": "first", "config": config()})
    assert made["status"] in ("queued", "running")
    states, kind = [], None
    with running.ask("/v1/studies/first/events") as stream:
        for line in stream:
            text = line.decode().rstrip("\n")
            if text.startswith("event: "):
                kind = text.removeprefix("event: ")
            elif text.startswith("data: ") and kind == "state":
                states.append(json.loads(text.removeprefix("data: ")))
    assert kind == "end"
    last = states[-1]
    assert last["status"] == "finished", running.ask("/v1/studies/first/logs").read().decode()
    assert {stage["state"] for stage in last["stages"]} == {"done"}
    seen = {stage["name"] for state in states for stage in state["stages"] if stage["state"] == "running"}
    assert len(seen) >= 3, seen
    log = running.ask("/v1/studies/first/logs?bytes=8388608")
    whole = log.read()
    assert log.headers["X-Log-Truncated"] == "false"
    assert b"report: done in" in whole
    end = running.ask("/v1/studies/first/logs?bytes=100")
    assert (end.read(), end.headers["X-Log-Truncated"]) == (whole[-100:], "true")

    # At once the next one, which is stopped while it works.
    running.json("/v1/studies", {"name": "second", "config": config()})
    names = [task["name"] for task in running.json("/v1/studies/first/tasks")["tasks"]]
    found = running.json("/v1/studies/first/predict", {"tasks": names[:2]})
    assert [each["task"] for each in found["predictions"]] == names[:2]
    model = running.json("/v1/studies/first/models")["models"][0]
    assert len(running.ask(f"/v1/studies/first/models/{model['path']}").read()) == model["bytes"]
    end = time.monotonic() + 120
    while (state := running.json("/v1/studies/second"))["status"] == "queued" and time.monotonic() < end:
        time.sleep(0.5)
    assert state["status"] == "running"
    assert running.json("/v1/studies/second/cancel", {})["status"] == "cancelled"
    listed = {each["name"]: each["status"] for each in running.json("/v1/studies")["studies"]}
    assert listed == {"first": "finished", "second": "cancelled"}
