"""Five hundred broken configs and files through the entry of the command line: never a traceback, always the name.

Each case takes something valid and breaks it in one seeded way. What is still valid afterwards may pass; what is
refused leaves with exit code 2 and a message that names the key, column or file that was broken.
"""

from __future__ import annotations

import contextlib
import copy
import io
import random
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from affinity_service.cli import attempt
from affinity_service.config import Config
from affinity_service.tasks import load_suite
from affinity_service.tasks.importing import import_csv

CASES = 500
REFUSED_AT_LEAST = 400
ROWS = 40
TASKS = ("spam", "mood", "size")
JUNK: tuple[Any, ...] = (
    -1, 0, 1.5, -0.5, 10**9, float("nan"), float("inf"), True, None, "", "banana", "\N{SNOWMAN}", [], ["banana"],
    [[1]], {}, {"banana": 1}, [1, 2, 3], "2020-13-45", "a\0b", "../x",
)  # fmt: skip


@dataclass
class Case:
    """What to do, and what its message must name: one word of every group."""

    label: str
    action: Callable[[], Any]
    named: list[tuple[str, ...]] = field(default_factory=list)


class Workspace:
    """Valid files of every format, and a fresh name for each broken one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.count = 0
        rng = np.random.default_rng(0)
        x = rng.normal(size=(ROWS, 2)).round(3)
        spam, mood = (x[:, 0] > 0).astype(int), np.where(x[:, 1] > 0, "high", "low")
        size = (x @ [1, 2]).round(3)
        self.lines = ["x,y,spam,mood,size"]
        self.lines += [f"{a},{b},{s},{m},{z}" for (a, b), s, m, z in zip(x, spam, mood, size, strict=True)]
        self.arff = ["@relation made", "@attribute x numeric", "@attribute y numeric", "@attribute spam {0,1}"]
        self.arff += ["@attribute mood {low,high}", "@attribute size numeric", "@data", *self.lines[1:]]
        self.xml = "<labels>\n" + "".join(f'<label name="{name}"></label>\n' for name in TASKS) + "</labels>\n"
        self.table = pa.table(
            {
                "features": pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 2),
                **{"spam": spam, "mood": mood, "size": size},
            }
        )
        self.parquet = self._parquet()
        (root / "my_made_suite.py").write_text(
            "import numpy as np\nfrom affinity_service.tasks import Suite\n"
            f"def make(rows={ROWS}, names=('a', 'b')):\n"
            "    X = np.random.default_rng(0).normal(size=(rows, 3))\n"
            "    return Suite.from_arrays(X, X[:, :2] > 0, list(names))\n"
        )

    def _parquet(self) -> bytes:
        stream = io.BytesIO()
        pq.write_table(self.table, stream, write_page_checksum=True)
        return stream.getvalue()

    def write(self, content: str | bytes, suffix: str) -> Path:
        self.count += 1
        path = self.root / f"broken{self.count}{suffix}"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def data(self, source: str) -> dict[str, Any]:
        """A valid `data` section over valid files."""
        if source == "python":
            return {"source": "python", "function": "my_made_suite:make", "arguments": {"rows": 30}}
        content = {"csv": "\n".join(self.lines), "arff": "\n".join(self.arff), "parquet": self.parquet}[source]
        data: dict[str, Any] = {"source": source, "path": str(self.write(content, f".{source}"))}
        if source == "arff":
            data["labels"] = str(self.write(self.xml, ".xml"))
        elif source == "csv":
            data["tasks"] = {"spam": "binary", "mood": "multiclass", "size": "regression"}
        return data

    def config(self, source: str) -> dict[str, Any]:
        """Every key of the schema, with a valid value."""
        config = Config.parse({"name": "valid", "data": self.data(source)})
        return config.model_dump(mode="json", exclude={"written_by"})

    def load(self, config: dict[str, Any] | str | bytes) -> Callable[[], Any]:
        text = config if isinstance(config, str | bytes) else yaml.safe_dump(config, allow_unicode=True)
        path = self.write(text, ".yaml")
        return lambda: load_suite(Config.load(path).data)


# --- configs ----------------------------------------------------------------------------------------------------


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


def table_case(work: Workspace, label: str, lines: list[str], columns: tuple[str, ...], rng: random.Random) -> Case:
    """The same broken rows as CSV through a config or through `affinity import`, or as ARFF."""
    kinds = {"spam": "binary", "mood": "multiclass", "size": "regression"}
    named = [columns] if columns else []
    form = rng.choice(["csv", "import", "arff"]) if lines and lines[0] == work.lines[0] else "csv"
    if form == "arff":
        head = [line.replace("{low,high}", "string") for line in work.arff[:7]]
        path = work.write("\n".join([*head, *lines[1:]]), ".arff")
        data = {"source": "arff", "path": str(path), "tasks": kinds}
    else:
        path = work.write("\n".join(lines) + "\n", ".csv")
        data = {"source": "csv", "path": str(path), "tasks": kinds}
    if form == "import":
        action: Callable[[], Any] = lambda: import_csv(str(path), str(path.with_suffix(".out")), tasks=kinds)  # noqa: E731
    else:
        action = work.load({"name": "a", "data": data})
    return Case(f"{form}: {label}", action, [(path.name,), *named])


def bad_cell(rng: random.Random, work: Workspace) -> Case:
    row, column = rng.randrange(1, ROWS + 1), rng.choice(["x", "y", "size", "spam"])
    value = rng.choice(["nan", "inf", "-inf", "1e400", "many", "2020-01-01", "", "?", "1.2.3", "0x1f", "\N{SNOWMAN}"])
    lines = list(work.lines)
    cells = lines[row].split(",")
    cells[lines[0].split(",").index(column)] = value
    lines[row] = ",".join(cells)
    # ARFF knows the line of a bad number, the checks know the column.
    return table_case(work, f"{column} of row {row} = {value!r}", lines, (*ticked(column), f"line {row + 7} "), rng)


def bad_column(rng: random.Random, work: Workspace) -> Case:
    column = rng.choice(["x", "y", "spam", "mood", "size"])
    index = work.lines[0].split(",").index(column)
    value = rng.choice(["", "0", "1", "7", "word", "inf", "true"])
    lines = [work.lines[0]]
    for line in work.lines[1:]:
        cells = line.split(",")
        cells[index] = value
        lines.append(",".join(cells))
    return table_case(work, f"all of {column} = {value!r}", lines, (*ticked(column), "line 8 "), rng)


def bad_header(rng: random.Random, work: Workspace) -> Case:
    names = work.lines[0].split(",")
    index = rng.randrange(len(names))
    old = names[index]
    change = rng.choice(["duplicate", "empty", "misspelt", "drop", "swap"])
    if change == "duplicate":
        names[index] = rng.choice([name for name in names if name != old])
    elif change == "empty":
        names[index] = ""
    elif change == "misspelt":
        names[index] = misspelt(rng, old)
    elif change == "drop":
        names.pop(index)
    else:
        names[index], names[0] = names[0], names[index]
    named = {
        "duplicate": ticked(names[min(index, len(names) - 1)]),
        "empty": (f"column {index + 1}",),
        "misspelt": (*ticked(old), f"column {index + 1}"),
        "drop": ("row 2 ",),
        "swap": ticked(old, names[min(index, len(names) - 1)]),
    }
    return table_case(work, f"{change} {old}", [",".join(names), *work.lines[1:]], named[change], rng)


def bad_shape(rng: random.Random, work: Workspace) -> Case:
    lines, row = list(work.lines), rng.randrange(1, ROWS + 1)
    change = rng.choice(["short", "long", "header only", "nothing", "few", "quote", "cut", "one class"])
    if change == "short":
        lines[row] = lines[row].rsplit(",", rng.randrange(1, 4))[0]
    elif change == "long":
        lines[row] += ",1" * rng.randrange(1, 4)
    elif change == "header only":
        lines = lines[:1]
    elif change == "nothing":
        lines = []
    elif change == "few":
        lines = lines[: rng.randrange(2, 5)]
    elif change == "quote":
        lines[row] = lines[row].replace(",", ',"', 1)
    elif change == "cut":
        lines = [*lines[:row], lines[row][: rng.randrange(1, 10)]]
    else:
        lines = [lines[0], *(line for line in lines[1:] if line.split(",")[2] == "1")]
    return table_case(work, f"{change} at {row}", lines, (), rng)


def bad_bytes(rng: random.Random, work: Workspace) -> Case:
    source = rng.choice(["csv", "arff", "parquet", "parquet", "labels"])
    data = work.data("arff" if source == "labels" else source)
    path = Path(data["labels" if source == "labels" else "path"])
    content = path.read_bytes()
    change = rng.choice(
        ["cut", "cut", "flip", "latin1", "nul", "empty", *([] if source == "parquet" else ["utf-16", "gzip"])]
    )
    at = rng.randrange(len(content))
    if change == "cut":
        content = content[:at]
    elif change == "flip":
        flipped = bytearray(content)
        for place in rng.sample(range(len(content)), rng.choice([1, 1, 3, 30])):
            flipped[place] ^= 1 << rng.randrange(8)
        content = bytes(flipped)
    elif change == "latin1":
        content = content[:at] + b"\xe9\xff" + content[at:]
    elif change == "utf-16":
        content = content.decode().encode("utf-16")
    elif change == "nul":
        content = content[:at] + b"\0" + content[at:]
    elif change == "gzip":
        shutil.move(path, path.with_suffix(".gz"))
        path = path.with_suffix(".gz")
        data["labels" if source == "labels" else "path"] = str(path)
    else:
        content = b""
    path.write_bytes(content)
    # Broken content can make two files disagree; then either is named.
    names = tuple(Path(data[key]).name for key in ("path", "labels") if key in data)
    return Case(f"{source} {change} at {at}", work.load({"name": "a", "data": data}), [names])


def bad_parquet(rng: random.Random, work: Workspace) -> Case:
    table, column = work.table, rng.choice(TASKS)
    features = table["features"].to_pylist()
    label, named, change = rng.choice(
        [
            ("other lengths", "features", {"features": [*features[:-1], [1.0]]}),
            ("no list", "features", {"features": [*features[:-1], None]}),
            ("NaN", "features", {"features": [*features[:-1], [1.0, float("nan")]]}),
            ("infinite", "features", {"features": [*features[:-1], [1.0, float("inf")]]}),
            ("text lists", "features", {"features": [["a", "b"]] * ROWS}),
            ("empty lists", "features", {"features": pa.array([[]] * ROWS, pa.list_(pa.float32()))}),
            ("text", "features", {"features": ["a"] * ROWS}),
            ("all missing", column, {column: pa.nulls(ROWS)}),
            ("dates", column, {column: pa.array(range(ROWS), pa.date32())}),
            ("lists", column, {column: [[1]] * ROWS}),
            ("one value", column, {column: [1] * ROWS}),
            ("infinite label", column, {column: [float("inf"), *range(ROWS - 1)]}),
            ("names", column, {column: [f"row {i}" for i in range(ROWS)] * 1}),
            ("bytes", column, {column: [b"\xff"] * ROWS}),
            ("no rows", "no rows", {}),
            ("twice", column, {}),
            ("no name", "no name", {}),
            ("no tasks", "tasks", {}),
        ]
    )
    for name, values in change.items():
        table = table.set_column(
            table.column_names.index(name), name, pa.array(values) if isinstance(values, list) else values
        )
    if label == "no rows":
        table = table.slice(0, 0)
    elif label == "twice":
        table = table.append_column(column, table[column])
    elif label == "no name":
        table = table.rename_columns(["features", "spam", "", "size"])
    elif label == "no tasks":
        table = table.select(["features"])
    stream = io.BytesIO()
    pq.write_table(table, stream)
    path = work.write(stream.getvalue(), ".parquet")
    data = {"source": "parquet", "path": str(path)}
    if label in ("names", "one value") and rng.random() < 0.5:
        data["tasks"] = {column: "binary"}
    return Case(
        f"parquet {label} {column}",
        work.load({"name": "a", "data": data}),
        [(path.name,), (*ticked(named), named if " " in named else "features:")],
    )


def bad_labels(rng: random.Random, work: Workspace) -> Case:
    data, xml = work.data("arff"), work.xml
    name = rng.choice(TASKS)
    xml = rng.choice(
        [
            xml.replace(f'"{name}"', f'"{misspelt(rng, name)}"'),
            xml.replace(f'name="{name}"', ""),
            xml.replace(f'"{name}"', f'"{next(other for other in TASKS if other != name)}"'),
            xml.replace("</labels>", '<label name="x"></label><label name="y"></label></labels>'),
            xml.replace("label ", "lable "),
            xml.replace("</labels>", ""),
            xml.replace("<labels>", "<labels"),
            xml.replace('"', ""),
            "",
            "<labels/>",
        ]
    )
    path = Path(data["labels"])
    path.write_text(xml)
    return Case(f"labels {xml!r}", work.load({"name": "a", "data": data}), [(path.name, Path(data["path"]).name)])


MUTATIONS: tuple[Callable[[random.Random, Workspace], Case], ...] = (
    renamed_key, renamed_key, junk_value, junk_value, deleted_key, section_of_another_type, unknown_key, broken_yaml,
    swapped_paths, wrong_columns, wrong_function, bad_cell, bad_cell, bad_column, bad_header, bad_shape, bad_bytes,
    bad_bytes, bad_parquet, bad_parquet, bad_labels,
)  # fmt: skip


def told(action: Callable[[], Any]) -> tuple[int, str]:
    """Exit code and standard error, as the command line gives them."""
    stream = io.StringIO()
    with contextlib.redirect_stderr(stream):
        code = attempt(action)
    return code, stream.getvalue()


@pytest.mark.parametrize("source", ["csv", "arff", "parquet", "python"])
def test_what_is_broken_below_is_valid_before(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    work = Workspace(tmp_path)
    assert told(work.load(work.config(source))) == (0, "")
    sys.modules.pop("my_made_suite", None)


def test_five_hundred_broken_inputs_are_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    work, refused, wrong = Workspace(tmp_path), 0, []
    for index in range(CASES):
        rng = random.Random(index)
        case = MUTATIONS[index % len(MUTATIONS)](rng, work)
        code, message = told(case.action)
        refused += code == 2
        fine = code == 0 or (
            code == 2 and "Traceback" not in message and all(any(w in message for w in words) for words in case.named)
        )
        if not fine:
            wrong.append(f"{index} {case.label}: code {code}, expected {case.named} in: {message}")
    sys.modules.pop("my_made_suite", None)
    assert not wrong, f"{len(wrong)} of {CASES}:\n" + "\n".join(wrong)
    assert refused >= REFUSED_AT_LEAST, f"only {refused} of {CASES} were refused"
