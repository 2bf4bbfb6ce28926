"""The web page: static files, which need no token."""

from __future__ import annotations

import re
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse, Response

from affinity_service.service.errors import not_found

STATIC = Path(__file__).parents[1] / "page"
# Everything from here and nothing from elsewhere, nothing inline.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
_FILE = re.compile(r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+\Z")
router = APIRouter(include_in_schema=False)


@router.get("/")
async def page() -> Response:
    return _file("index.html")


@router.get("/static/{file}")
async def asset(file: str) -> Response:
    return _file(file)


def _file(name: str) -> Response:
    path = STATIC / name
    if not _FILE.match(name) or path.is_symlink() or not path.is_file():
        raise not_found("no such page", hint="/openapi.json describes the interface")
    return FileResponse(path, headers={"content-security-policy": POLICY, "cache-control": "no-cache"})
