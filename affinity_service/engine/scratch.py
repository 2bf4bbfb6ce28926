"""Where Ray and DeepSpeed keep checkpoints: outside the study, for they hold pickles."""

from __future__ import annotations

import logging
import os
import posixpath
from pathlib import Path

import pyarrow as pa
import ray
from pyarrow import fs

from affinity_service.artifacts import StudyFolder, fingerprint
from affinity_service.config import ResourceConfig
from affinity_service.engine.session import beside
from affinity_service.errors import StorageError, UserError
from affinity_service.retrying import patiently

log = logging.getLogger("affinity_service")


def scratch_of(folder: StudyFolder, resources: ResourceConfig, attempt: str) -> str:
    """The place of one attempt at one stage: whatever lies there is of the same data, config and code.

    A cluster of several nodes must see it everywhere, as it must see the study: there it lies beside the study.

    Raises
    ------
    UserError
        The place cannot be written.
    """
    place = posixpath.join(_root(folder, resources), fingerprint(folder.root)[:12], attempt)
    try:
        patiently(f"scratch {place}", lambda: _make(place))
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"scratch {place}: cannot be made ({error}); set resources.scratch to a writable path"
        ) from error
    return place


def _root(folder: StudyFolder, resources: ResourceConfig) -> str:
    if resources.scratch:
        remote = "://" in resources.scratch
        return resources.scratch if remote else str(Path(resources.scratch).expanduser().absolute())
    if ray.is_initialized() and len([node for node in ray.nodes() if node["Alive"]]) > 1:
        return beside(folder, ".affinity-scratch")
    return str(Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "affinity_service")


def _make(place: str) -> None:
    filesystem, path = fs.FileSystem.from_uri(place)
    filesystem.create_dir(path, recursive=True)


def _remove(place: str) -> None:
    filesystem, path = fs.FileSystem.from_uri(place)
    # An object store has no folder left where nothing was written.
    if filesystem.get_file_info(path).type != fs.FileType.NotFound:
        filesystem.delete_dir(path)


def remove_scratch(place: str) -> None:
    """Checkpoints of a finished stage are of no use; what cannot be removed is said, not raised."""
    try:
        patiently(f"scratch {place}", lambda: _remove(place))
    except (pa.ArrowException, OSError, StorageError) as error:
        log.warning("scratch %s could not be removed: %s", place, error)
