"""Files that hold tokens: there when they are needed, and read by their owner alone."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from affinity_service.doctor.finding import Finding


def ray_token_file(process: Mapping[str, str] = os.environ) -> Path:
    named = process.get("RAY_AUTH_TOKEN_PATH")
    return Path(named) if named else Path(process.get("HOME") or Path.home(), ".ray", "auth_token")


def token_files(process: Mapping[str, str] = os.environ, study: str | None = None) -> Iterator[Finding]:
    """Ray's token and, where the study's folder is a service's root or in one, the service's."""
    path = ray_token_file(process)
    if process.get("RAY_AUTH_MODE") == "token":
        if not process.get("RAY_AUTH_TOKEN") and not path.is_file():
            yield Finding(
                "tokens",
                "fail",
                f"RAY_AUTH_MODE is token, but there is none in RAY_AUTH_TOKEN or {path}",
                "`ray get-auth-token --generate` makes one on the head; copy that file here, mode 600",
            )
        else:
            yield Finding("tokens", "ok", "Ray's token authentication is on and has a token")
    else:
        yield Finding("tokens", "ok", "RAY_AUTH_MODE is not set: the job commands send no token")
    places = [path]
    if study is not None and "://" not in study:
        places += [Path(folder, ".service", "tokens.json") for folder in (Path(study), Path(study).absolute().parent)]
    for place in places:
        if place.is_file():
            yield from permissions(place)


def permissions(path: Path) -> Iterator[Finding]:
    mode = stat.S_IMODE(path.stat().st_mode)
    closed = 0
    for folder in path.absolute().parents:
        # Who may not pass a folder reaches nothing in it.
        passing = stat.S_IMODE(folder.stat().st_mode)
        closed |= (0 if passing & 0o001 else 0o007) | (0 if passing & 0o010 else 0o070)
    reachable = mode & ~closed
    fix = f"chmod 600 {path}; if others may have read it, make a new token"
    if reachable & 0o007:
        yield Finding("tokens", "fail", f"{path} has mode {mode:03o}: everybody on this machine can use it", fix)
    elif reachable & 0o070:
        yield Finding("tokens", "warn", f"{path} has mode {mode:03o}: its group can use it", fix)
    else:
        yield Finding("tokens", "ok", f"{path} is its owner's alone")
