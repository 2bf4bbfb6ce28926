"""Which code wrote a study."""

from __future__ import annotations

import os
import subprocess
from importlib import metadata
from pathlib import Path

from affinity_service.artifacts import SCHEMA_VERSION
from affinity_service.config import Provenance

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
