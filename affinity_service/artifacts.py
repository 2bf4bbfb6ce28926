"""The study folder: files that are either whole or absent, and stages that are either done or continued.

Works on any pyarrow filesystem. Locally a file is written beside its name as `.part` and renamed; an object store
shows a file only once it is closed, and may fail for a while, see ``retrying.py``. A stage is done when its manifest,
written last, carries its fingerprint.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import posixpath
import re
import shutil
import stat
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from pyarrow import fs

from affinity_service.errors import UserError
from affinity_service.logs import stamp, stamps
from affinity_service.retrying import patiently

Result = TypeVar("Result")
SCHEMA_VERSION = 1
# What a user can mend about the place that a study lies in.
_STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR)


# What an object store says of wrong names and rights.
_REFUSED = re.compile(
    r"ACCESS_DENIED|NO_SUCH_BUCKET|Bucket '.*' not found|INVALID_ACCESS_KEY|SIGNATURE_DOES_NOT_MATCH|EXPIRED_TOKEN"
    r"|INVALID_CLIENT_TOKEN|HTTP status 40[13]|PERMISSION_DENIED|UNAUTHENTICATED"
)


def fingerprint(content: Any) -> str:
    """Hex digest (128 bits) of anything JSON can hold, independent of the order of keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def own_folder(place: Path) -> Path:
    """A folder in a place that everybody may write, made where there is none; nobody else can have laid it out.

    Raises
    ------
    UserError
        Somebody else can write it, or it is a link.
    """
    with contextlib.suppress(FileExistsError):
        place.mkdir(mode=0o700)
    found = place.lstat()
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o022:
        raise UserError(
            f"{place} is no folder that you alone can write: remove it, or set TMPDIR to a folder of your own"
        )
    return place


@dataclass(frozen=True)
class UnfinishedStage:
    """A stage at work. `attempt` is new whenever it starts afresh: scratch under its name is never of other data.
    `seconds` were spent by interrupted runs of the same attempt."""

    stage: str
    fingerprint: str
    attempt: str
    seconds: float


@dataclass(frozen=True)
class StudyFolder:
    """Names below one root; names use `/` whatever the storage. Cheap to pickle, so actors receive it as it is.

    `patience`: seconds that an operation on a remote storage waits for it; see ``retrying.patiently``.
    """

    root: str
    patience: float | None = field(default=None, compare=False)
    _filesystem: dict[str, fs.SubTreeFileSystem] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def at(cls, location: str | Path) -> StudyFolder:
        text = str(location).removeprefix("file://")
        if "://" not in text:
            text = str(Path(text).expanduser().absolute())
        return cls(text.rstrip("/"))

    def __reduce__(self) -> tuple[Any, ...]:
        # Workers get a study by its folder: with it goes what their logs are to be stamped with.
        return (_arrived, (self.root, self.patience, stamps()))

    @property
    def is_local(self) -> bool:
        return "://" not in self.root

    @property
    def filesystem(self) -> fs.SubTreeFileSystem:
        if "fs" not in self._filesystem:
            if self.is_local:
                self._filesystem["fs"] = fs.SubTreeFileSystem(self.root, fs.LocalFileSystem())
            else:
                try:
                    # Asks for the bucket's region where the URI has none.
                    filesystem, base = patiently(
                        f"study {self.root}", lambda: fs.FileSystem.from_uri(self.root), self.patience
                    )
                except (pa.ArrowException, OSError) as error:
                    raise UserError(f"study {self.root}: not a storage that pyarrow can open: {error}") from error
                self._filesystem["fs"] = fs.SubTreeFileSystem(base, filesystem)
        return self._filesystem["fs"]

    def _asking(self, name: str, action: Callable[[fs.SubTreeFileSystem], Result]) -> Result:
        """What the action on the file system gives; a remote one is waited for while it fails.

        Raises
        ------
        StorageError
            It failed for too long.
        UserError
            It refuses us, or there is no such bucket.
        """
        if self.is_local:
            return action(self.filesystem)
        try:
            return patiently(f"study {self.root}: `{name}`", lambda: action(self.filesystem), self.patience)
        except OSError as error:
            if not _REFUSED.search(str(error)):
                raise
            raise UserError(
                f"study {self.root}: `{name}`: the storage refuses us: {error}; check the bucket's name and the "
                "credentials of this machine, and of every node"
            ) from error

    def reading(self, name: str, parse: Callable[[pa.NativeFile], Result]) -> Result:
        """What `parse` makes of the file, which it may seek in; called again when a remote storage fails meanwhile."""

        def read(filesystem: fs.SubTreeFileSystem) -> Result:
            with filesystem.open_input_file(name) as stream:
                return parse(stream)

        return self._asking(name, read)

    def exists(self, name: str) -> bool:
        return self._asking(name, lambda tree: tree.get_file_info(name)).type == fs.FileType.File

    def sizes(self, names: Sequence[str]) -> dict[str, int]:
        """Bytes per file that exists."""
        infos = self._asking(names[0], lambda tree: tree.get_file_info(list(names))) if names else []
        return {info.path: info.size for info in infos if info.type == fs.FileType.File}

    def list(self, prefix: str, suffix: str = "") -> list[str]:
        """Finished files whose names begin with `prefix` (a folder ends in `/`), sorted."""
        folder = prefix.rsplit("/", 1)[0] if "/" in prefix else ""
        selector = fs.FileSelector(folder, allow_not_found=True, recursive=True)
        return sorted(
            info.path
            for info in self._asking(prefix, lambda tree: tree.get_file_info(selector))
            if info.type == fs.FileType.File
            and info.path.startswith(prefix)
            and info.path.endswith(suffix)
            and not info.path.endswith(".part")
        )

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[pa.NativeFile]:
        """An output stream whose file appears under `name` only when the block ends without an error.

        Raises
        ------
        UserError
            The storage is full, read-only or closed to this user.
        """
        with self.naming_storage_errors(name), self._writing(name) as stream:
            yield stream

    @contextlib.contextmanager
    def naming_storage_errors(self, name: str) -> Iterator[None]:
        """Turn what a user can mend about the storage into a UserError that names the file."""
        try:
            yield
        except OSError as error:
            if error.errno not in _STORAGE_ERRORS:
                raise
            raise UserError(
                f"study {self.root}: `{name}` cannot be written: {os.strerror(error.errno)}; make room or access, or "
                "give another --study folder; what is finished is kept and the same command continues"
            ) from error

    @contextlib.contextmanager
    def _writing(self, name: str) -> Iterator[pa.NativeFile]:
        if not self.is_local:
            # Closing a stream to an object store publishes it, also after an error: upload only what is whole.
            with tempfile.NamedTemporaryFile() as scratch:
                with pa.OSFile(scratch.name, "wb") as stream:
                    yield stream

                def upload(tree: fs.SubTreeFileSystem) -> None:
                    tree.base_fs.create_dir(posixpath.dirname(posixpath.join(tree.base_path, name)), recursive=True)
                    with open(scratch.name, "rb") as source, tree.open_output_stream(name) as target:
                        shutil.copyfileobj(source, target, 1 << 22)

                self._asking(name, upload)
            return
        target = Path(self.root, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        # The process id keeps two writers of one shard apart: a restarted actor may meet its predecessor's file.
        part = target.with_name(f"{target.name}.{os.getpid()}.part")
        try:
            with pa.OSFile(str(part), "wb") as stream:
                yield stream
            os.replace(part, target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def write_bytes(self, name: str, content: bytes) -> None:
        with self.writing(name) as stream:
            stream.write(content)

    def read_bytes(self, name: str) -> bytes:
        return self.reading(name, lambda stream: stream.read())

    def write_json(self, name: str, content: Any) -> None:
        self.write_bytes(name, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())

    def read_json(self, name: str) -> Any:
        try:
            return json.loads(self.read_bytes(name))
        except FileNotFoundError as error:
            raise UserError(f"study {self.root}: `{name}` is missing; run the study first") from error
        except ValueError as error:
            raise UserError(f"study {self.root}: `{name}` is not valid JSON: {error}") from error

    def local_path(self, name: str) -> Path:
        """A path to memory-map: the file itself, or a copy that a remote storage's file is fetched to once."""
        if self.is_local:
            return Path(self.root, name)
        cache = own_folder(Path(tempfile.gettempdir(), f"affinity-cache-{os.getuid()}")) / fingerprint(self.root)
        info = self._asking(name, lambda tree: tree.get_file_info(name))
        copy = cache / f"{name}.{info.mtime_ns or 0}.{info.size}"
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            part = copy.with_name(f"{copy.name}.{os.getpid()}.part")

            def fetch(source: pa.NativeFile) -> None:
                with part.open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 22)

            self.reading(name, fetch)
            os.replace(part, copy)
        return copy

    def delete(self, prefix: str) -> None:
        """Remove a file, or everything below a folder named with a trailing `/`."""
        if prefix.endswith("/"):
            self._asking(prefix, lambda tree: tree.delete_dir_contents(prefix.rstrip("/"), missing_dir_ok=True))
        elif self.exists(prefix):
            self._asking(prefix, lambda tree: _delete_file(tree, prefix))

    # --- stages ---------------------------------------------------------------------------------------------

    def manifest(self, stage: str) -> dict[str, Any] | None:
        """What a finished stage left: fingerprint, identity, files with sizes, timing. None when unfinished."""
        name = f"stages/{stage}.json"
        return self.read_json(name) if self.exists(name) else None

    def is_done(self, stage: str, wanted: str) -> bool:
        """Whether the stage is finished under this fingerprint and its files still have their sizes."""
        manifest = self.manifest(stage)
        if manifest is None or manifest["fingerprint"] != wanted:
            return False
        return self.sizes(list(manifest["files"])) == manifest["files"]

    def begin(self, stage: str, wanted: str, outputs: Sequence[str]) -> UnfinishedStage:
        """Open a stage, or continue one that an interrupted run under the same fingerprint left.

        Pieces of any other fingerprint are removed first, so that what lies there always belongs together.
        """
        marker = f"stages/{stage}.part.json"
        self.delete(f"stages/{stage}.json")
        if self.exists(marker) and (found := self.read_json(marker))["fingerprint"] == wanted:
            return UnfinishedStage(stage, **found)
        for output in outputs:
            self.delete(output)
        work = UnfinishedStage(stage, wanted, attempt=uuid.uuid4().hex[:12], seconds=0.0)
        self._mark(work, 0.0)
        return work

    def _mark(self, work: UnfinishedStage, seconds: float) -> None:
        content = {"fingerprint": work.fingerprint, "attempt": work.attempt, "seconds": work.seconds + seconds}
        self.write_json(f"stages/{work.stage}.part.json", content)

    @contextlib.contextmanager
    def counting_seconds(self, work: UnfinishedStage, every: float = 5.0) -> Iterator[None]:
        """Keep in the marker how long the stage has been worked on, so that a killed run's time is not forgotten."""
        start, stop = time.monotonic(), threading.Event()

        def count() -> None:
            while not stop.wait(every):
                # The count is not worth a run that could go on without it.
                with contextlib.suppress(OSError, UserError):
                    self._mark(work, time.monotonic() - start)

        thread = threading.Thread(target=count, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def complete(
        self,
        stage: str,
        wanted: str,
        outputs: Sequence[str],
        timing: Mapping[str, Any],
        identity: str | None = None,
    ) -> None:
        """Write the manifest, which finishes the stage.

        `identity` stands for the content in the fingerprints of the stages after this one. A stage that cannot
        name its content cheaply gets a fresh one, so that running it again also runs what depends on it.
        """
        names = [name for output in outputs for name in (self.list(output) if output.endswith("/") else [output])]
        manifest = {
            "fingerprint": wanted,
            "identity": identity or uuid.uuid4().hex,
            "files": self.sizes(names),
            "timing": dict(timing),
        }
        self.write_json(f"stages/{stage}.json", manifest)
        self.delete(f"stages/{stage}.part.json")


def _arrived(root: str, patience: float | None, stamped: dict[str, str]) -> StudyFolder:
    """A folder that came from another process."""
    if stamped:
        stamp(**stamped)
    return StudyFolder(root, patience)


def _delete_file(tree: fs.SubTreeFileSystem, name: str) -> None:
    """A try that was answered by an error may have deleted it all the same."""
    with contextlib.suppress(FileNotFoundError):
        tree.delete_file(name)
