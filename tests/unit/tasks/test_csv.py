import gzip

import numpy as np
import pytest

from affinity_service.config import Config
from affinity_service.config_sources import CsvSource
from affinity_service.errors import UserError
from affinity_service.tasks import TRAIN, load_suite
from affinity_service.tasks.csv import read_csv


def rows(count=60):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(count, 2))
    lines = ["name,x,y,spam,mood,size"]
    for i, (x, y) in enumerate(features):
        spam = "NA" if i % 7 == 0 else int(x > 0)
        mood = "" if i % 9 == 0 else "low" if y < 0 else "high"
        lines.append(f'"row, {i}",{x:.4f},{y:.4f},{spam},{mood},{"?" if i % 5 == 0 else f"{x * 3:.3f}"}')
    return lines


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "t.csv", rows())


def write(path, lines):
    path.write_text("\n".join(lines) + "\n")
    return str(path)


TASKS = ["spam", "mood", "size"]


def test_features_are_all_other_columns_and_markers_are_missing_labels(path):
    suite = read_csv(CsvSource(path=path, tasks=TASKS, leave_out=["name"]))
    assert suite.feature_names == ("x", "y")
    assert [(t.name, t.kind) for t in suite.tasks] == [
        ("spam", "binary"),
        ("mood", "multiclass"),
        ("size", "regression"),
    ]
    missing = ~suite.observed
    assert missing[:, 0].nonzero()[0].tolist() == list(range(0, 60, 7))
    assert missing[:, 1].nonzero()[0].tolist() == list(range(0, 60, 9))
    assert missing[:, 2].nonzero()[0].tolist() == list(range(0, 60, 5))


def test_tasks_are_all_other_columns_when_features_are_named(path):
    suite = read_csv(CsvSource(path=path, features=["y", "x"], leave_out=["name"]))
    assert suite.feature_names == ("y", "x")
    assert suite.names == TASKS


def test_kinds_delimiters_markers_and_gzip(tmp_path):
    text = "\n".join(rows()).replace("row, ", "row ").replace(",", ";").replace("NA", "unknown")
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(text.encode()))
    source = CsvSource(
        path=str(path),
        tasks={"spam": "regression", "size": None},
        leave_out=["name", "mood"],
        delimiter=";",
        missing=["unknown", "?"],
    )
    suite = read_csv(source)
    assert [t.kind for t in suite.tasks] == ["regression", "regression"]
    assert np.isnan(suite.labels[::7, 0]).all()


def test_a_column_is_typed_by_all_of_its_cells(tmp_path):
    # More than Arrow's block of 1 MB of whole numbers before the first fraction.
    lines = ["x,filler,label", *(f"{i % 3},{'0' * 40},{i % 2}" for i in range(30_000)), "0.5,0,1"]
    suite = read_csv(CsvSource(path=write(tmp_path / "t.csv", lines), tasks=["label"]))
    assert suite.inputs[-1, 0] == np.float32(0.5)


def test_tasks_with_rows_of_their_own(tmp_path):
    rng = np.random.default_rng(1)
    lines = ["x,a,b"]
    for i in range(80):
        x = rng.normal()
        label = int(x + 0.1 * rng.normal() > 0)
        lines.append(f"{x:.4f},{label},NA" if i < 40 else f"{x:.4f},NA,{1 - label}")
    suite = load_suite(CsvSource(path=write(tmp_path / "t.csv", lines), tasks=["a", "b"]))
    assert suite.observed.sum(axis=1).tolist() == [1] * 80
    a, b = set(suite.rows(TRAIN, [0])), set(suite.rows(TRAIN, [1]))
    assert a
    assert b
    assert not a & b


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("\ufeffx,a\n".encode() + b"".join(f"{i},{i % 2}\n".encode() for i in range(20)))
    assert read_csv(CsvSource(path=str(path), tasks=["a"])).feature_names == ("x",)


def change(find, put, line=None):
    def apply(lines):
        return [text.replace(find, put, 1) if line is None or i == line else text for i, text in enumerate(lines)]

    return apply


def cell(line, column, value):
    def apply(lines):
        cells = lines[line].rsplit(",", 5)
        cells[column] = value
        return [*lines[:line], ",".join(cells), *lines[line + 1 :]]

    return apply


@pytest.mark.parametrize(
    ("mutate", "message"),
    [
        (cell(4, 1, "NaN"), "example 3, feature `x`: missing or NaN"),
        (cell(4, 2, "inf"), "example 3, feature `y`: infinite"),
        (cell(4, 2, "1e300"), "example 3, feature `y`: infinite"),
        (cell(4, 2, "many"), "column `y` must hold numbers, found text: 'many' in row 3"),
        (cell(4, 5, "inf"), "task `size`: label of example 3 is infinite"),
        (change("spam", "x", 0), "column `x` occurs 2 times (columns 2, 4)"),
        (change("spam", "", 0), "column 4 (after `y`) has no name"),
        (lambda lines: lines[:1], "no rows"),
        (lambda lines: [], "the file is empty"),
        (lambda lines: [*lines[:-1], lines[-1][:12]], "row 61 (the header is row 1) has 2 cells, the header 6"),
        (change("row, 3", 'row", 3', 4), "line 5; a quote inside a value is written twice"),
        (lambda lines: [lines[0], *(cell(i, 3, "NA")(lines)[i] for i in range(1, 61))], "task `spam` has no label"),
        (lambda lines: [lines[0], *(cell(i, 3, "1")(lines)[i] for i in range(1, 61))], "task `spam` has one class"),
        (lambda lines: [lines[0], *(cell(i, 5, "7")(lines)[i] for i in range(1, 61))], "task `size`: all training"),
        (lambda lines: [lines[0], *(cell(i, 1, "")(lines)[i] for i in range(1, 61))], "column `x` must hold numbers"),
        (lambda lines: lines[:3], "task `spam` has one class only (1) among its 1 training labels"),
    ],
)
def test_bad_tables_are_refused_by_name(tmp_path, mutate, message):
    path = write(tmp_path / "bad.csv", mutate(rows())) if mutate(rows()) else str(tmp_path / "bad.csv")
    if not mutate(rows()):
        (tmp_path / "bad.csv").touch()
    # A whole number column `7` is regression only if it says so.
    tasks = {"spam": "binary", "mood": None, "size": "regression"}
    with pytest.raises(UserError) as error:
        load_suite(CsvSource(path=path, tasks=tasks, leave_out=["name"]))
    assert message in str(error.value)
    assert "bad.csv" in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ["spam", "spam"]}, "column `spam` is named twice under `tasks`"),
        ({"tasks": ["spam"], "features": ["spam"]}, "column `spam` is named under `features` and `tasks`"),
        ({"tasks": ["spma"]}, "column `spma` is missing (under `tasks`, near to `spam`)"),
        ({"tasks": ["name", "x", "y", "spam", "mood", "size"]}, "no column is left for `features`"),
        ({"tasks": ["spam"]}, "column `name` must hold numbers, found text: 'row, 0' in row 0"),
        ({"features": ["x"]}, "column `name` holds 60 different texts"),
        (
            {"tasks": {"mood": "regression"}, "features": ["x"]},
            "column `mood` cannot be a regression task: it must hold numbers, found text",
        ),
        ({"tasks": {"name": "binary"}, "features": ["x"]}, "column `name` holds 60 different texts"),
        ({"tasks": ["spam"], "features": ["x"], "split_column": "mood"}, "`mood` must hold train, validation, test"),
        ({"tasks": ["spam"], "features": ["x"], "delimiter": ";"}, "column `x` is missing"),
    ],
)
def test_wrong_columns_are_named(path, options, message):
    with pytest.raises(UserError) as error:
        load_suite(CsvSource(path=path, **options))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "`data.csv.path` is missing"),
        ({"path": "t.csv"}, "`data.csv`: name the columns of `tasks` or of `features`"),
        ({"path": "t.csv", "task": ["a"]}, "`data.csv.task` is not a known key; did you mean `tasks`?"),
        ({"path": "t.csv", "tasks": ["a"], "delimiter": ";;"}, "`data.csv.delimiter`"),
        ({"path": "t.csv", "tasks": ["a"], "delimiter": '"'}, "cannot separate columns"),
        ({"path": "t.csv", "tasks": {"a": "ternary"}}, "`data.csv.tasks"),
        ({"path": "", "tasks": ["a"]}, "`data.csv.path`"),
    ],
)
def test_wrong_settings_are_named(data, message):
    with pytest.raises(UserError) as error:
        Config.parse({"name": "a", "data": {"source": "csv", **data}})
    assert message in str(error.value)


def test_paths_that_are_no_readable_file(tmp_path, path):
    for wanted, message in (
        (str(tmp_path), "is a folder, expected a file"),
        (str(tmp_path / "t.cvs"), "no such file or folder; did you mean t.csv?"),
        ("a\0b", "no such file or folder"),
    ):
        with pytest.raises(UserError, match=message):
            read_csv(CsvSource(path=wanted, tasks=["spam"]))
    broken = tmp_path / "b.csv.gz"
    broken.write_bytes(gzip.compress(b"x,a\n1,0\n" * 50)[:-12])
    with pytest.raises(UserError, match=r"b\.csv\.gz"):
        read_csv(CsvSource(path=str(broken), tasks=["a"]))


def test_text_that_is_not_utf8_is_named_by_line(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("x,a\n1,0\n2,é\n".encode("latin1"))
    with pytest.raises(UserError, match=r"t\.csv: line 3 is not UTF-8 text \(byte 0xe9\)"):
        read_csv(CsvSource(path=str(path), tasks=["a"]))
