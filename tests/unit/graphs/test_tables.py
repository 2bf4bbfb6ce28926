from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from affinity_service.errors import UserError
from affinity_service.graphs.tables import read_graph_tables, write_graph_tables


def same(a, b):
    np.testing.assert_array_equal(a.ids, b.ids)
    np.testing.assert_array_equal(a.edges, b.edges)
    for one, two in ((a.members, b.members), (a.others, b.others)):
        assert list(one) == list(two)
        for name in one:
            np.testing.assert_array_equal(one[name], two[name])
    for name in ("features", "split"):
        one, two = getattr(a, name), getattr(b, name)
        assert (one is None) == (two is None)
        if one is not None:
            assert one.dtype == two.dtype
            np.testing.assert_array_equal(one, two)


def test_tables_hold_the_whole_graph(small, tmp_path):
    write_graph_tables(small, str(tmp_path / "deep" / "g"))
    same(small, read_graph_tables(str(tmp_path / "deep" / "g")))


def test_ids_may_be_text_and_features_and_split_absent(small, tmp_path):
    names = np.array([f"node {i}" for i in range(7)], object)
    plain = replace(small, ids=names, features=None, split=None)
    write_graph_tables(plain, str(tmp_path))
    same(plain, read_graph_tables(str(tmp_path)))


def test_nodes_in_no_part_of_the_split(small, tmp_path):
    some = replace(small, split=np.array([0, -1, 2, 0, 1, 2, -1], np.int8))
    write_graph_tables(some, str(tmp_path))
    words = pq.read_table(tmp_path / "nodes.parquet")["split"].to_pylist()
    assert words == ["train", "none", "test", "train", "validation", "test", "none"]
    same(some, read_graph_tables(str(tmp_path)))


def test_labels_need_no_column_of_their_own_when_all_belong(small, tmp_path):
    write_graph_tables(small, str(tmp_path))
    file = tmp_path / "labels.parquet"
    table = pq.read_table(file)
    pq.write_table(table.filter(pa.compute.equal(table["label"], 1)).drop_columns(["label"]), file)
    found = read_graph_tables(str(tmp_path))
    assert not found.others
    assert found.members["right"].tolist() == [3, 4, 5]


@pytest.mark.parametrize("kind", [pa.bool_(), pa.float32(), pa.int64()])
def test_labels_of_any_kind_of_number(small, tmp_path, kind):
    write_graph_tables(small, str(tmp_path))
    broken(tmp_path, "labels", label=pq.read_table(tmp_path / "labels.parquet")["label"].cast(kind))
    same(small, read_graph_tables(str(tmp_path)))


def test_a_graph_that_cannot_be_used_is_not_written(small, tmp_path):
    with pytest.raises(UserError, match="task `left` names node 70"):
        write_graph_tables(replace(small, members={"left": np.array([70])}), str(tmp_path / "g"))
    assert not (tmp_path / "g").exists()


def test_a_write_that_is_stopped_leaves_the_graph_that_was_there(small, tmp_path, monkeypatch):
    write_graph_tables(small, str(tmp_path))
    write, told = pq.write_table, []

    def stopped(table, *rest, **options):
        told.append(table)
        if len(told) == 3:
            raise KeyboardInterrupt
        write(table, *rest, **options)

    monkeypatch.setattr(pq, "write_table", stopped)
    with pytest.raises(KeyboardInterrupt):
        write_graph_tables(replace(small, ids=small.ids + 100, features=None), str(tmp_path))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["edges.parquet", "labels.parquet", "nodes.parquet"]
    same(small, read_graph_tables(str(tmp_path)))


def broken(folder, name, **columns):
    """A table with other columns; None leaves one out."""
    table = pq.read_table(folder / f"{name}.parquet")
    for column, values in columns.items():
        table = table.drop_columns([column]) if column in table.column_names else table
        if values is not None:
            table = table.append_column(column, values)
    pq.write_table(table, folder / f"{name}.parquet")


@pytest.mark.parametrize(
    ("name", "columns", "message"),
    [
        ("nodes", {"node": None}, "nodes.parquet: no column `node`; found features, split"),
        ("nodes", {"node": pa.array([10, 11, 12, 13, 14, 15, 11])}, "nodes.parquet: node 11 occurs more than once"),
        ("nodes", {"node": pa.array([10, 11, 12, 13, 14, 15, None])}, "column `node` lacks 1 of 7 values"),
        ("nodes", {"node": pa.array(list("abcdefg"))}, "edges.parquet: row 0 names node 10, which nodes.parquet does"),
        ("nodes", {"node": pa.array([10, 11, 12, 13, 14, 25, 16])}, "edges.parquet: row 6 names node 15"),
        ("nodes", {"features": pa.array([[1.0]] * 6 + [[1.0, 2.0]])}, "`features` has lists of 1 to 2 numbers"),
        ("nodes", {"features": pa.array([[]] * 7, pa.list_(pa.float32()))}, "`features` has lists of 0 to 0 numbers"),
        ("nodes", {"features": pa.array([1.0] * 7)}, "column `features` is double, expected lists of numbers"),
        ("nodes", {"features": pa.array([["a"]] * 7)}, "column `features` is list<"),
        ("nodes", {"features": pa.array([[1.0]] * 6 + [None])}, "column `features` lacks 1 of 7 values"),
        ("nodes", {"features": pa.array([[1.0]] * 4 + [[np.nan]] * 3)}, "row 4: column `features` has a number"),
        ("nodes", {"features": pa.array([[1]] * 4 + [[None]] * 3)}, "row 4: column `features` has a number"),
        ("nodes", {"features": pa.array([[1e300]] * 7)}, "row 0: column `features` has a number"),
        ("nodes", {"split": pa.array(["train"] * 6 + ["valid"])}, "`split` has 'valid'; expected train,"),
        ("nodes", {"split": pa.array([0] * 7)}, "`split` has 0; expected train, validation, test, none"),
        ("nodes", {"node": pa.array([0.5] * 7)}, "column `node` is double, expected whole numbers or text"),
        ("edges", {"source": pa.array([[1]] * 10)}, "edges.parquet: column `source` is list<"),
        ("edges", {"source": None}, "edges.parquet: no column `source`; found target"),
        ("edges", {"target": pa.array([10] * 9 + [99])}, "row 9 names node 99, which nodes.parquet does not have (1"),
        ("edges", {"target": pa.array(["10"] * 10)}, "row 0 names node '10'"),
        ("labels", {"node": pa.array([10] * 7 + [99])}, "labels.parquet: row 7 names node 99"),
        ("labels", {"task": None}, "labels.parquet: no column `task`"),
        ("labels", {"task": pa.array(["a"] * 7 + [None])}, "column `task` lacks 1 of 8 values"),
        ("labels", {"task": pa.array([["a"]] * 8)}, "column `task` is list<"),
        ("labels", {"task": pa.array(["right"] * 8)}, "node 10 has both labels of task `right`"),
        ("labels", {"label": pa.array([1] * 7 + [2])}, "row 7: column `label` has 2; expected 1 (belongs) or 0"),
        ("labels", {"label": pa.array(["yes"] * 8)}, "column `label` is string, expected 1 or 0"),
    ],
)  # fmt: skip
def test_a_broken_table_is_named(small, tmp_path, name, columns, message):
    write_graph_tables(small, str(tmp_path))
    broken(tmp_path, name, **columns)
    with pytest.raises(UserError) as error:
        read_graph_tables(str(tmp_path))
    assert message in str(error.value)
    assert ".parquet" in str(error.value)


@pytest.mark.parametrize("name", ["nodes", "edges", "labels"])
def test_a_table_that_is_missing_cut_off_or_has_a_column_twice(small, tmp_path, name):
    write_graph_tables(small, str(tmp_path))
    file = tmp_path / f"{name}.parquet"
    whole = file.read_bytes()
    for content in (whole[:100], b"", whole[:-1], whole.replace(b"PAR1", b"RAP1")):
        file.write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}\.parquet: not a readable Parquet table"):
            read_graph_tables(str(tmp_path))
    file.write_bytes(whole)
    table = pq.read_table(file)
    pq.write_table(table.append_column(table.column_names[0], table[0]), file)
    with pytest.raises(UserError, match=rf"{name}\.parquet"):
        read_graph_tables(str(tmp_path))
    file.unlink()
    with pytest.raises(UserError, match=rf"{name}\.parquet: no such file or folder"):
        read_graph_tables(str(tmp_path))


def test_damage_is_noticed_wherever_it_is(small, tmp_path):
    write_graph_tables(small, str(tmp_path))
    rng = np.random.default_rng(0)
    for name in ("nodes", "edges", "labels"):
        file = tmp_path / f"{name}.parquet"
        whole = file.read_bytes()
        for place in rng.integers(len(whole), size=60):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << rng.integers(8)
            file.write_bytes(bytes(damaged))
            try:
                read_graph_tables(str(tmp_path))
            except UserError as error:
                assert ".parquet" in str(error)  # noqa: PT017
        file.write_bytes(whole)


def test_a_file_in_place_of_the_folder(small, tmp_path):
    (tmp_path / "g").write_text("x")
    with pytest.raises(UserError, match=r"g: is a file, expected a folder of nodes\.parquet, edges\.parquet"):
        read_graph_tables(str(tmp_path / "g"))
    with pytest.raises(UserError, match=r"h: no such file or folder"):
        read_graph_tables(str(tmp_path / "h"))


def test_tables_without_rows(small, tmp_path):
    write_graph_tables(small, str(tmp_path))
    for name in ("labels", "edges", "nodes"):
        file = tmp_path / f"{name}.parquet"
        pq.write_table(pq.read_table(file).slice(0, 0), file)
    with pytest.raises(UserError, match=r"nodes\.parquet: column `features` has no list"):
        read_graph_tables(str(tmp_path))
    broken(tmp_path, "nodes", features=None)
    found = read_graph_tables(str(tmp_path))
    assert found.nodes == 0
    assert not found.members


def test_tables_as_pandas_writes_them(tmp_path):
    pd.DataFrame({"node": ["a", "b", "c"]}).to_parquet(tmp_path / "nodes.parquet")
    pd.DataFrame({"source": ["a", "b"], "target": ["b", "c"]}).to_parquet(tmp_path / "edges.parquet")
    pd.DataFrame({"node": ["a", "c"], "task": ["x", "y"]}).to_parquet(tmp_path / "labels.parquet")
    found = read_graph_tables(str(tmp_path))
    assert found.edges.tolist() == [[0, 1], [1, 2]]
    assert {name: nodes.tolist() for name, nodes in found.members.items()} == {"x": [0], "y": [2]}
