"""What a study leaves to take along: fidelity, models, the report."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
from fastapi import APIRouter
from fastapi import Path as InPath
from starlette.responses import Response, StreamingResponse

from affinity_service.artifacts import StudyFolder
from affinity_service.service.context import Own, Reader, Service, StudyName, answers
from affinity_service.service.errors import JSON, ApiError, not_found
from affinity_service.service.names import owns
from affinity_service.service.schemas import Models

router = APIRouter(prefix="/v1/studies/{name}", tags=["files"])
# Folders with models, and what of them is one: weights, and the settings of adapters.
FOLDERS, SUFFIXES = ("base_model/", "group_models/"), (".safetensors", ".json")
FIDELITY, REPORT = "fidelity.json", "report/index.html"
PIECE = 1 << 20
# Nothing in a report runs, and it is nobody's origin: it shows names that came with the data.
REPORT_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"


@router.get("/fidelity", responses={**answers(404), 200: {"content": {"application/json": {"schema": {}}}}})
async def get_fidelity(service: Own, _: Reader, name: StudyName) -> Response:
    """How far the estimates were from true trainings, by truth, estimator and metric."""

    def work() -> Any:
        folder = service.catalogue.see(name).folder
        if not owns(folder, FIDELITY):
            raise not_found(
                f"study `{name}` was not validated",
                "no_fidelity",
                "`affinity validate` trains sampled subsets for real",
            )
        return folder.read_json(FIDELITY)

    return JSON(await service.quick.run(work))


@router.get("/models", response_model=Models, responses=answers(404))
async def list_models(service: Own, _: Reader, name: StudyName) -> dict[str, Any]:
    """Weights as safetensors and adapters in peft's form."""

    def work() -> dict[str, int]:
        return _models(service.catalogue.see(name).folder)

    found = await service.quick.run(work)
    return {"models": [{"path": path, "bytes": size} for path, size in sorted(found.items())]}


@router.get(
    "/models/{path:path}",
    response_class=Response,
    responses={
        **answers(404, 429),
        200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}},
    },
)
async def get_model(
    service: Own,
    _: Reader,
    name: StudyName,
    path: Annotated[str, InPath(max_length=1000, examples=["base_model/model.safetensors"])],
) -> Response:
    """One of the files that the list names."""

    def work() -> tuple[pa.NativeFile, int]:
        folder = service.catalogue.see(name).folder
        size = _models(folder).get(path)
        if size is None:
            raise not_found(f"study `{name}` has no such model", hint="GET …/models lists them")
        return folder.filesystem.open_input_stream(path), size

    stream, size = await service.quick.run(work)
    kind = "application/json" if path.endswith(".json") else "application/octet-stream"
    # The list holds plain names only, so that they fit into a header.
    saved = f'attachment; filename="{path.rsplit("/", 1)[-1]}"'
    return _download(service, stream, size, kind, {"content-disposition": saved})


def _download(service: Service, stream: pa.NativeFile, size: int, kind: str, headers: dict[str, str]) -> Response:
    """A file, a piece at a time."""
    # Serve takes in what is read from here however slowly the client takes it out: so many files lie in memory at most.
    if service.downloads >= service.settings.most_downloads:
        stream.close()
        raise ApiError(429, "too many models and reports are being downloaded", headers={"Retry-After": "10"})
    headers = {**headers, "content-length": str(size)}
    return StreamingResponse(_pieces(service, stream, size), media_type=kind, headers=headers)


def _models(folder: StudyFolder) -> dict[str, int]:
    """Bytes by path; no link that leads out of the study's folder, no name that needs escaping."""
    names = _local_files(Path(folder.root)) if folder.is_local else [n for place in FOLDERS for n in folder.list(place)]
    return folder.sizes([name for name in names if name.endswith(SUFFIXES) and _plain(name)])


def _local_files(root: Path) -> list[str]:
    """Links are not followed, of folders either."""
    walks = (os.walk(root / place) for place in FOLDERS if not (root / place).is_symlink())
    paths = [Path(top, name) for walk in walks for top, _, names in walk for name in names]
    return [path.relative_to(root).as_posix() for path in paths if not path.is_symlink()]


def _plain(name: str) -> bool:
    return name.isascii() and name.isprintable() and not set('"\\%;') & set(name)


async def _pieces(service: Service, stream: pa.NativeFile, size: int) -> AsyncIterator[bytes]:
    """As many bytes as were promised, read in threads."""
    service.downloads += 1
    try:
        left = size
        while left:
            piece = await asyncio.to_thread(stream.read, min(PIECE, left))
            if not piece:
                return
            left -= len(piece)
            yield piece
    finally:
        service.downloads -= 1
        stream.close()


@router.get(
    "/report",
    response_class=Response,
    responses={**answers(404, 429), 200: {"content": {"text/html": {"schema": {"type": "string"}}}}},
)
async def get_report(service: Own, _: Reader, name: StudyName) -> Response:
    """The report: one page that fetches nothing and runs no script."""

    def work() -> tuple[pa.NativeFile, int]:
        folder = service.catalogue.see(name).folder
        if not owns(folder, REPORT):
            raise not_found(f"study `{name}` has no report yet", "no_report")
        # One that can tell its own size: a run may put another report in its place any moment.
        file = folder.filesystem.open_input_file(REPORT)
        return file, file.size()

    stream, size = await service.quick.run(work)
    return _download(service, stream, size, "text/html", {"content-security-policy": REPORT_POLICY})
