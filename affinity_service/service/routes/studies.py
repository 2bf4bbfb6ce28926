"""Studies: which there are, how they stand, starting and stopping them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from affinity_service.errors import UserError
from affinity_service.service.context import Own, Reader, StudyName, Writer, answers
from affinity_service.service.errors import ApiError
from affinity_service.service.events import event_stream
from affinity_service.service.jobs import LogTail
from affinity_service.service.names import after_cursor, cursor_of, owns
from affinity_service.service.schemas import Detail, NewStudy, Studies, Summary, Tasks
from affinity_service.service.status import CONFIG

router = APIRouter(prefix="/v1/studies", tags=["studies"])
Cursor = Annotated[str | None, Query(description="the `next` of the page before", max_length=500)]
LOG_BYTES, MOST_LOG_BYTES = 64 << 10, 8 << 20
TRUNCATED = "X-Log-Truncated"

# One of the stream's; `data` holds what GET of the study answers.
EVENT = {
    "type": "object",
    "properties": {"event": {"type": "string", "enum": ["state", "end"]}, "data": {"type": "string"}},
}


@router.get("", response_model=Studies, responses=answers())
async def list_studies(
    service: Own, _: Reader, limit: Annotated[int, Query(ge=1, le=200)] = 50, cursor: Cursor = None
) -> dict[str, Any]:
    """Studies by name."""
    after = after_cursor(cursor)
    found, more = await service.quick.run(service.catalogue.page, limit, after)
    following = cursor_of(found[-1].name) if more and found else None
    return {"studies": [each.to_json() for each in found], "next": following}


@router.post("", response_model=Summary, status_code=201, responses=answers(409, 413, 415))
async def submit_study(service: Own, _: Writer, body: NewStudy) -> dict[str, Any]:
    """Start a study as a job. The same name again continues where it stopped."""
    if not service.settings.can_submit:
        raise ApiError(403, "this service starts no studies", "no_submit")
    made = await service.jobs.run(service.starter.start, body.name, body.config, body.until)
    return made.to_json()


@router.get("/{name}", response_model=Detail, responses=answers(404))
async def get_study(service: Own, _: Reader, name: StudyName) -> dict[str, Any]:
    """How a study stands, stage by stage."""
    return await service.quick.run(service.catalogue.detail, name)


@router.get(
    "/{name}/events",
    response_class=Response,
    responses={**answers(404, 429), 200: {"content": {"text/event-stream": {"schema": EVENT}}}},
)
async def watch_study(service: Own, _: Reader, name: StudyName) -> Response:
    """Server-sent events: `state` with what GET of the study holds whenever that changes, `end` after the last."""
    return await event_stream(service, name)


@router.post("/{name}/cancel", response_model=Summary, responses=answers(404, 409, 413, 415))
async def cancel_study(service: Own, _: Writer, name: StudyName) -> dict[str, Any]:
    """Stop the job at work; what is finished stays and can be continued."""
    if not service.settings.can_submit:
        raise ApiError(403, "this service stops no studies", "no_submit")
    stopped = await service.jobs.run(service.starter.stop, name)
    return stopped.to_json()


@router.get(
    "/{name}/logs",
    response_class=Response,
    responses={
        **answers(404),
        200: {
            "content": {"text/plain": {"schema": {"type": "string"}}},
            "headers": {
                TRUNCATED: {
                    "description": "`true` where more may stand before what is sent, `false` where it is the whole log",
                    "schema": {"type": "string", "enum": ["true", "false"]},
                }
            },
        },
    },
)
async def get_logs(
    service: Own,
    _: Reader,
    name: StudyName,
    most: Annotated[
        int, Query(alias="bytes", ge=1, le=MOST_LOG_BYTES, description="the last ones, so many at most")
    ] = LOG_BYTES,
) -> Response:
    """The end of what the job has printed."""

    def work() -> LogTail:
        record = service.catalogue.see(name).record
        try:
            tail = service.catalogue.runner.log_tail(record.id, most) if record is not None else None
        except UserError as error:
            raise ApiError(503, "the log cannot be read from the cluster now", "cluster") from error
        if tail is None:
            raise ApiError(404, f"no job of study `{name}` has a log here", "no_logs")
        return tail

    tail = await service.quick.run(work)
    headers = {TRUNCATED: "true" if tail.cut else "false"}
    # A character may have been cut in two.
    text = tail.content.decode("utf-8", "ignore")
    return Response(text, media_type="text/plain; charset=utf-8", headers=headers)


@router.get(
    "/{name}/config",
    response_class=Response,
    responses={**answers(404), 200: {"content": {"application/yaml": {"schema": {"type": "string"}}}}},
)
async def get_config(service: Own, _: Reader, name: StudyName) -> Response:
    """The config with every default filled in, as the study ran."""

    def work() -> bytes:
        seen = service.catalogue.see(name)
        if CONFIG not in seen.files or not owns(seen.folder, CONFIG):
            raise ApiError(404, f"study `{name}` has not begun yet", "not_ready")
        return seen.folder.read_bytes(CONFIG)

    return Response(await service.quick.run(work), media_type="application/yaml")


@router.get("/{name}/tasks", response_model=Tasks, responses=answers(404, 409))
async def list_tasks(
    service: Own,
    _: Reader,
    name: StudyName,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """Tasks in the order of the matrix, with their kinds and numbers of examples."""
    after = after_cursor(cursor)
    if after is not None and not (after.isascii() and after.isdigit() and len(after) < 10):
        raise ApiError(422, "cursor: expected the `next` of the page before", field="cursor")
    start = int(after) if after is not None else 0
    entries = await service.ask(name, lambda study: study.summary["tasks"])
    end = start + limit
    return {"tasks": entries[start:end], "next": cursor_of(str(end)) if end < len(entries) else None}
