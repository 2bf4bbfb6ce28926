"""`affinity serve`: the service in the foreground, until it is interrupted."""

from __future__ import annotations

import contextlib
import logging
import shlex
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from affinity_service.errors import UserError
from affinity_service.service.auth import TokenStore, token_file
from affinity_service.service.settings import ServiceSettings, is_loopback

# How often it is looked whether Serve still runs.
LOOK_SECONDS = 10.0


def checked(settings: ServiceSettings, host: str) -> ServiceSettings:
    """The settings for an address: tokens may be left out where only this machine can ask.

    Raises
    ------
    UserError
        Others could reach the service and there is no token; or the root is no folder.
    """
    if "://" not in settings.root and not Path(settings.root).expanduser().is_dir():
        raise UserError(
            f"{settings.root}: no such folder; the root holds a study per sub-folder: `mkdir -p {settings.root}` makes "
            "an empty one"
        )
    for root in settings.data_roots:
        if "://" not in root and not Path(root).expanduser().is_dir():
            raise UserError(f"--data-root {root}: no such folder")
    loopback = is_loopback(host)
    remote = "://" in settings.root and settings.tokens is None
    tokens = [] if loopback and remote else TokenStore(token_file(settings.root, settings.tokens)).tokens()
    if not loopback and not tokens:
        raise UserError(
            f"--host {host}: others can reach the service there, and it has no token; make one with "
            f"`{token_command(settings.root, settings.tokens)}`, or stay at --host 127.0.0.1"
        )
    # Names of other machines come through a proxy here: whoever reaches the proxy would be let in.
    reached = [name for name in settings.hosts if not is_loopback(name)]
    if reached and not tokens:
        raise UserError(
            f"--allow-host {reached[0]}: others can reach the service by that name, and it has no token; make one with "
            f"`{token_command(settings.root, settings.tokens)}`"
        )
    names = [] if host in ("0.0.0.0", "::") else [host.strip("[]")]
    where = str(Path(settings.root).expanduser().absolute()) if "://" not in settings.root else settings.root
    changes = {"root": where, "require_tokens": not loopback or bool(reached), "hosts": [*names, *settings.hosts]}
    return settings.model_copy(update=changes)


def token_command(root: str, tokens: str | None) -> str:
    """What makes a token for this service, and for no other."""
    place = f"--root {shlex.quote(root)}" if tokens is None else f"--tokens {shlex.quote(tokens)}"
    return f"affinity token create NAME --scope write {place}"


def free(host: str, port: int) -> int:
    """The port, or a free one for 0.

    Raises
    ------
    UserError
        Something else listens there, or the address is none of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), port))
        except (OSError, OverflowError) as error:
            raise UserError(
                f"{host}:{port} cannot be listened at: {getattr(error, 'strerror', None) or error}; another service "
                "may run there: choose another --port, or 0 for any"
            ) from error
        return int(probe.getsockname()[1])


def serve_until_stopped(
    settings: ServiceSettings, host: str, port: int, address: str | None, started: Callable[[str], None]
) -> None:
    """Run the service on the cluster at `address`, or on a local Ray that ends with it.

    Parameters
    ----------
    started : is told the URL once it answers.

    Raises
    ------
    UserError
        The port is taken, or Serve already runs on the cluster with other settings.
    """
    port = free(host, port)
    with _ray(address), _signals() as stop:
        from ray import serve

        from affinity_service.service.deployment import NAME, build

        # Serve sets its own level when it is imported.
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        if address is not None and serve.status().proxies:
            raise UserError(
                f"--address {address}: Ray Serve runs on this cluster already, with addresses of its own; stop it "
                "with `serve shutdown`, or deploy affinity_service.service.deployment:build by a Serve config"
            )
        serve.start(http_options={"host": host, "port": port, "location": "HeadOnly"})
        try:
            serve.run(build(settings), name=NAME, route_prefix="/", blocking=False)
            shown = f"[{host}]" if ":" in host else host
            started(f"http://{shown}:{port}")
            while not stop.wait(LOOK_SECONDS):
                serve.status()
        finally:
            with _undisturbed():
                serve.shutdown()


def _ray(address: str | None) -> contextlib.AbstractContextManager[None]:
    if address is None:
        from affinity_service.service.local_ray import local_ray

        return local_ray()
    from affinity_service.engine.session import connected

    return connected(address)


@contextlib.contextmanager
def _signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set; the first one is waited for, the second ends at once."""
    stop = threading.Event()

    def ask(number: int, _: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    with contextlib.suppress(KeyboardInterrupt):
        yield
