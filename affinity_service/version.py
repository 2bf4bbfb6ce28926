"""Which code wrote a study."""

from __future__ import annotations

import contextlib
import os
import subprocess
from importlib import metadata
from pathlib import Path

import yaml

from affinity_service.artifacts import SCHEMA_VERSION, StudyFolder
from affinity_service.config import Provenance
from affinity_service.errors import UserError

# A job brings the package along without its metadata and its git checkout; whoever submitted it knew them.
CARRIED = "AFFINITY_PROVENANCE"


def provenance() -> Provenance:
    """Package version, commit (where the package lies in a git checkout) and schema version of the study folder."""
    if CARRIED in os.environ:
        return Provenance.model_validate_json(os.environ[CARRIED])
    return Provenance(
        version=metadata.version("affinity-service"),
        commit=_commit() or "unknown",
        schema_version=SCHEMA_VERSION,
    )


def check_readable(folder: StudyFolder) -> None:
    """Raise UserError for a study that another schema version wrote, before anything else of it is read."""
    if not folder.exists("config.yaml"):
        return
    with contextlib.suppress(yaml.YAMLError):
        content = yaml.safe_load(folder.read_bytes("config.yaml"))
        written = content.get("written_by") if isinstance(content, dict) else None
        written = written if isinstance(written, dict) else {}
        found = written.get("schema_version", SCHEMA_VERSION)
        if found != SCHEMA_VERSION:
            raise UserError(
                f"study {folder.root}: schema version {found} was written by version {written.get('version')}; this "
                f"version reads {SCHEMA_VERSION}: use that version or run the study into a new folder"
            )


def _commit() -> str | None:
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
