import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from affinity_service.config_sources import ParquetSource
from affinity_service.errors import UserError
from affinity_service.tasks import load_suite
from affinity_service.tasks.parquet import read_parquet


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 3)).astype(np.float32)
    score = features.sum(axis=1)
    return pa.table(
        {
            "features": pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), 3),
            "spam": pa.array([None if i % 7 == 0 else int(s > 0) for i, s in enumerate(score)], pa.int64()),
            "flag": score > 0.4,
            "mood": ["low" if s < -0.5 else "high" if s > 0.5 else "mid" for s in score],
            "size": pa.array([None if i % 5 == 0 else s * 3 for i, s in enumerate(score)], pa.float64()),
        }
    )


def write(table, path):
    pq.write_table(table, path)
    return str(path)


def test_kinds_missing_labels_and_features_are_read(table, tmp_path):
    suite = read_parquet(ParquetSource(path=write(table, tmp_path / "t.parquet")))
    assert [(t.name, t.kind, t.classes) for t in suite.tasks] == [
        ("spam", "binary", 1),
        ("flag", "binary", 1),
        ("mood", "multiclass", 3),
        ("size", "regression", 1),
    ]
    assert suite.inputs.shape == (60, 3)
    assert np.isnan(suite.labels[::7, 0]).all()
    assert np.isnan(suite.labels[::5, 3]).all()
    assert suite.observed[:, 1:3].all()


def test_named_columns_and_named_kinds(table, tmp_path):
    wide = (
        table.drop_columns("features").append_column("x", pa.array(range(60))).append_column("y", pa.array([0.5] * 60))
    )
    source = ParquetSource(
        path=write(wide, tmp_path / "t.parquet"), features=["x", "y"], tasks={"spam": "regression", "flag": "binary"}
    )
    suite = load_suite(source)
    assert suite.inputs.shape == (60, 2)
    assert [t.kind for t in suite.tasks] == ["regression", "binary"]


def test_a_folder_of_files_is_one_table(table, tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    write(table.slice(0, 30), folder / "a.parquet")
    write(table.slice(30), folder / "b.parquet")
    whole = read_parquet(ParquetSource(path=write(table, tmp_path / "t.parquet")))
    parts = read_parquet(ParquetSource(path=str(folder)))
    np.testing.assert_array_equal(whole.labels, parts.labels)


def test_a_split_column_replaces_the_seeded_split(table, tmp_path):
    names = ["train"] * 40 + ["validation"] * 12 + ["test"] * 8
    path = write(table.append_column("part", pa.array(names)), tmp_path / "t.parquet")
    suite = read_parquet(ParquetSource(path=path, split_column="part"))
    assert np.bincount(suite.split).tolist() == [40, 12, 8]
    assert "part" not in suite.names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": "vectors"}, "column `vectors` is missing"),
        ({"tasks": ["spam", "ham"]}, "column `ham` is missing"),
        ({"features": "mood", "tasks": ["spam"]}, "column `mood` must hold numbers, found text"),
        ({"tasks": {"mood": "regression"}}, "column `mood` cannot be a regression task"),
        ({"tasks": ["features"], "features": ["spam"]}, "column `features` must hold numbers, booleans or text"),
    ],
)
def test_wrong_columns_are_named(table, tmp_path, options, message):
    with pytest.raises(UserError) as error:
        read_parquet(ParquetSource(path=write(table, tmp_path / "t.parquet"), **options))
    assert message in str(error.value)


def test_missing_and_truncated_files_are_named(table, tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.parquet: no such file"):
        read_parquet(ParquetSource(path=str(tmp_path / "nowhere.parquet")))
    path = tmp_path / "t.parquet"
    write(table, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"t\.parquet: not a readable Parquet table"):
        read_parquet(ParquetSource(path=str(path)))


def lists(values):
    return pa.table({"features": values, "spam": [i % 2 for i in range(len(values))]})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            lists([[1.0, 2.0]] * 5 + [[1.0]] + [[2.0, 3.0]] * 20),
            "lists of one length, found lengths [2, 1]; row 5 has 1 ",
        ),
        (lists([[1.0, 2.0]] * 5 + [None] + [[2.0, 3.0]] * 20), "found lengths [2, None]; row 5 has no list"),
        (lists([[]] * 5), "lists of one length, found lengths [0]"),
        (lists([["a"]] * 5), "column `features` must hold numbers, found text: 'a' in row 0"),
        (lists([[1.0, 2.0]] * 5 + [[1.0, None]] * 20), "example 5, feature 1: missing or NaN"),
        (lists([[1.0]] * 5).slice(0, 0), "the table has no rows, only the columns features, spam"),
        (pa.table({"features": [[1.0]] * 5}), "no column is left for `tasks`"),
        (pa.table({"features": [[1.0]] * 20, "spam": pa.nulls(20)}), "task `spam` has no label: all 20 are missing"),
        (
            pa.table({"features": [[1.0]] * 20, "when": pa.array([0] * 20, pa.date32())}),
            "column `when` must hold numbers",
        ),
        (pa.table([[[1.0]] * 5, [0] * 5, [1] * 5], ["features", "a", "a"]), "column `a` occurs more than once"),
    ],
)
def test_unusable_tables_are_refused_by_name(table, message, tmp_path):
    with pytest.raises(UserError) as error:
        load_suite(ParquetSource(path=write(table, tmp_path / "t.parquet")))
    assert message in str(error.value)
    assert "t.parquet" in str(error.value)


def test_folders_without_parquet_are_named(tmp_path):
    with pytest.raises(UserError, match="the folder holds no Parquet file"):
        read_parquet(ParquetSource(path=str(tmp_path)))
    (tmp_path / "notes.txt").write_text("no table")
    with pytest.raises(UserError, match="not a readable Parquet table"):
        read_parquet(ParquetSource(path=str(tmp_path)))


def test_whole_numbers_beyond_float32_are_rounded(tmp_path):
    table = pa.table({"features": [[2**24 + 1, i] for i in range(9)], "size": [2**60 + i for i in range(9)]})
    suite = read_parquet(ParquetSource(path=write(table, tmp_path / "t.parquet")))
    assert suite.inputs[0, 0] == 2**24
    assert suite.tasks[0].kind == "regression"
