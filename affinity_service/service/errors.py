"""Every error as the contract's JSON; what nobody foresaw has an id that is also in the log, and no traceback."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from affinity_service.errors import UserError

log = logging.getLogger("affinity_service")
CODES = {
    400: "bad_request",
    401: "no_token",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "too_large",
    415: "unsupported_media_type",
    422: "invalid",
    429: "too_many",
    503: "busy",
}
# A message may quote what was sent, which may be long.
LONGEST = 2000


class JSON(JSONResponse):
    """ASCII only, so that no text that was sent can be one that cannot be written; no NaN."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode()


class ApiError(Exception):
    """An answer other than what was asked for."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        hint: str | None = None,
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code or CODES.get(status, "error")
        self.hint, self.field, self.headers = hint, field, dict(headers or {})

    def response(self) -> Response:
        parts = {"code": self.code, "message": self.message, "hint": self.hint, "field": self.field}
        shown = {key: str(value)[:LONGEST] for key, value in parts.items() if value is not None}
        return JSON({"error": shown}, status_code=self.status, headers=self.headers)


def not_found(what: str, code: str = "not_found", hint: str | None = None) -> ApiError:
    return ApiError(404, what, code, hint)


def unexpected(error: BaseException, what: str) -> Response:
    """500, with an id that finds the traceback in the log."""
    number = uuid.uuid4().hex[:12]
    log.error("error %s at %s", number, what, exc_info=error)
    message = f"an unexpected error; the service's log has it under {number}"
    return ApiError(500, message, "internal").response()


def add_handlers(app: FastAPI) -> None:
    async def ours(_: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return error.response()

    async def of_user(_: Request, error: Exception) -> Response:
        return ApiError(422, str(error)).response()

    async def of_storage(request: Request, error: Exception) -> Response:
        # A file that vanished while a run began anew, or a storage that fails.
        log.warning("storage at %s %r: %s", request.method, request.url.path[:200], error)
        return ApiError(
            503, "files of the study cannot be read now", "storage", headers={"Retry-After": "5"}
        ).response()

    async def of_http(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        known = {404: "no such page", 405: "no such method here", 400: "the body is not JSON that can be read"}
        message = known.get(error.status_code, str(error.detail))
        return ApiError(error.status_code, message, headers=error.headers).response()

    async def of_validation(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _invalid(error).response()

    app.add_exception_handler(ApiError, ours)
    app.add_exception_handler(UserError, of_user)
    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(RequestValidationError, of_validation)
    app.add_exception_handler(OSError, of_storage)
    app.add_exception_handler(pa.ArrowException, of_storage)


def _invalid(error: RequestValidationError) -> ApiError:
    """One line per mistake; the field of the first."""
    lines, first = [], None
    for item in error.errors():
        place = [str(part) for part in item["loc"]]
        where, key = (place[0], ".".join(place[1:])) if place else ("body", "")
        if item["type"] == "json_invalid":
            return ApiError(400, f"the body is not JSON: {item.get('ctx', {}).get('error', item['msg'])}")
        first = first or key or None
        message = str(item["msg"]).removeprefix("Value error, ")
        lines.append(f"{where} `{key}`: {message}" if key else f"{where}: {message}")
    return ApiError(422, "; ".join(lines[:20]), field=first)
