"""What is counted and timed, in Prometheus' form; and the last catch of what nobody foresaw."""

from __future__ import annotations

import time
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from affinity_service.service.errors import unexpected

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
EVENTS = "/v1/studies/{name}/events"


class Metrics:
    """Of one replica; a scrape meets one of them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ["method", "route"]
        self.requests = Counter(
            "affinity_requests", "Requests by route and status", [*labels, "status"], registry=self.registry
        )
        self.latency = Histogram(
            "affinity_request_seconds", "Seconds of requests", labels, buckets=BUCKETS, registry=self.registry
        )
        self.predict = Histogram(
            "affinity_predict_seconds", "Seconds of predictions, waiting included", buckets=BUCKETS,
            registry=self.registry,
        )  # fmt: skip
        self.studies = Gauge("affinity_studies", "Studies by status", ["status"], registry=self.registry)
        self.streams = Gauge("affinity_event_streams", "Open event streams", registry=self.registry)

    def text(self, studies: Mapping[str, int]) -> bytes:
        for status, count in studies.items():
            self.studies.labels(status).set(count)
        return generate_latest(self.registry)


class Observe:
    """Counts requests, and answers 500 with an id where everything else failed."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, begin = 0, time.perf_counter()

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception as error:
            response = unexpected(error, f"{scope['method']} {scope['path'][:200]!r}")
            if status == 0:
                await response(scope, receive, watched)
        finally:
            # The template, not the path: names of studies would make a series each.
            route = getattr(scope.get("route"), "path", "unmatched")
            method = scope["method"] if scope["method"] in METHODS else "other"
            self.metrics.requests.labels(method, route, str(status)).inc()
            if route != EVENTS:
                self.metrics.latency.labels(method, route).observe(time.perf_counter() - begin)
