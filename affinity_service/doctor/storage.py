"""Whether a study can live where it is to live."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from affinity_service.artifacts import StudyFolder
from affinity_service.doctor.finding import Finding
from affinity_service.errors import StorageError, UserError

GIB = 1 << 30
LITTLE, FULL = 5 * GIB, GIB // 4
PATIENCE_SECONDS = 5.0


def study_storage(study: str) -> Iterator[Finding]:
    """Write, read, list, write over and delete a file there, as the stages do."""
    folder = replace(StudyFolder.at(study), patience=PATIENCE_SECONDS)
    empty = folder.is_local and not Path(folder.root).exists()
    name, start = f"doctor-{uuid.uuid4().hex}/probe", time.perf_counter()
    try:
        for content in (b"one", b"other"):
            folder.write_bytes(name, content)
            if folder.read_bytes(name) != content:
                yield Finding(
                    "storage",
                    "fail",
                    f"{folder.root} does not give back what was just written",
                    "use storage that shows a finished write to every reader at once",
                )
                return
        listed = folder.list(name)
        folder.delete(name)
        if listed != [name] or folder.exists(name):
            yield Finding("storage", "fail", f"{folder.root} does not list or delete files", "check its rights")
            return
    except StorageError as error:
        yield Finding("storage", "fail", str(error), "check that the storage runs and the network reaches it")
        return
    except (UserError, OSError) as error:
        yield Finding("storage", "fail", f"{folder.root}: {error}", "give another --study, or mend its rights")
        return
    finally:
        if folder.is_local:
            shutil.rmtree(Path(folder.root, name).parent, ignore_errors=True)
            if empty:
                shutil.rmtree(folder.root, ignore_errors=True)
    yield Finding("storage", "ok", f"{folder.root} keeps files ({time.perf_counter() - start:.2f} s)")
    if folder.is_local:
        yield from free_space(folder.root)


def free_space(root: str) -> Iterator[Finding]:
    place = Path(root)
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    found, fix = f"{free / GIB:.1f} GiB free at {root}", "make room; `affinity plan CONFIG` says what a study takes"
    if free < FULL:
        yield Finding("free space", "fail", found, fix)
    elif free < LITTLE:
        yield Finding("free space", "warn", found, fix)
    else:
        yield Finding("free space", "ok", found)
