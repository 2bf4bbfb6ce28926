"""Python, packages and what the operating system grants; no check imports torch or Ray."""

from __future__ import annotations

import os
import platform
import resource
import shutil
from collections.abc import Iterator, Mapping
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from affinity_service.doctor.finding import Finding

PACKAGE = "affinity-service"
# Ray asks for so many itself and warns below; every worker holds sockets to every other.
ENOUGH_FILES, FEWEST_FILES = 65_536, 4_096


def python_version() -> Iterator[Finding]:
    found = platform.python_version()
    try:
        wanted = metadata.metadata(PACKAGE)["Requires-Python"]
    except metadata.PackageNotFoundError:
        yield Finding("package", "warn", f"{PACKAGE} is not installed (run from its sources?)", "pip install -e .")
        return
    if SpecifierSet(wanted).contains(found):
        yield Finding("python", "ok", f"{found}; {PACKAGE} {metadata.version(PACKAGE)}")
    else:
        yield Finding("python", "fail", f"{found}, outside {wanted}", f"make the environment with a Python {wanted}")


def package_versions(lines: list[str] | None = None) -> Iterator[Finding]:
    """Every dependency against the bounds of the installed package, or against requirement lines."""
    if lines is None:
        try:
            lines = metadata.requires(PACKAGE) or []
        except metadata.PackageNotFoundError:
            return
    good = 0
    for line in lines:
        requirement = Requirement(line)
        # Extras are asked for by their marker, which is false here.
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        bounds = f"{requirement.name} {requirement.specifier}"
        fix = f'pip install "{requirement.name}{requirement.specifier}"'
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield Finding("versions", "fail", f"{requirement.name} is missing; needed: {bounds}", fix)
            continue
        if requirement.specifier.contains(version, prereleases=True):
            good += 1
        else:
            yield Finding("versions", "fail", f"{requirement.name} is {version}; needed: {bounds}", fix)
    yield Finding("versions", "ok", f"{good} dependencies within their bounds")


def bytecode(process: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    if process.get("PYTHONDONTWRITEBYTECODE"):
        yield Finding(
            "bytecode",
            "warn",
            "PYTHONDONTWRITEBYTECODE is set: every Ray worker compiles its imports anew",
            "unset PYTHONDONTWRITEBYTECODE where Ray is started",
        )
    else:
        yield Finding("bytecode", "ok", "cached")


def open_files() -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Ray raises the soft limit up to the hard one by itself.
    most = ENOUGH_FILES if resource.RLIM_INFINITY in (soft, hard) else max(soft, hard)
    found = f"{soft} open files, up to {hard if hard != resource.RLIM_INFINITY else 'any number'}"
    fix = f"ulimit -n {ENOUGH_FILES} before `ray start`; in a container --ulimit nofile={ENOUGH_FILES}:{ENOUGH_FILES}"
    if most < FEWEST_FILES:
        yield Finding("open files", "fail", found, fix)
    elif most < ENOUGH_FILES:
        yield Finding("open files", "warn", f"{found}; large clusters need more", fix)
    else:
        yield Finding("open files", "ok", found)


def compilers() -> Iterator[Finding]:
    """DeepSpeed compiles its optimizers for offloading when they are first used, and nothing else that is used here."""
    missing = [name for name in ("g++", "ninja") if shutil.which(name) is None]
    if missing:
        yield Finding(
            "compilers",
            "warn",
            f"{' and '.join(missing)} not found: base.deepspeed with offload_optimizer (zero2_offload, zero3_offload) "
            "cannot be built; everything else works without",
            "apt-get install g++ ninja-build, if you want to offload",
        )
    else:
        yield Finding("compilers", "ok", "g++ and ninja are there for DeepSpeed's offloading")
