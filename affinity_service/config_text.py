"""What a config's text may not say, and how a mistake in it is told."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

# A text of another kind altogether can have thousands.
MOST_MISTAKES = 20


class UniqueKeys(yaml.SafeLoader):
    """YAML forbids a key twice in one mapping; PyYAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(
                    "while reading a mapping", node.start_mark, f"found `{key}` a second time", key_node.start_mark
                )
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep)


def explain(error: ValidationError, origin: str, root: type[BaseModel]) -> str:
    """One line per mistake: the dotted key, what was found, what is expected, the nearest right key. The first of them,
    where they are many."""
    lines = []
    for item in error.errors()[:MOST_MISTAKES]:
        location = [str(part) for part in item["loc"]]
        key = ".".join(location) or "(top level)"
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(
                location[-1].strip().lower(), _known_keys(item["loc"], root), n=1, cutoff=0.5
            )
            hint = f"; did you mean `{near[0]}`?" if near else ""
            lines.append(f"`{key}` is not a known key{hint}")
        elif item["type"] == "missing":
            lines.append(f"`{key}` is missing")
        elif item["type"] in ("union_tag_not_found", "union_tag_invalid"):
            tag = item["ctx"]["discriminator"].strip("'")
            missing = item["type"] == "union_tag_not_found"
            lines.append(f"`{key}.{tag}`" + (" is missing" if missing else f": {item['msg']}"))
        else:
            message = item["msg"].removeprefix("Value error, ")
            found = repr(item.get("input"))
            found = found if len(found) <= 80 else found[:77] + "..."
            # A rule over several keys names them itself; its input is the whole section.
            over_section = item["type"] == "value_error" and isinstance(item.get("input"), Mapping)
            lines.append((f"`{key}`: " if location else "") + message + ("" if over_section else f" (found {found})"))
    if error.error_count() > MOST_MISTAKES:
        lines.append(f"and {error.error_count() - MOST_MISTAKES} more")
    return f"{origin}: " + "; ".join(lines)


def _known_keys(location: tuple[int | str, ...], root: type[BaseModel]) -> list[str]:
    """Keys allowed where `location` points, walking the models; union tags are names of sources."""
    models: list[type[BaseModel]] = [root]
    for part in location[:-1]:
        following: list[type[BaseModel]] = []
        for model in models:
            field = model.model_fields.get(str(part))
            if field is not None:
                following += _models_in(field.annotation)
        # A discriminated union adds its tag to the location; it selects among the models at hand.
        tagged = [m for m in models if "source" in m.model_fields and m.model_fields["source"].default == part]
        models = following or tagged or models
    return sorted({key for model in models for key in model.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models_in(part)]
