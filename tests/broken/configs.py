"""Configs broken in one seeded way each."""

from __future__ import annotations

import contextlib
import copy
import random
from pathlib import Path
from typing import Any

import yaml

from tests.broken.cases import JUNK, Case, Workspace


def paths_of(tree: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where every key of a nested mapping is."""
    if not isinstance(tree, dict):
        return []
    return [place for key, value in tree.items() for place in ((*above, key), *paths_of(value, (*above, key)))]


def parent_of(tree: dict[str, Any], place: tuple[Any, ...]) -> dict[str, Any]:
    for key in place[:-1]:
        tree = tree[key]
    return tree


def misspelt(rng: random.Random, word: str) -> str:
    at = rng.randrange(len(word))
    return rng.choice([word[:at] + word[at + 1 :], word[:at] + "x" + word[at:], word.upper(), f"{word}_", f" {word}"])


def ticked(*names: str) -> tuple[str, ...]:
    """Names as messages write them, so that a letter inside another word does not count."""
    return tuple(f"`{name}`" for name in names)


def key_words(key: str) -> tuple[str, ...]:
    """A key as messages write it: at the end or within a dotted name, or by itself in a rule over several keys."""
    return (f"`{key}`", f".{key}`", f".{key}.", f"`{key}.", f" {key} ")


def any_source(rng: random.Random) -> str:
    return rng.choice(["csv", "arff", "parquet", "python"])


def renamed_key(rng: random.Random, work: Workspace) -> Case:
    config = work.config(any_source(rng))
    place = rng.choice(paths_of(config))
    parent, key = parent_of(config, place), place[-1]
    new = misspelt(rng, key)
    parent[new] = parent.pop(key)
    return Case(f"{place} as {new!r}", work.load(config), [(f"{new}`", f"'{new}'", f"`{key}`", f".{key}`")])


def deleted_key(rng: random.Random, work: Workspace) -> Case:
    config = work.config(any_source(rng))
    place = rng.choice([("data",), ("data", "source"), ("data", "path"), ("data", "function"), ("data", "tasks")])
    parent_of(config, place).pop(place[-1], None)
    return Case(f"without {place}", work.load(config), [key_words(place[-1])])


def junk_value(rng: random.Random, work: Workspace) -> Case:
    config = work.config(any_source(rng))
    place = rng.choice(paths_of(config))
    value = rng.choice(JUNK)
    parent_of(config, place)[place[-1]] = copy.deepcopy(value)
    inner = (
        value[0] if isinstance(value, list) and value else next(iter(value), "") if isinstance(value, dict) else value
    )
    # What names a column, path or function is named itself.
    named = (*key_words(str(place[-1])), *((str(inner),) if str(inner) else ()))
    return Case(f"{place} = {value!r}", work.load(config), [named])


def section_of_another_type(rng: random.Random, work: Workspace) -> Case:
    config = work.config(any_source(rng))
    section = rng.choice([key for key, value in config.items() if isinstance(value, dict)])
    config[section] = rng.choice(["yes", 3, [1], [config[section]], 2.5])
    return Case(f"{section} = {config[section]!r}", work.load(config), [key_words(section)])


def unknown_key(rng: random.Random, work: Workspace) -> Case:
    config = work.config(any_source(rng))
    sections = [config, *(value for value in config.values() if isinstance(value, dict))]
    rng.choice(sections)["verbosity"] = rng.choice(JUNK)
    return Case("verbosity", work.load(config), [key_words("verbosity")])


def broken_yaml(rng: random.Random, work: Workspace) -> Case:
    text = yaml.safe_dump(work.config(any_source(rng))).encode()
    at = rng.randrange(len(text))
    kind = rng.choice(["cut", "byte", "insert", "latin1"])
    if kind == "cut":
        text = text[: rng.randrange(len(text) // 4)]
    elif kind == "byte":
        text = text[:at] + bytes([rng.randrange(256)]) + text[at + 1 :]
    elif kind == "insert":
        text = text[:at] + rng.choice([b"\t", b"{", b"]", b": ", b'"', b"\x00", b"- ", b"&a *b", b"\n"]) + text[at:]
    else:
        text = text[:at] + "é".encode("latin1") + text[at:]
    action = work.load(text)
    named = [f"broken{work.count}.yaml"]
    with contextlib.suppress(Exception):  # where the text still says what to read, that is named
        data = yaml.safe_load(text)["data"]
        named += [str(data[key]) for key in ("path", "labels", "function") if key in data]
    return Case(f"yaml {kind} at {at}", action, [tuple(named)])


def swapped_paths(rng: random.Random, work: Workspace) -> Case:
    source, other = rng.sample(["csv", "arff", "parquet"], 2)
    data, wrong = work.data(source), work.data(other)["path"]
    key = rng.choice([key for key in ("path", "labels") if key in data])
    data[key] = rng.choice([wrong, str(work.root), wrong + "x", str(Path(wrong, "inside")), data[key].upper()])
    return Case(f"{source}.{key} = {data[key]}", work.load({"name": "a", "data": data}), [(Path(data[key]).name,)])


def wrong_columns(rng: random.Random, work: Workspace) -> Case:
    data = work.data(rng.choice(["csv", "arff", "parquet"]))
    data.pop("labels", None)
    name = rng.choice(["spam", "mood", "size", "spma", "Spam", "", "x,y", "not there"])
    change = rng.choice(
        [
            {"tasks": [name, "spam"]},
            {"tasks": ["spam"], "features": ["spam"]},
            {"tasks": ["size"], "features": [name]},
            {"tasks": ["size"], "split_column": name},
            {"tasks": ["size"], "leave_out": [name, "size"]},
            {"tasks": {"mood": "regression"}},
            {"tasks": {"size": "binary"}},
            {"tasks": {"size": "multiclass"}},
        ]
    )
    action = work.load({"name": "a", "data": {**data, **change}})
    return Case(f"{change}", action, [ticked(name, "spam", "mood", "size", "features")])


def wrong_function(rng: random.Random, work: Workspace) -> Case:
    data = work.data("python")
    function, arguments = rng.choice(
        [
            (f"{misspelt(rng, 'my_made_suite')}:make", {}),
            (f"my_made_suite:{misspelt(rng, 'make')}", {}),
            ("my_made_suite:np", {}),
            ("json:dumps", {"obj": 1}),
            (rng.choice(["make", "my_made_suite", "my_made_suite:", ":make", "a:b:c", ""]), {}),
            ("my_made_suite:make", {misspelt(rng, "rows"): 30}),
            ("my_made_suite:make", {"rows": rng.choice([0, -3, 1, 2, "many", None])}),
            ("my_made_suite:make", {"names": rng.choice([["a", "a"], ["a"], [], ["a", ""], 3])}),
        ]
    )
    data.update(function=function, arguments=arguments)
    return Case(
        f"{function} {arguments}", work.load({"name": "a", "data": data}), [(function or "function", "function")]
    )


# --- files ------------------------------------------------------------------------------------------------------
