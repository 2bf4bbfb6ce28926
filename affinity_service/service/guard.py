"""Who may speak to the service at all: host names, foreign pages, and the kind of bodies."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from affinity_service.service.errors import ApiError
from affinity_service.service.settings import LOOPBACK

HEALTH = "/healthz"
_HOST = re.compile(r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?$")
# Nothing that the service sends is to be guessed at, kept by caches, or shown inside foreign pages.
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
ONLY_DATA = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
FRESH = (b"cache-control", b"no-store")


class Guard:
    """Refuses names that are not ours, which DNS rebinding uses, pages of other origins, and bodies other than JSON."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self.app = app
        self.hosts = {host.lower().strip("[]") for host in (*LOOPBACK, *hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message["headers"]}
                more = (*HEADERS, FRESH, ONLY_DATA)
                added = [(name, value) for name, value in more if name not in present]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        try:
            self._check(scope)
        except ApiError as error:
            await error.response()(scope, receive, with_headers)
            return
        await self.app(scope, receive, with_headers)

    def _check(self, scope: Scope) -> None:
        if scope["path"] == HEALTH:
            # Probes of a cluster ask by address.
            return
        host = _only(scope, b"host")
        found = _HOST.match(host or "")
        if found is None:
            raise ApiError(400, "the request needs one Host header", field="Host")
        name = found[1].lower().strip("[]").rstrip(".")
        if "*" not in self.hosts and name not in self.hosts:
            raise ApiError(
                403,
                f"this service is not called {name}",
                "wrong_host",
                f"it answers to {', '.join(sorted(self.hosts))}; `affinity serve --allow-host {name}` adds a name",
                "Host",
            )
        origin = _only(scope, b"origin")
        if origin is not None and not _same(origin, host or "", scope.get("scheme", "http")):
            raise ApiError(403, "pages of other origins may not use this service", "foreign_origin", field="Origin")
        if scope["method"] in ("POST", "PUT", "PATCH", "DELETE"):
            kind = (_only(scope, b"content-type") or "").partition(";")[0].strip().lower()
            if kind != "application/json":
                raise ApiError(415, "send JSON: Content-Type must be application/json", field="Content-Type")


def _only(scope: Scope, name: bytes) -> str | None:
    """The header's value; raises when it is there more than once."""
    values = [value for key, value in scope["headers"] if key.lower() == name]
    if len(values) > 1:
        raise ApiError(400, f"the header {name.decode()} is there {len(values)} times; expected once")
    return values[0].decode("latin-1") if values else None


def _same(origin: str, host: str, scheme: str) -> bool:
    """Whether the page came from where it asks; behind a proxy that ends TLS only the scheme differs."""
    try:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or parts.path or parts.query or parts.fragment or parts.username:
            return False
        # Default ports are left out of either.
        asked = urlsplit(f"{parts.scheme}://{host}")
        default = 443 if parts.scheme == "https" else 80
        return (parts.hostname, parts.port or default) == (asked.hostname, asked.port or default)
    except ValueError:
        return False
