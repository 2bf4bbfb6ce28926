"""Configs from the network: safe YAML without references, or an object, and nothing that is not permitted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml

from affinity_service.config import Config
from affinity_service.config_text import UniqueKeys
from affinity_service.errors import UserError
from affinity_service.service.allowed import Permissions, permitted
from affinity_service.service.errors import ApiError
from affinity_service.stages import check_stage_name, stages_of

# Sections within sections; the schema needs five.
DEEPEST = 30
# Keys altogether; tasks by name are the most.
MOST_KEYS = 10_000


class PlainYAML(UniqueKeys):
    """Without aliases, which let a few lines stand for billions, and not deeper than any config is."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.composer.ComposerError(None, None, "references (*name) are not read here", event.start_mark)
        self.depth += 1
        if self.depth > DEEPEST:
            raise yaml.composer.ComposerError(None, None, f"nested more than {DEEPEST} deep", None)
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def parsed_config(content: Any, most_bytes: int, name: str | None = None) -> Config:
    """A checked config.

    Raises
    ------
    ApiError
        413: the text is too long. 422: it is no config.
    """
    if isinstance(content, str):
        if len(content) > most_bytes:
            raise ApiError(413, f"the config is longer than {most_bytes} characters", field="config")
        content = _from_yaml(content)
    if not isinstance(content, Mapping):
        found = type(content).__name__
        raise _invalid(f"expected keys such as `name` and `data`, found {found}")
    _check_shape(content)
    try:
        # What cannot be written as text cannot be stored; keys that are no text are no keys.
        json.dumps(content, ensure_ascii=False, default=str).encode()
        return Config.parse(content, "config", name)
    except UserError as error:
        raise _invalid(str(error).removeprefix("config: ")) from error
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        # Keys that are no text, lone surrogates, numbers beyond any bound.
        raise _invalid(f"it holds a value that no config has: {str(error)[:200]}") from error


def checked_config(content: Any, name: str | None, until: str, permissions: Permissions, most_bytes: int) -> Config:
    """The config that a job gets: checked against the schema and what may come from the network, and named.

    Raises
    ------
    ApiError
        413, 422: it cannot be used; the message names the key.
    """
    config = parsed_config(content, most_bytes, name)
    if name is not None:
        config = config.model_copy(update={"name": name})
    config = permitted(config, permissions)
    try:
        check_stage_name(until, stages_of(config))
    except UserError as error:
        raise ApiError(422, str(error), field="until") from error
    return config


def _from_yaml(text: str) -> Any:
    try:
        return yaml.load(text, PlainYAML)
    except yaml.YAMLError as error:
        raise _invalid(f"not valid YAML: {error}") from error
    except (ValueError, TypeError, RecursionError, OverflowError, AttributeError) as error:
        # Numbers and dates that are none, in places where YAML expects them.
        raise _invalid(f"not valid YAML: {str(error)[:200]}") from error


def _check_shape(content: Any) -> None:
    level: list[Any] = [content]
    keys = 0
    for _ in range(DEEPEST):
        keys += sum(len(value) for value in level if isinstance(value, Mapping))
        if keys > MOST_KEYS:
            raise _invalid(f"more than {MOST_KEYS} keys")
        deeper: list[Any] = []
        for value in level:
            if isinstance(value, Mapping):
                deeper += [each for each in value.values() if isinstance(each, Mapping | list)]
            elif isinstance(value, list):
                deeper += [each for each in value if isinstance(each, Mapping | list)]
        if not deeper:
            return
        level = deeper
    raise _invalid(f"nested more than {DEEPEST} deep")


def _invalid(message: str) -> ApiError:
    return ApiError(422, f"config: {message}", "invalid_config", field="config")
