"""What configs from the network may name.

A config can name files, models and code. Whoever runs `affinity run` may name all of them; whoever speaks to the
service may name what its operator allows, so that a request reads no other file, fetches nothing and runs no code but
the package's. The table below is the whole of it; a test holds every field of the schema against it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from affinity_service.config import Config
from affinity_service.engine.deepspeed_settings import READY_MADE
from affinity_service.service.errors import ApiError
from affinity_service.service.names import inside

PACKAGE = "package:"


@dataclass(frozen=True)
class Permissions:
    """What the operator allows."""

    data_roots: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    allow_python: bool = False


class Refused(ValueError):
    """A value that may not come from the network; the message says what may."""


# Takes the value and the permissions, and gives the value that the job gets.
Rule = Callable[[Any, Permissions], Any]


def _data_file(value: Any, permissions: Permissions) -> Any:
    """A file or folder below a data root. A relative path is looked for in each of them."""
    if not isinstance(value, str):
        return value
    if not permissions.data_roots:
        raise Refused("this service reads no files; its operator can allow a folder by `--data-root DIR`")
    for root in permissions.data_roots:
        found = _below_uri(value, root) if "://" in root else _below_folder(value, root)
        if found is not None:
            return found
    raise Refused(f"found {value[:200]!r}; expected a file in one of the service's data folders")


def _below_folder(value: str, root: str) -> str | None:
    if "://" in value or "\0" in value or value.startswith("~"):
        return None
    place = Path(root).expanduser().absolute()
    path = place / value
    try:
        # What lies outside is not even asked whether it is there.
        return str(path.resolve()) if inside(path, place) and path.exists() else None
    except (OSError, ValueError):
        return None


def _below_uri(value: str, root: str) -> str | None:
    try:
        own, parts = urlsplit(root), urlsplit(value)
    except ValueError:
        return None
    # Options of a URI can name another server, and escapes another folder.
    plain = not (parts.query or parts.fragment or parts.username or "%" in value or "\\" in value)
    below = parts.path.startswith(own.path.rstrip("/") + "/") and not {"..", "."} & set(parts.path.split("/"))
    same = (parts.scheme, parts.netloc) == (own.scheme, own.netloc)
    return value if plain and below and same and value.isprintable() else None


def _model(value: Any, permissions: Permissions) -> Any:
    """One of the named models, or a folder or GGUF file below a data root."""
    if value is None or value in permissions.models:
        return value
    if isinstance(value, str) and not value.startswith(PACKAGE) and permissions.data_roots:
        for root in permissions.data_roots:
            if "://" not in root and (found := _below_folder(value, root)) is not None:
                return found
    allowed = f"one of {', '.join(permissions.models)}" if permissions.models else "a folder among the service's data"
    raise Refused(
        f"found {str(value)[:200]!r}; expected {allowed}; its operator can allow more by `--allow-model NAME`"
    )


def _python(value: Any, permissions: Permissions) -> Any:
    if value is None or permissions.allow_python:
        return value
    raise Refused("this service runs no code that a config names; its operator can allow it by `--allow-python`")


def _deepspeed(value: Any, _: Permissions) -> Any:
    names = sorted(path.stem for path in READY_MADE.glob("*.json"))
    if value is None or value in names:
        return value
    raise Refused(f"found {str(value)[:100]!r}; expected one of {', '.join(names) or 'none'}")


def _scratch(value: Any, _: Permissions) -> Any:
    if value is None:
        return value
    raise Refused("the service decides itself where checkpoints lie; leave it out")


def _prompt(value: Any, _: Permissions) -> Any:
    """A width in a format would make a text of any length."""
    if isinstance(value, str) and re.search(r"\{[^{}]*[:!]", value):
        raise Refused("fields of a format from the network have no width and no conversion, such as {input}")
    return value


def _locales(value: Any, _: Permissions) -> Any:
    """Names that become names of files in Babel."""
    for name in value or ():
        if not re.fullmatch(r"[A-Za-z0-9_]{2,40}", str(name)):
            raise Refused(f"found {str(name)[:100]!r}; expected locales such as fr or zh_Hant")
    return value


# Every key that names a file, a model or code, by where it stands in the config.
RULES: Mapping[str, Rule] = {
    "data.path": _data_file,
    "data.labels": _data_file,
    "data.edges": _data_file,
    "data.communities": _data_file,
    "data.function": _python,
    "data.tokenizer": _model,
    "data.prompt": _prompt,
    "data.languages": _locales,
    "model.path": _model,
    "base.deepspeed": _deepspeed,
    "resources.scratch": _scratch,
}
# Free text that names none of these: columns, tasks, patterns of parameter names, and what is read as plain text.
HARMLESS = frozenset(
    {
        "name",
        "data.arguments",  # only of `data.function`
        "data.features",
        "data.tasks",
        "data.leave_out",
        "data.split_column",
        "data.delimiter",
        "data.missing",
        "data.system",
        "data.columns.task",
        "data.columns.input",
        "data.columns.target",
        "data.columns.messages",
        "model.trains",
        "model.adapter.targets",
        "model.max_memory",  # bytes by device
        "gradients.layers",
        "measure.shared",
        "schedule.shared",
        "schedule.aggregator",  # a name among torchjd's
        "groups.must_link",
        "groups.cannot_link",
        "written_by.version",
        "written_by.commit",
    }
)


def permitted(config: Config, permissions: Permissions) -> Config:
    """The config with its paths as the job gets them.

    Raises
    ------
    ApiError
        422 `not_permitted`: it names something that may not come from the network; `field` is the key.
    """
    sections: dict[str, dict[str, Any]] = {}
    for key, rule in RULES.items():
        section, _, name = key.partition(".")
        own = getattr(config, section)
        if not hasattr(own, name):
            continue
        value = getattr(own, name)
        try:
            allowed = rule(value, permissions)
        except Refused as error:
            raise ApiError(422, f"`{key}`: {error}", "not_permitted", field=f"config.{key}") from error
        if allowed != value:
            sections.setdefault(section, {})[name] = allowed
    updates = {section: getattr(config, section).model_copy(update=changes) for section, changes in sections.items()}
    return config.model_copy(update={**updates, "written_by": None})
