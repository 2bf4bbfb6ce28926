"""Bounds: how large a body may be and how long it may take, how much work may wait, and how long it may take."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from affinity_service.deadline import DeadlineExceeded, deadline_in
from affinity_service.service.errors import ApiError

Result = TypeVar("Result")


class BodyLimit:
    """Reads a request's body, chunked or not, before the app sees it: at most so many bytes within so many seconds.

    Bodies are small; whatever follows one, such as the client's leaving, is passed on.

    admits : raises ``ApiError`` for a request that is let in nowhere: nobody waits for the body of one, or a few
        hundred strangers who send theirs slowly would take every place.
    """

    def __init__(self, app: ASGIApp, most: int, admits: Callable[[Scope], Any], seconds: float = 30.0) -> None:
        self.app, self.most, self.admits, self.seconds = app, most, admits, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            if _has_body(scope):
                # It looks at a file.
                await asyncio.to_thread(self.admits, scope)
            body = await asyncio.wait_for(self._read(scope, receive), self.seconds)
        except TimeoutError:
            error = ApiError(408, f"the body did not arrive within {self.seconds:g} seconds", "timeout")
            await error.response()(scope, receive, send)
            return
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        if body is None:
            return
        pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return pending.pop() if pending else await receive()

        await self.app(scope, replay, send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """None when the client has left."""
        stated = dict(scope["headers"]).get(b"content-length", b"0")
        if not stated.isdigit() or len(stated) > 18:
            raise ApiError(400, "Content-Length is no number")
        if int(stated) > self.most:
            raise self._too_large()
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self.most:
                raise self._too_large()
            if not message.get("more_body", False):
                return b"".join(parts)

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the body is larger than {self.most} bytes, the most that this service reads")


def _has_body(scope: Scope) -> bool:
    headers = dict(scope["headers"])
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"


class Workers:
    """Blocking work in so many threads; so many more requests wait, and the others are told to come back.

    seconds : work that takes longer is given up at its next step, so that its thread is free for others. They count
        from when it begins: whoever waited has as many.
    """

    def __init__(self, name: str, threads: int, queue: int, seconds: float = math.inf) -> None:
        self.most, self.atwork, self.seconds = threads + queue, 0, seconds
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix=f"service-{name}")

    async def run(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """
        Raises
        ------
        ApiError
            503: too much is waiting already, or the work took too long.
        """
        if self.atwork >= self.most:
            raise ApiError(503, "the service is busy; ask again in a second", headers={"Retry-After": "1"})
        self.atwork += 1
        future = self.pool.submit(self._in_time, work, *arguments)
        # A client that leaves does not stop a thread: its place is free when the work is done.
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: self._left(loop))
        return await asyncio.wrap_future(future)

    def _in_time(self, work: Callable[..., Result], *arguments: Any) -> Result:
        try:
            with deadline_in(self.seconds):
                return work(*arguments)
        except DeadlineExceeded as error:
            raise ApiError(
                503,
                f"the answer takes longer than {self.seconds:g} seconds, the most that this service works on one",
                "deadline",
                "ask for less: fewer tasks, groups or links, or a quicker method; `affinity` and Python on the study's "
                "folder set no limit",
            ) from error

    def _left(self, loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended with the service
            loop.call_soon_threadsafe(self._free)

    def _free(self) -> None:
        self.atwork -= 1

    def close(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)
