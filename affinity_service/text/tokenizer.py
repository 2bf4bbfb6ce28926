"""The tokenizer of a pretrained model, and what stands for its content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from affinity_service.errors import UserError
from affinity_service.models.pretrained import CONFIG, pretrained_folder
from affinity_service.tasks.files import read_text, reason

# All that decides what a tokenizer does, in the forms that transformers reads.
FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tekken.json",
)

# What the config of a model calls the number of tokens that it was made for, and what is more than any.
CONTEXT, NO_BOUND = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length"), 1 << 40


def load_tokenizer(path: str, ends: bool = True) -> Any:
    """The tokenizer of a folder, or of whatever else names a pretrained model. It needs no token for padding, and one
    for the end where it `ends` answers.

    Raises
    ------
    UserError
        There is none, it cannot be read, or it has no token for the end.
    """
    folder = tokenizer_folder(path)
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise UserError(f"data needs the transformers package ({error}): pip install transformers") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
    except Exception as error:
        # Of any type: a broken file ends in whatever its parser raises.
        first = str(error).strip().split("\n")[0]
        raise UserError(f"tokenizer {path}: cannot be loaded from {folder}: {first or type(error).__name__}") from error
    if ends and tokenizer.eos_token_id is None:
        raise UserError(
            f"tokenizer {path}: has no end-of-sequence token, which tells a model where an answer ends; set eos_token "
            "in its tokenizer_config.json"
        )
    return tokenizer


def tokenizer_folder(path: str) -> Path:
    """A folder of a tokenizer alone does as well as one of a model."""
    folder = Path(path).expanduser()
    folder = folder if folder.is_dir() else pretrained_folder(path)
    if not any((folder / name).is_file() for name in FILES):
        raise UserError(f"tokenizer {path}: the folder {folder} has none; expected a file such as {FILES[0]}")
    return folder


def tokenizer_identity(path: str) -> str:
    """Stands for the content of its files, wherever they lie."""
    folder = tokenizer_folder(path)
    return files_identity([(name, folder / name) for name in FILES if (folder / name).is_file()])


def files_identity(files: Sequence[tuple[str, Path]]) -> str:
    """Stands for files under the names that matter, not where they lie.

    Raises
    ------
    UserError
        One cannot be read.
    """
    digest = hashlib.sha256()
    for name, path in files:
        try:
            with path.open("rb") as stream:
                digest.update(f"{name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}".encode())
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {reason(error)}") from error
    return digest.hexdigest()[:32]


def context_of(path: str) -> int | None:
    """Tokens that the model of a tokenizer reads at most, as far as its files say so."""
    folder = tokenizer_folder(path)
    known: list[int] = []
    for name, keys in ((CONFIG, CONTEXT), (FILES[1], ("model_max_length",))):
        file = folder / name
        content = json.loads(read_text(str(file))) if file.is_file() else {}
        known += [content[key] for key in keys if isinstance(content.get(key), int)]
    # A tokenizer that knows no bound names an astronomical one.
    return min((tokens for tokens in known if 0 < tokens < NO_BOUND), default=None)


def beginning(tokenizer: Any) -> list[int]:
    """The tokens that this tokenizer puts before any text: one for the beginning, or none."""
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and list(tokenizer("a").input_ids[:1]) == [bos] else []
