import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from affinity_service import cli
from affinity_service.config_sources import ArffSource, CsvSource, ParquetSource
from affinity_service.errors import UserError
from affinity_service.tasks import load_suite
from affinity_service.tasks.arff import read_arff
from affinity_service.tasks.csv import read_csv
from affinity_service.tasks.importing import import_arff, import_csv
from affinity_service.tasks.parquet import read_parquet
from tests.unit.tasks.test_arff import dense
from tests.unit.tasks.test_arff import write as write_arff
from tests.unit.tasks.test_csv import rows
from tests.unit.tasks.test_csv import write as write_csv


def same(a, b):
    np.testing.assert_array_equal(a.inputs, b.inputs)
    np.testing.assert_array_equal(a.labels, b.labels)
    np.testing.assert_array_equal(a.split, b.split)
    assert a.tasks == b.tasks


def test_csv_becomes_the_native_form_and_reads_the_same(tmp_path):
    path = write_csv(tmp_path / "t.csv", rows())
    columns = {"tasks": {"spam": "regression", "mood": None, "size": None}, "leave_out": ["name"]}
    out = str(tmp_path / "new" / "t.parquet")
    done = import_csv(path, out, **columns)
    same(read_parquet(ParquetSource(path=out)), read_csv(CsvSource(path=path, **columns)))
    assert (done.rows, done.features, done.tasks) == (60, 2, {"regression": 2, "multiclass": 1})
    assert done.left_out == [("name", "neither a feature nor a task")]
    schema = pq.read_schema(out)
    assert schema.names == ["features", "spam", "mood", "size"]
    assert str(schema.field("features").type).startswith("fixed_size_list<")
    assert pq.read_table(out)["mood"].null_count == 7


def test_arff_becomes_the_native_form_and_reads_the_same(tmp_path):
    files = write_arff(tmp_path, dense())
    out = str(tmp_path / "t.parquet")
    import_arff(out=out, **files)
    same(read_parquet(ParquetSource(path=out)), read_arff(ArffSource(**files)))
    assert [str(field.type) for field in pq.read_schema(out)][1:] == ["int8", "int8"]


def test_a_split_column_is_kept_and_a_task_without_labels_left_out(tmp_path):
    lines = ["x,a,b,part", *(f"{i},{i // 2 % 2},,{('train', 'validation', 'test')[i % 3]}" for i in range(30))]
    out = str(tmp_path / "t.parquet")
    done = import_csv(write_csv(tmp_path / "t.csv", lines), out, tasks=["a", "b"], split_column="part")
    assert done.left_out == [("b", "no label")]
    assert "left out, no label: b" in str(done)
    assert "split_column: part" in str(done)
    assert np.bincount(load_suite(ParquetSource(path=out, split_column="part")).split).tolist() == [10, 10, 10]


def test_damage_to_an_imported_file_is_noticed(tmp_path):
    out = tmp_path / "t.parquet"
    import_arff(out=str(out), **write_arff(tmp_path, dense()))
    content = bytearray(out.read_bytes())
    content[content.index(np.float32(3 / 7).round(3).tobytes())] ^= 1
    out.write_bytes(content)
    with pytest.raises(UserError, match=r"t\.parquet: not a readable Parquet table"):
        read_parquet(ParquetSource(path=str(out)))


@pytest.mark.parametrize(
    ("line", "options", "message"),
    [
        ('"row",inf,1,0,low,1', {}, "example 60, feature `x`: infinite"),
        ('"row",1,1,0,low,inf', {}, "task `size`: label of example 60 is infinite"),
        ('"row",1,1,0.5,low,1', {"tasks": {"spam": "binary"}}, "task `spam`: a binary label must be 0, 1 or missing"),
        ('"row",1,1,0,low', {}, "row 62 (the header is row 1) has 5 cells, the header 6"),
        ('"row",1,1,0,low,1', {"tasks": None}, "name the columns of `tasks` or of `features`"),
        ('"row",1,1,0,low,1', {"delimiter": "\n"}, "delimiter '\\n' cannot separate columns"),
    ],
)
def test_nothing_is_written_when_the_input_is_bad(tmp_path, line, options, message):
    path = write_csv(tmp_path / "t.csv", [*rows(), line])
    out = tmp_path / "t.parquet"
    settings = {"tasks": ["spam", "size"], "leave_out": ["name", "mood"], **options}
    if options.get("tasks"):
        settings["leave_out"] = ["name", "mood", "size"]
    with pytest.raises(UserError) as error:
        import_csv(path, str(out), **settings)
    assert message in str(error.value)
    assert "t.csv" in str(error.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["t.csv"]


def test_a_column_that_the_native_form_needs_for_itself(tmp_path):
    path = write_csv(tmp_path / "t.csv", ["x,features", *(f"{i},{i % 2}" for i in range(20))])
    with pytest.raises(UserError, match="a task or split column named `features`"):
        import_csv(path, str(tmp_path / "t.parquet"), tasks=["features"])


def command(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["affinity", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return (stop.value.code, *capsys.readouterr())


def test_the_command_says_what_it_wrote_and_overwrites_only_when_told(tmp_path, monkeypatch, capsys):
    write_arff(tmp_path, dense())
    words = ("import", "arff", tmp_path / "t.arff", tmp_path / "o.parquet", "--labels", tmp_path / "t.xml")
    code, out, _ = command(monkeypatch, capsys, *words)
    assert code == 0
    assert "o.parquet: 40 rows, 5 features, 2 tasks (2 binary)" in out
    code, _, err = command(monkeypatch, capsys, *words)
    assert code == 2
    assert "o.parquet: exists already" in err
    assert "Traceback" not in err
    assert command(monkeypatch, capsys, *words, "--overwrite")[0] == 0
    assert "is a folder" in command(monkeypatch, capsys, *words[:3], tmp_path, *words[4:])[2]


def test_options_of_the_csv_command(tmp_path, monkeypatch, capsys):
    text = "\n".join(rows()).replace("row, ", "row ").replace(",", "\t").replace("NA", "-")
    (tmp_path / "t.tsv").write_text(text)
    words = ("import", "csv", tmp_path / "t.tsv", tmp_path / "o.parquet", "--delimiter", "\\t", "--missing", "-")
    words += ("--missing", "?", "--leave-out", "name,mood")
    kinds = ("--tasks", "spam,size", "--kind", "spam=regression")
    code, out, _ = command(monkeypatch, capsys, *words, *kinds)
    assert code == 0
    assert "2 tasks (2 regression)" in out
    assert "left out, neither a feature nor a task: name, mood" in out
    for wrong in ("spam=rank", "spam", "mood=binary"):
        code, _, err = command(monkeypatch, capsys, *words, *kinds, "--kind", wrong)
        assert code == 2
        assert f"--kind {wrong}" in err


def test_wrong_usage_is_code_two(monkeypatch, capsys):
    code, _, err = command(monkeypatch, capsys, "import", "csv", "a", "b", "--taks", "c")
    assert code == 2
    assert "--taks" in err
