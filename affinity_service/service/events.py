"""A study watched: server-sent events whenever its state changes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import Response, StreamingResponse

from affinity_service.service.context import Service
from affinity_service.service.errors import ApiError
from affinity_service.service.status import LIVE, UNASKED, UNFINISHED

# A storage or a cluster that fails for a moment does not end a stream; so many failures in a row do.
PATIENCE = 30


async def event_stream(service: Service, name: str) -> Response:
    """
    Raises
    ------
    ApiError
        404: there is no such study. 429: too many streams are open.
    """
    first = await service.quick.run(service.catalogue.detail, name)
    if service.streams >= service.settings.most_streams:
        raise ApiError(429, "too many event streams are open", headers={"Retry-After": "10"})
    return StreamingResponse(_events(service, name, first), media_type="text/event-stream")


async def _events(service: Service, name: str, state: dict[str, Any]) -> AsyncIterator[str]:
    settings, said = service.settings, time.monotonic()
    service.streams += 1
    service.metrics.streams.set(service.streams)
    try:
        yield _event("state", state)
        shown, failures = _without_clock(state), 0
        while state["status"] in LIVE or (_is_unsure(state) and failures <= PATIENCE):
            await asyncio.sleep(settings.poll_seconds)
            try:
                state = await service.quick.run(service.catalogue.detail, name)
                failures = failures + 1 if _is_unsure(state) else 0
            except ApiError as error:
                failures += 1
                if error.status == 404 or failures > PATIENCE:
                    break
                continue
            if (now := _without_clock(state)) != shown:
                shown, said = now, time.monotonic()
                yield _event("state", state)
            elif time.monotonic() - said >= settings.heartbeat_seconds:
                said = time.monotonic()
                yield ": still here\n\n"
        yield _event("end", {"status": state["status"]})
    finally:
        service.streams -= 1
        service.metrics.streams.set(service.streams)


def _is_unsure(state: dict[str, Any]) -> bool:
    """Whether nobody can say just now how the job goes: that is no end of it."""
    return state["status"] == UNFINISHED and state["message"] == UNASKED


def _without_clock(state: dict[str, Any]) -> dict[str, Any]:
    """Seconds pass by themselves; that is no change."""
    stages = [
        {key: value for key, value in stage.items() if key != "seconds" or stage["state"] == "done"}
        for stage in state["stages"]
    ]
    return {**state, "stages": stages, "updated": None}


def _event(kind: str, content: dict[str, Any]) -> str:
    # One line: JSON in ASCII has no line breaks of any kind.
    return f"event: {kind}\ndata: {json.dumps(content, allow_nan=False)}\n\n"
