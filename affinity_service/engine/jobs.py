"""Studies as Ray jobs: submit one, ask how it goes, read its log, cancel it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from affinity_service.config import Config
from affinity_service.engine.job_package import check_data_paths, package, study_location, working_dir
from affinity_service.errors import UserError

# Either would silently replace the address that was asked for.
OVERRIDES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
# Bytes that the lines of a log have on average, at least: of shorter ones less is read than may be.
SHORT_LINE = 32
# Bytes of a piece of a log, and seconds without one after which it is given up.
LOG_PIECE, LOG_SECONDS = 64 << 10, 30.0
# Ray's loggers that say on standard error what they pack and which sockets close.
TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)


@dataclass(frozen=True)
class JobState:
    """How a job goes; times are seconds since 1970."""

    id: str
    status: str
    message: str
    study: str | None
    started: float | None
    ended: float | None

    @property
    def over(self) -> bool:
        return JobStatus(self.status).is_terminal()

    @property
    def succeeded(self) -> bool:
        return self.status == JobStatus.SUCCEEDED

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Submitted:
    id: str
    study: str


class Jobs:
    """The jobs of the cluster at an http address.

    Raises
    ------
    UserError
        The address is no URL, nothing answers there, or the cluster wants a token; here and in every method.
    """

    def __init__(self, address: str) -> None:
        parts = _url(address)
        self.address = address
        for name in TALKATIVE:
            logging.getLogger(name).setLevel(logging.WARNING)
        with self._explained(), _without_overrides():
            self.client = JobSubmissionClient(parts)

    def submit(
        self,
        config: Config | Path,
        study: str | None = None,
        folder: Path | None = None,
        installed: bool = False,
        until: str = "report",
        job: str | None = None,
    ) -> Submitted:
        """Start the study of a config, or of the file of one, as a job.

        `folder` travels with it, of a file that names a function of yours its own folder; the package too unless it is
        `installed` there. `job` is its id, a fresh one when absent.
        """
        path = None if isinstance(config, Config) else config
        config = config if isinstance(config, Config) else Config.load(config)
        folder = working_dir(config, folder, path)
        check_data_paths(config, folder)
        location = study_location(study, config)
        with tempfile.TemporaryDirectory() as directory, self._explained():
            packed = package(config, location, folder, installed, Path(directory, "job"), until)
            name = self.client.submit_job(
                entrypoint=packed.entrypoint,
                runtime_env=packed.runtime_env,
                metadata=packed.metadata,
                submission_id=job or fresh_id(config),
            )
        return Submitted(name, location)

    def state(self, job: str) -> JobState:
        with self._explained(job):
            return _state(job, self.client.get_job_info(job))

    def states(self) -> dict[str, JobState]:
        """Of every submitted job that the cluster knows, by id."""
        with self._explained():
            found = self.client.list_jobs()
        return {info.submission_id: _state(info.submission_id, info) for info in found if info.submission_id}

    def logs(self, job: str) -> str:
        with self._explained(job):
            return self.client.get_job_logs(job)

    def log_tail(self, job: str, most: int) -> tuple[bytes, bool]:
        """The last bytes of the log, `most` of them at most, and whether more may stand before them.

        The cluster counts lines, not bytes: what is asked for are as many lines as usually hold so many bytes, of which
        all but the end is let go as it comes. Nobody on the way holds the whole log.
        """
        lines = most // SHORT_LINE + 1
        kept, received, breaks = bytearray(), 0, 0
        with self._explained(job):
            node = self.client.get_job_info(job).driver_node_id
            if not node:
                # Nobody has begun with it.
                return b"", False
            with self._last_lines(job, node, lines) as answer:
                for piece in answer.iter_content(LOG_PIECE):
                    received, breaks = received + len(piece), breaks + piece.count(b"\n")
                    kept += piece
                    del kept[:-most]
        # The last line may not have ended.
        found = breaks + (not kept.endswith(b"\n"))
        return bytes(kept), received > most or found >= lines

    @contextlib.contextmanager
    def _last_lines(self, job: str, node: str, lines: int) -> Iterator[requests.Response]:
        """The last lines of a log, to be read as they come. Of Ray's own ways to a log one takes it whole, and another
        looks for the dashboard by itself."""
        with requests.get(
            f"{self.client.get_address()}/api/v0/logs/file",
            params={"submission_id": job, "node_id": node, "lines": str(lines)},
            headers=self.client._headers,
            cookies=self.client._cookies,
            verify=self.client._verify,
            stream=True,
            timeout=LOG_SECONDS,
        ) as answer:
            if answer.status_code != requests.codes.ok:
                raise UserError(
                    f"log of job `{job}`: {self.address} answered {answer.status_code}; expected the log, which lies "
                    f"on node {node}: is it still there?"
                )
            yield answer

    def follow(self, job: str, write: Callable[[str], None]) -> JobState:
        """Pass the log on as it grows; returns how the job ended."""
        self.state(job)
        with self._explained(job):
            asyncio.run(self._tail(job, write))
        return self._ended(job, None)

    async def _tail(self, job: str, write: Callable[[str], None]) -> None:
        async for lines in self.client.tail_job_logs(job):
            write(lines)

    def cancel(self, job: str, patience: float = 60.0) -> JobState:
        """Stop the job and wait until it has; a job that is over stays as it was."""
        with self._explained(job):
            self.client.stop_job(job)
        return self._ended(job, patience)

    def _ended(self, job: str, patience: float | None) -> JobState:
        """The state once the job is over, or as it is after `patience` seconds."""
        end = None if patience is None else time.monotonic() + patience
        while not (state := self.state(job)).over:
            if end is not None and time.monotonic() > end:
                break
            time.sleep(0.5)
        return state

    @contextlib.contextmanager
    def _explained(self, job: str | None = None) -> Iterator[None]:
        """What Ray's client raises, as what the user can do about it."""
        try:
            yield
        except AuthenticationError as error:
            raise UserError(_wants_token(self.address, str(error))) from error
        except aiohttp.WSServerHandshakeError as error:
            if error.status in (401, 403):
                raise UserError(_wants_token(self.address, error.message)) from error
            raise
        except (ConnectionError, requests.RequestException, aiohttp.ClientError) as error:
            raise UserError(
                f"--address {self.address}: no Ray cluster answers there ({error}); expected the address of its "
                "dashboard, such as http://HEAD:8265"
            ) from error
        except RuntimeError as error:
            if "status code 404" in str(error) and job is not None:
                raise UserError(
                    f"no job `{job}` at {self.address}; `affinity submit` prints the id of a job"
                ) from error
            if "status code 404" in str(error) or "Version check" in str(error):
                raise UserError(f"--address {self.address}: what answers there is no Ray dashboard") from error
            raise


def dashboard_of_cluster() -> str:
    """The http address of the dashboard of the cluster that this process belongs to.

    Raises
    ------
    UserError
        The cluster has none: it was started without one.
    """
    import ray
    from ray.dashboard.utils import ray_address_to_api_server_url

    try:
        return str(ray_address_to_api_server_url(ray.get_runtime_context().gcs_address))
    except (ValueError, RuntimeError, ConnectionError) as error:
        raise UserError(
            f"this Ray cluster has no dashboard, through which jobs are submitted ({error}); start its head with one, "
            "or name its address by --dashboard URL"
        ) from error


def fresh_id(config: Config) -> str:
    return f"{config.name}-{uuid.uuid4().hex[:8]}"


def _state(job: str, info: Any) -> JobState:
    return JobState(
        id=job,
        status=str(info.status.value),
        message=info.message or "",
        study=(info.metadata or {}).get("study"),
        started=info.start_time / 1000 if info.start_time else None,
        ended=info.end_time / 1000 if info.end_time else None,
    )


def _url(address: str) -> str:
    try:
        parts = urlsplit(address)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:  # a port that is no number, or brackets that do not close
        valid = False
    if not valid:
        raise UserError(
            f"--address {address}: expected the URL of the cluster's dashboard, such as http://127.0.0.1:8265"
        )
    return address.rstrip("/")


def _wants_token(address: str, answer: str) -> str:
    found = answer.splitlines()[0] if answer else "no permission"
    return (
        f"--address {address}: the cluster refuses us: {found}. Set RAY_AUTH_MODE=token, and put the cluster's token "
        "into ~/.ray/auth_token (on the head, `ray get-auth-token` prints it), into a file that RAY_AUTH_TOKEN_PATH "
        "names, or into RAY_AUTH_TOKEN"
    )


@contextlib.contextmanager
def _without_overrides() -> Iterator[None]:
    kept = {name: os.environ.pop(name) for name in OVERRIDES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
