"""The FastAPI app; it needs no Ray, only something that runs jobs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request

from affinity_service.service.context import Service
from affinity_service.service.errors import JSON, add_handlers
from affinity_service.service.guard import Guard
from affinity_service.service.jobs import JobRunner
from affinity_service.service.limits import BodyLimit
from affinity_service.service.metrics import Observe
from affinity_service.service.routes import affinity, files, page, questions, studies, system
from affinity_service.service.settings import ServiceSettings

DESCRIPTION = (
    "Studies of a folder: start and watch them, ask which tasks help each other, take the models along. "
    "Losses are validation losses, lower is better; affinities are negated losses, higher is better. "
    'Errors are `{"error": {"code", "message", "hint", "field"}}`.'
)


def create_app(settings: ServiceSettings, runner: JobRunner) -> FastAPI:
    """The app of one root."""
    service = Service.of(settings, runner)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="affinity service",
        version=service.version,
        description=DESCRIPTION,
        default_response_class=JSON,
        lifespan=life,
        redoc_url=None,
        docs_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    add_handlers(app)
    for module in (system, studies, affinity, questions, files, page):
        app.include_router(module.router)
    # The last one added sees a request first.
    app.add_middleware(
        BodyLimit, most=settings.most_bytes, admits=lambda scope: service.access.scope_of(Request(scope))
    )
    app.add_middleware(Guard, hosts=settings.hosts)
    app.add_middleware(Observe, metrics=service.metrics)
    return app
