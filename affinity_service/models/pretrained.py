"""Where a pretrained model lies."""

from __future__ import annotations

from pathlib import Path

from affinity_service.errors import UserError


def pretrained_folder(path: str) -> Path:
    """The local folder of a pretrained model.

    Raises
    ------
    UserError
        There is no such folder.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise UserError(f"{path}: no such folder; expected one with the files of a model and its tokenizer")
    return folder
