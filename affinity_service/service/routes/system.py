"""Whether the service lives, who asks, what it has counted, and what it can be asked."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from affinity_service.service.context import Own, Reader, Service, answers
from affinity_service.service.errors import JSON
from affinity_service.service.schemas import Health, WhoAmI
from affinity_service.service.status import STATUSES

# Of so many studies the states are counted.
MOST_COUNTED = 1000
router = APIRouter(tags=["service"])


@router.get("/healthz", response_model=Health)
async def health() -> dict[str, str]:
    """Whether the service answers; never needs a token."""
    return {"status": "ok"}


@router.get(
    "/metrics",
    responses={**answers(), 200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    response_class=Response,
)
async def metrics(service: Own, _: Reader) -> Response:
    """Counters and timings in Prometheus' text form."""
    text = await service.quick.run(_text, service)
    return Response(text, headers={"content-type": CONTENT_TYPE_LATEST})


def _text(service: Service) -> bytes:
    def count() -> dict[str, int]:
        page, _ = service.catalogue.page(MOST_COUNTED, None)
        return {status: sum(each.status == status for each in page) for status in STATUSES}

    return service.metrics.text(service.counted.get(count))


@router.get("/v1/whoami", response_model=WhoAmI, responses=answers())
async def whoami(service: Own, scope: Reader) -> dict[str, Any]:
    """What the caller's token allows."""
    return {"scope": scope, "version": service.version, "can_submit": service.settings.can_submit and scope != "read"}


@router.get("/openapi.json", include_in_schema=False)
async def description(request: Request, _: Reader) -> Response:
    return JSON(request.app.openapi())
