"""Data files broken in one seeded way each."""

from __future__ import annotations

import io
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from affinity_service.tasks.importing import import_csv
from tests.broken.cases import ROWS, TASKS, Case, Workspace
from tests.broken.configs import misspelt, ticked


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
