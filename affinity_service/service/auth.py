"""Tokens: made once, kept as hashes, with a scope each; `affinity token` manages them."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from fastapi import Request

from affinity_service.errors import UserError
from affinity_service.service.errors import ApiError

Scope = Literal["read", "write"]
PREFIX = "aff_"
# What proxies add to the requests of others. One that adds none of these cannot be told from a caller on this machine.
PROXY_HEADERS = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via")
# 256 random bits need no slow hash: nothing is there to be guessed.
RANDOM_BYTES = 32
LONGEST_NAME = 100


@dataclass(frozen=True)
class Token:
    """Of a token only its hash is kept; `id` names it to people."""

    id: str
    name: str
    scope: Scope
    sha256: str
    created: float


def token_file(root: str, given: str | None) -> Path:
    """Where the tokens of a service lie.

    Raises
    ------
    UserError
        The studies lie on an object store and no file was named.
    """
    if given is not None:
        return Path(given).expanduser().absolute()
    if "://" in root:
        raise UserError(f"{root}: tokens are kept in a local file, not beside studies on a store: name it by --tokens")
    return Path(root).expanduser().absolute() / ".service" / "tokens.json"


class TokenStore:
    """The tokens in a file. Where the file exists a token is needed, also after the last one was revoked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._read: tuple[tuple[int, int, int], list[Token]] | None = None

    @property
    def configured(self) -> bool:
        try:
            self.path.stat()
        except FileNotFoundError:
            return False
        except OSError:
            # There may be tokens that cannot be looked at: whoever asks is told so.
            return True
        return True

    def tokens(self) -> list[Token]:
        """Read again only when the file is another one.

        Raises
        ------
        UserError
            The file is there and cannot be read: nobody is let in then.
        """
        try:
            stat = self.path.stat()
            key = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            with self._lock:
                if self._read is None or self._read[0] != key:
                    content = json.loads(self.path.read_text(encoding="utf-8"))
                    self._read = key, [_checked(Token(**entry)) for entry in content["tokens"]]
                return list(self._read[1])
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"tokens {self.path}: cannot be read: {error}; restore the file or remove it") from error

    def find(self, presented: str) -> Token | None:
        """The token with this secret; compared with every one of them, in constant time each."""
        digest, found = _digest(presented), None
        for token in self.tokens():
            if hmac.compare_digest(token.sha256, digest):
                found = token
        return found

    def create(self, name: str, scope: Scope) -> tuple[Token, str]:
        """A new token and its secret, which is not kept anywhere.

        Raises
        ------
        UserError
            The name is taken, empty or too long, or the scope is none.
        """
        if not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
            raise UserError(f"token name {name[:50]!r}: expected 1 … {LONGEST_NAME} printable characters")
        if scope not in ("read", "write"):
            raise UserError(f"scope {scope!r}: expected read or write")
        secret = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
        token = Token(secrets.token_hex(4), name, scope, _digest(secret), time.time())
        with self._changing() as tokens:
            if any(each.name == name for each in tokens):
                raise UserError(f"token `{name}`: there is one of this name; revoke it first, or use another name")
            tokens.append(token)
        return token, secret

    def revoke(self, which: str) -> Token:
        """Forget a token by its id or name.

        Raises
        ------
        UserError
            There is no such token.
        """
        with self._changing() as tokens:
            for token in tokens:
                if which in (token.id, token.name):
                    tokens.remove(token)
                    return token
            there = ", ".join(f"{each.id} ({each.name})" for each in tokens) or "none"
            raise UserError(f"no token `{which}`; there is {there}")

    @contextlib.contextmanager
    def _changing(self) -> Iterator[list[Token]]:
        """The tokens to be changed, written back whole; one process at a time."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(self.path.with_name(f"{self.path.name}.lock"), os.O_CREAT | os.O_RDWR, 0o600)
        except OSError as error:
            raise UserError(f"tokens {self.path}: cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            tokens = self.tokens()
            yield tokens
            part = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
            content = json.dumps({"version": 1, "tokens": [asdict(token) for token in tokens]}, indent=2)
            stream = os.open(part, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
            with os.fdopen(stream, "w") as target:
                target.write(content + "\n")
            os.replace(part, self.path)
        finally:
            os.close(lock)


def _checked(token: Token) -> Token:
    """
    Raises
    ------
    ValueError
        Somebody wrote it by hand, and it says nothing that can be relied on.
    """
    if token.scope not in ("read", "write") or not re.fullmatch("[0-9a-f]{64}", token.sha256):
        raise ValueError(f"token {token.id}: expected scope read or write, and a SHA-256 hash")
    return token


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


class Access:
    """Which requests may do what."""

    def __init__(self, store: TokenStore | None, require_tokens: bool) -> None:
        self.store, self.require_tokens = store, require_tokens

    def scope_of(self, request: Request) -> str:
        """`read`, `write`, or `local` where no token is needed.

        Raises
        ------
        ApiError
            401: there is no token, or none that is known; or a proxy passes the request on, whoever may have sent it.
        """
        if not self.require_tokens and (self.store is None or not self.store.configured):
            passed_on = [name for name in PROXY_HEADERS if name in request.headers]
            if passed_on:
                raise ApiError(
                    401,
                    f"a proxy passed this request on (header {passed_on[0]}), and without tokens this service answers "
                    "callers on its own machine only",
                    hint="make a token with `affinity token create` where the service runs, and send it as "
                    "`Authorization: Bearer TOKEN`",
                    headers={"WWW-Authenticate": "Bearer"},
                )
            return "local"
        values = request.headers.getlist("authorization")
        kind, _, secret = (values[0] if len(values) == 1 else "").partition(" ")
        if kind.lower() != "bearer" or not secret.strip():
            raise _unauthorized("this service needs a token")
        try:
            token = None if self.store is None else self.store.find(secret.strip())
        except UserError as error:
            raise ApiError(503, "the tokens of this service cannot be read", "tokens_unreadable") from error
        if token is None:
            raise _unauthorized("the token is not known here, or was revoked")
        return token.scope


def _unauthorized(message: str) -> ApiError:
    hint = "send `Authorization: Bearer TOKEN`; whoever runs the service makes one with `affinity token create`"
    return ApiError(401, message, hint=hint, headers={"WWW-Authenticate": "Bearer"})


def reader(request: Request) -> str:
    """A dependency: whoever may read."""
    access: Access = request.app.state.service.access
    return access.scope_of(request)


def writer(request: Request) -> str:
    """A dependency: whoever may start and stop studies."""
    scope = reader(request)
    # A token of any other scope, such as one that somebody wrote by hand, may not write either.
    if scope not in ("write", "local"):
        raise ApiError(403, "this token may only read", "read_only", "a token of scope write is needed")
    return scope


def shown(token: Token) -> dict[str, Any]:
    """Without the hash."""
    return {"id": token.id, "name": token.name, "scope": token.scope, "created": token.created}
