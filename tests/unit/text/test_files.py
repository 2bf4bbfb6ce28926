import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from affinity_service.errors import UserError
from affinity_service.text.files import read_rows
from affinity_service.text.objects import rows_from_dataset, rows_of
from tests.texts import topic_rows, write_jsonl

ROWS = topic_rows(3)


def contents(path):
    return [dict(raw.content) for raw in read_rows(str(path))]


def test_lines_compressed_lines_and_parquet_hold_the_same(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", ROWS)
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as stream:
        stream.write("\n".join(json.dumps(row) for row in ROWS) + "\n\n")
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "c.parquet")
    for name in ("a.jsonl", "b.jsonl.gz", "c.parquet"):
        assert contents(tmp_path / name) == ROWS
    assert contents(tmp_path) == [*ROWS, *ROWS, *ROWS], "a folder is all its files"
    assert [raw.place for raw in read_rows(str(tmp_path))][1] == f"{tmp_path}/a.jsonl: line 2"


def test_text_with_line_separators_of_unicode_is_one_line(tmp_path):
    row = {"task": "t", "input": "one\u2028two\x85", "target": "a"}
    assert contents(write_jsonl(tmp_path / "a.jsonl", [row])) == [row]


def test_what_datasets_saved_is_read_without_it(tmp_path):
    datasets = pytest.importorskip("datasets", reason="writes the folders that are read")
    made = datasets.Dataset.from_list(ROWS)
    made.filter(lambda row: row["task"] == "capital").save_to_disk(tmp_path / "one")
    assert contents(tmp_path / "one") == ROWS[::2]
    parts = datasets.DatasetDict(train=made.select(range(4)), test=made.select(range(4, 6)))
    parts.save_to_disk(tmp_path / "two")
    expected = [{"split": "train" if number < 4 else "test", **row} for number, row in enumerate(ROWS)]
    assert contents(tmp_path / "two") == expected
    assert rows_from_dataset(parts) == expected
    assert rows_from_dataset(made.select([1, 0])) == [ROWS[1], ROWS[0]]
    (tmp_path / "one" / "data-00000-of-00001.arrow").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"data-00000-of-00001.arrow: not a readable Arrow file"):
        contents(tmp_path / "one")


def test_objects_of_python_are_rows():
    table = pa.Table.from_pylist(ROWS)
    assert rows_from_dataset(table) == rows_from_dataset(table.to_pandas()) == rows_from_dataset(iter(ROWS)) == ROWS
    with pytest.raises(UserError, match="m:f: row 1 is int, expected a mapping"):
        list(rows_of([{}, 3], "m:f"))
    with pytest.raises(UserError, match="m:f gave NoneType, expected rows"):
        list(rows_of(None, "m:f"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"task": "t"', "line 2 is not valid JSON: .*; expected one object per line"),
        ("[1]", "line 2 is list, expected an object"),
    ],
)
def test_a_broken_line_is_named(tmp_path, line, message):
    path = write_jsonl(tmp_path / "a.jsonl", ROWS[:1])
    with open(path, "a") as stream:
        stream.write(line + "\n")
    with pytest.raises(UserError, match=message):
        contents(path)


def test_what_is_not_there_is_named(tmp_path):
    write_jsonl(tmp_path / "topics.jsonl", ROWS)
    with pytest.raises(UserError, match=r"no such file or folder; did you mean topics.jsonl"):
        contents(tmp_path / "topic.jsonl")
    os.mkdir(tmp_path / "empty")
    with pytest.raises(UserError, match=r"empty: the folder holds no \.jsonl"):
        contents(tmp_path / "empty")
    Path(tmp_path / "cut.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"cut.parquet: not a readable Parquet table"):
        contents(tmp_path / "cut.parquet")
