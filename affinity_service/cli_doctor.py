"""`affinity doctor`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from typing import Annotated

import typer
from rich.text import Text

from affinity_service.cli_output import VERBATIM, out, print_json
from affinity_service.doctor.finding import Check, Finding, look_over

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def doctor(
    address: Annotated[str | None, typer.Option(help="Ray cluster to look at too: auto, or HOST:PORT.")] = None,
    study: Annotated[str | None, typer.Option(help="Folder or URI to try: can studies live there?")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Only what takes no time: for health checks.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Look over versions, GPUs, limits, tokens, storage and the cluster. Leaves with 1 if a check fails."""
    findings = []
    for finding in look_over(checks(address, study, quick)):
        findings.append(finding)
        if not as_json:
            _show(finding)
    failed = [finding for finding in findings if finding.state == "fail"]
    if as_json:
        print_json({"ok": not failed, "findings": [asdict(finding) for finding in findings]})
    if failed:
        raise typer.Exit(1)


def checks(address: str | None, study: str | None, quick: bool) -> Iterator[tuple[str, Check]]:
    from affinity_service.doctor import system, tokens

    yield "python", system.python_version
    yield "versions", system.package_versions
    yield "bytecode", system.bytecode
    yield "open files", system.open_files
    yield "tokens", partial(tokens.token_files, study=study)
    if study is not None:
        from affinity_service.doctor.storage import study_storage

        yield "storage", partial(study_storage, study)
    if quick:
        return
    from affinity_service.doctor import memory
    from affinity_service.doctor.gpus import gpus

    yield "memory", memory.free_memory
    yield "shared memory", memory.shared_memory
    yield "compilers", system.compilers
    yield "gpus", gpus
    from affinity_service.engine import cluster_checks

    yield "deepspeed", cluster_checks.deepspeed_works
    if address is not None:
        yield "ray", partial(cluster_checks.ray_cluster, address, study)


def _show(finding: Finding) -> None:
    line = Text.assemble((f"{finding.state:<4}", _COLOURS[finding.state]), f"  {finding.check}: {finding.found}")
    out.print(line, **VERBATIM)
    if finding.fix:
        out.print(f"      → {finding.fix}", **VERBATIM)
