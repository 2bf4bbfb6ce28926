"""The end of a job's log, read from an endpoint that answers as Ray's dashboard does."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest

from affinity_service.engine.jobs import Jobs
from affinity_service.errors import UserError

LINE = b"x" * 99 + b"\n"


class Dashboard(BaseHTTPRequestHandler):
    """Sends the last lines of a log, a line at a time."""

    lines: ClassVar[list[bytes]] = []
    status = 200
    asked: ClassVar[list[dict[str, list[str]]]] = []

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        assert url.path == "/api/v0/logs/file"
        self.asked.append(parse_qs(url.query))
        self.send_response(self.status)
        self.end_headers()
        if self.status == 200:
            for line in self.lines[-int(self.asked[-1]["lines"][0]) :]:
                self.wfile.write(line)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def dashboard() -> Iterator[type[Dashboard]]:
    kind = type("Own", (Dashboard,), {"lines": [], "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        kind.url = f"http://127.0.0.1:{server.server_address[1]}"
        yield kind
        server.shutdown()


def jobs_at(dashboard: type[Dashboard], node: str | None = "ab12", known: bool = True) -> Jobs:
    def info(job: str) -> SimpleNamespace:
        if not known:
            raise RuntimeError("Request failed with status code 404: no such job")
        return SimpleNamespace(driver_node_id=node)

    jobs = Jobs.__new__(Jobs)
    jobs.address = dashboard.url
    jobs.client = SimpleNamespace(
        get_address=lambda: dashboard.url, get_job_info=info, _headers={}, _cookies=None, _verify=True
    )
    return jobs


def test_a_short_log_is_whole(dashboard):
    dashboard.lines = [b"one\n", b"two"]
    assert jobs_at(dashboard).log_tail("a", 100) == (b"one\ntwo", False)
    assert (dashboard.asked[0]["submission_id"], dashboard.asked[0]["node_id"]) == (["a"], ["ab12"])


@pytest.mark.parametrize("last", [b"", b"not yet ended"])
def test_the_end_is_cut_to_bytes_and_it_is_said(dashboard, last):
    dashboard.lines = [LINE] * 50 + [last] * bool(last)
    whole = b"".join(dashboard.lines)
    assert jobs_at(dashboard).log_tail("a", 250) == (whole[-250:], True)
    # Lines shorter than most: no more was asked for, and it is not taken for all.
    dashboard.lines = [b"a\n"] * 50
    assert jobs_at(dashboard).log_tail("a", 64) == (b"a\n" * 3, True)
    assert jobs_at(dashboard).log_tail("a", 32 * 60) == (b"a\n" * 50, False)


def test_a_log_is_never_in_memory(dashboard):
    # Long lines: what comes before the end is let go as it is read.
    dashboard.lines = [b"y" * (1 << 20)] * 64
    jobs = jobs_at(dashboard)
    tracemalloc.start()
    try:
        end, cut = jobs.log_tail("a", 64 << 10)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (len(end), cut) == (64 << 10, True)
    assert peak < 8 << 20


def test_a_job_that_has_not_begun_has_an_empty_log(dashboard):
    assert jobs_at(dashboard, node=None).log_tail("a", 100) == (b"", False)
    assert dashboard.asked == []


def test_a_log_that_is_not_there_is_said(dashboard):
    with pytest.raises(UserError, match="no job `a`"):
        jobs_at(dashboard, known=False).log_tail("a", 100)
    dashboard.status = 500
    with pytest.raises(UserError, match="answered 500; expected the log, which lies on node ab12"):
        jobs_at(dashboard).log_tail("a", 100)
