from types import SimpleNamespace

import numpy as np
import pytest
import torch

from affinity_service.config_graphs import GraphTablesSource
from affinity_service.errors import UserError
from affinity_service.graphs.examples import sample_examples
from affinity_service.graphs.pyg import graph_from_pyg, read_pyg
from affinity_service.graphs.raw import NO_SPLIT
from affinity_service.graphs.tiles import count_edges

EDGES = torch.tensor([[0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 3, 2]])
CLASSES = torch.tensor([0, 2, 2, -1])


def made(**fields):
    return {"edge_index": EDGES, "y": CLASSES, **fields}


def tasks(kind):
    return {name: nodes.tolist() for name, nodes in kind.items()}


@pytest.mark.parametrize("form", [dict, lambda content: SimpleNamespace(**content)])
def test_each_class_becomes_a_task(form):
    graph = graph_from_pyg(form(made(x=torch.arange(8.0).reshape(4, 2))))
    assert graph.edges.tolist() == EDGES.T.tolist()
    assert tasks(graph.members) == {"class_0": [0], "class_1": [], "class_2": [1, 2]}
    assert tasks(graph.others) == {"class_0": [1, 2], "class_1": [0, 1, 2], "class_2": [0]}
    np.testing.assert_array_equal(graph.features, np.arange(8, dtype=np.float32).reshape(4, 2))
    assert graph.features.dtype == np.float32
    assert graph.split is None


def test_an_undirected_graph_has_its_edges_both_ways():
    graph = graph_from_pyg(made())
    facts = count_edges(graph.edges, graph.nodes, directed=False)
    assert (facts.edges, facts.duplicates) == (3, 3)


def test_columns_are_tasks_and_what_is_missing_has_no_label():
    y = torch.tensor([[1, 0, -1], [0, float("nan"), 1], [float("nan"), -1, -1], [1, 0, 1]])
    graph = graph_from_pyg(made(y=y), ["a", "b", "c"])
    assert tasks(graph.members) == {"a": [0, 3], "b": [], "c": [1, 3]}
    assert tasks(graph.others) == {"a": [1], "b": [0, 3]}, "negatives of c are sampled"


@pytest.mark.parametrize(
    ("y", "names"),
    [([[0], [1], [2], [0]], ["class_0", "class_1", "class_2"]), ([[0], [1], [1], [-1]], ["task_0"])],
)
def test_one_column_is_of_classes_where_it_has_more_than_two(y, names):
    assert list(graph_from_pyg(made(y=torch.tensor(y))).members) == names


def test_masks_become_the_split_and_leave_other_nodes_unlabelled():
    y = torch.tensor([0, 1, 1, 0, 1])
    masks = {
        "train_mask": torch.tensor([1, 1, 0, 0, 0]).bool(),
        "val_mask": torch.tensor([0, 0, 1, 0, 0]).bool(),
        "test_mask": torch.tensor([0, 0, 0, 1, 0]).bool(),
    }
    graph = graph_from_pyg(made(y=y, **masks))
    assert graph.split.tolist() == [0, 0, 1, 2, NO_SPLIT]
    assert tasks(graph.members) == {"class_0": [0, 3], "class_1": [1, 2]}
    assert 4 not in graph.others["class_0"]


def test_nodes_in_no_mask_are_drawn_as_nothing():
    y = torch.full((40, 2), -1)
    y[:6, 0] = y[6:12, 1] = 1
    masks = {f"{name}_mask": torch.arange(40) % 6 == part for part, name in enumerate(("train", "val", "test"))}
    graph = graph_from_pyg(made(y=y, **masks))
    for pool in ("members", "nodes"):
        found = sample_examples(graph, GraphTablesSource(path="g", negatives=9, negatives_from=pool))
        assert (found.nodes % 6 < 3).all()
        assert found.split.tolist() == (found.nodes % 6).tolist()
        assert found.labels[found.nodes < 12].tolist().count([1, 0]) == 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"edge_index": None}, "no `edge_index`"),
        ({"y": None}, "no `y`"),
        ({"edge_index": EDGES.T}, "`edge_index` is int64 (6, 2), expected whole numbers of shape (2, edges)"),
        ({"edge_index": EDGES.float()}, "`edge_index` is float32 (2, 6)"),
        ({"edge_index": EDGES + 1}, "an edge names node 4; expected 0 … 3"),
        ({"edge_index": EDGES[:, :0]}, "the graph is empty: 4 nodes, 0 edges"),
        ({"y": CLASSES[:0]}, "no node has a class"),
        ({"y": torch.tensor([0, 1, 2, 1.5])}, "`y` of node 3 is 1.5, expected a class from 0"),
        ({"y": torch.tensor([0, -3, 2, 1])}, "`y` of node 1 is -3, expected a class from 0"),
        ({"y": torch.tensor([0, 1, 2, 10**9])}, "`y` has class 1e+09, but there are 4 nodes"),
        ({"y": torch.tensor([-1, -1, -1, -1])}, "no node has a class in `y`"),
        ({"y": torch.tensor([[0, 1], [1, 0], [1, 2], [1, 1]])}, "`y` of node 2, task `task_1` is 2, expected 1, 0"),
        ({"y": torch.zeros(4, 2, 2)}, "`y` is float32 (4, 2, 2)"),
        ({"y": torch.zeros(4, 3)}, "no node belongs to any task"),
        ({"x": torch.zeros(3, 2)}, "`x` is float32 (3, 2), expected numbers of shape (4, features)"),
        ({"x": torch.tensor([[0.0], [1], [float("inf")], [2]])}, "`x` of node 2 has a number that is NaN or infinite"),
        ({"train_mask": torch.ones(4, 2).bool()}, "`train_mask` is bool (4, 2), expected bool of shape (4,)"),
        ({"train_mask": torch.ones(4)}, "`train_mask` is float32 (4,)"),
        ({"train_mask": torch.ones(4).bool(), "test_mask": torch.ones(4).bool()}, "node 0 is in `test_mask` and in"),
        ({"train_mask": torch.zeros(4).bool()}, "none of them is in a mask"),
    ],
)  # fmt: skip
def test_a_field_that_does_not_fit_is_named(fields, message):
    with pytest.raises(UserError) as error:
        graph_from_pyg(made(**fields), origin="g.pt")
    assert str(error.value).startswith("g.pt: ")
    assert message in str(error.value)


def test_as_many_names_as_tasks():
    assert list(graph_from_pyg(made(), ["a", "b", "c"]).members) == ["a", "b", "c"]
    for names in (["a", "b"], ["a", "b", "b"]):
        with pytest.raises(UserError, match="2 distinct task names for the 3 tasks of `y`"):
            graph_from_pyg(made(), names)


def test_a_file_of_tensors(tmp_path):
    for index, content in enumerate((made(), (made(), None))):
        torch.save(content, tmp_path / f"{index}.pt")
        graph = read_pyg(str(tmp_path / f"{index}.pt"))
        assert tasks(graph.members) == tasks(graph_from_pyg(made()).members)


class Touch:
    """Unpickling it would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_no_code_of_a_file_is_run(tmp_path):
    torch.save({"edge_index": Touch(str(tmp_path / "trace"))}, tmp_path / "g.pt")
    with pytest.raises(
        UserError, match=r"g\.pt: holds more than one graph's tensors, which is not unpickled.*io\.open"
    ):
        read_pyg(str(tmp_path / "g.pt"))
    assert not (tmp_path / "trace").exists()


def test_files_that_are_none_of_torchs(tmp_path):
    torch.save(made(), tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    for content in (b"", b"text", whole[:50], whole[: len(whole) // 2], whole[:-30]):
        (tmp_path / "g.pt").write_bytes(content)
        with pytest.raises(UserError, match=r"g\.pt: not a file that torch\.load reads"):
            read_pyg(str(tmp_path / "g.pt"))
    with pytest.raises(UserError, match=r"h\.pt: no such file or folder"):
        read_pyg(str(tmp_path / "h.pt"))
    with pytest.raises(UserError, match="is a folder, expected a file"):
        read_pyg(str(tmp_path))
    torch.save(torch.zeros(3), tmp_path / "g.pt")
    with pytest.raises(UserError, match=r"g\.pt: no `edge_index`"):
        read_pyg(str(tmp_path / "g.pt"))


def test_data_objects_of_pyg(tmp_path):
    data = pytest.importorskip("torch_geometric.data", reason="torch_geometric is not installed")
    own = data.Data(**made(x=torch.rand(4, 3)))
    expected = graph_from_pyg(own)
    for index, content in enumerate((own, (own, None), (own.to_dict(), None, data.Data))):
        torch.save(content, tmp_path / f"{index}.pt")
        graph = read_pyg(str(tmp_path / f"{index}.pt"))
        np.testing.assert_array_equal(graph.edges, expected.edges)
        np.testing.assert_array_equal(graph.features, expected.features)
        assert tasks(graph.members) == tasks(expected.members)


def test_data_objects_without_pyg_are_refused(tmp_path, monkeypatch):
    data = pytest.importorskip("torch_geometric.data", reason="torch_geometric is not installed")
    torch.save(data.Data(**made()), tmp_path / "g.pt")
    monkeypatch.setitem(__import__("sys").modules, "torch_geometric.data", None)
    with pytest.raises(UserError, match=r"torch_geometric, which is not installed: pip install 'affinity-service\[gra"):
        read_pyg(str(tmp_path / "g.pt"))
