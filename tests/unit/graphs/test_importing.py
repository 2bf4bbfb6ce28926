import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch

from affinity_service import cli
from affinity_service.config import Config
from affinity_service.graphs.source import read_graph
from affinity_service.graphs.tables import read_graph_tables


def command(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["affinity", "import", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return (stop.value.code, *capsys.readouterr())


def write_snap(folder: Path) -> tuple[Path, Path]:
    edges, communities = folder / "e.txt", folder / "c.txt"
    edges.write_text("# graph\n0 1\n1 0\n1 2\n2 2\n3 4\n4 9\n")
    communities.write_text("0 1\n1 2 3\n3 4\n")
    return edges, communities


def test_snap_becomes_tables_and_says_so(tmp_path, monkeypatch, capsys):
    out = tmp_path / "new" / "g"
    code, told, _ = command(monkeypatch, capsys, "snap", *write_snap(tmp_path), out)
    assert code == 0
    assert told.splitlines() == [
        f"{out}: 6 nodes, 4 undirected edges (1 given again or in the other order, 1 from a node to itself), "
        "no features, 3 tasks of 2 to 3 members",
        f"in a config: data: {{source: graph, path: {out}}}",
    ]
    graph = read_graph_tables(str(out))
    assert graph.ids.tolist() == [0, 1, 2, 3, 4, 9]
    assert graph.edges.tolist() == [[0, 1], [1, 0], [1, 2], [2, 2], [3, 4], [4, 5]]
    config = Config.from_yaml(told.splitlines()[1].removeprefix("in a config: "), name="g")
    assert list(read_graph(config.data).members) == ["community_0", "community_1", "community_2"]


def test_only_the_largest_and_what_lies_between_their_nodes(tmp_path, monkeypatch, capsys):
    files, out = write_snap(tmp_path), tmp_path / "g"
    code, told, _ = command(monkeypatch, capsys, "snap", *files, out, "--largest", 1, "--induced", "--directed")
    assert code == 0
    assert "3 nodes, 1 directed edges (1 from a node to itself), no features, 1 tasks of 3 to 3 members" in told
    assert "1 nodes have no edge" in told
    assert told.splitlines()[-1].endswith("directed: true, normalisation: mean}")
    graph = read_graph_tables(str(out))
    assert graph.ids.tolist() == [1, 2, 3]
    assert list(graph.members) == ["community_1"]
    code, _, err = command(monkeypatch, capsys, "snap", *files, tmp_path / "h", "--largest", 4)
    assert code == 2
    assert "the 4 largest communities are asked for, there are 3" in err
    assert not (tmp_path / "h").exists()


def test_matlab_and_a_label_that_nobody_has(tmp_path, monkeypatch, capsys):
    path, out = tmp_path / "g.mat", tmp_path / "g"
    adjacency = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], float)
    scipy.io.savemat(path, {"net": adjacency, "y": np.array([[1, 0], [1, 0], [0, 0]], float)})
    code, told, _ = command(monkeypatch, capsys, "mat", path, out, "--network", "net", "--labels", "y")
    assert code == 0
    assert "3 nodes, 2 undirected edges (2 given again or in the other order), no features, 1 tasks" in told
    assert "left out, no member: label_2" in told
    assert list(read_graph_tables(str(out)).members) == ["label_1"]
    code, _, err = command(monkeypatch, capsys, "mat", path, tmp_path / "h")
    assert code == 2
    assert "g.mat: no variable `network`; found net, y" in err


def test_pyg_with_features_names_and_masks(tmp_path, monkeypatch, capsys):
    path, out = tmp_path / "g.pt", tmp_path / "g"
    fields = {
        "edge_index": torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]),
        "y": torch.tensor([0, 1, 1]),
        "x": torch.eye(3),
        "train_mask": torch.tensor([True, True, False]),
        "val_mask": torch.tensor([False, False, True]),
    }
    torch.save(fields, path)
    code, told, _ = command(monkeypatch, capsys, "pyg", path, out, "--names", "cat,dog")
    assert code == 0
    assert "3 nodes, 2 undirected edges (2 given again or in the other order), 3 features, 2 tasks of 1 to 2" in told
    assert "the split kept" in told
    graph = read_graph_tables(str(out))
    assert list(graph.members) == ["cat", "dog"]
    assert graph.split.tolist() == [0, 0, 1]
    np.testing.assert_array_equal(graph.features, np.eye(3))


def test_what_is_there_is_overwritten_only_when_told(tmp_path, monkeypatch, capsys):
    files, out = write_snap(tmp_path), tmp_path / "g"
    assert command(monkeypatch, capsys, "snap", *files, out)[0] == 0
    before = (out / "labels.parquet").read_bytes()
    code, _, err = command(monkeypatch, capsys, "snap", *files, out, "--largest", 1)
    assert code == 2
    assert "g: holds nodes.parquet already; give another name or --overwrite" in err
    assert (out / "labels.parquet").read_bytes() == before
    assert command(monkeypatch, capsys, "snap", *files, out, "--largest", 1, "--overwrite")[0] == 0
    assert list(read_graph_tables(str(out)).members) == ["community_1"]
    code, _, err = command(monkeypatch, capsys, "snap", *files, files[0], "--overwrite")
    assert code == 2
    assert "e.txt: is a file; name a folder" in err


def test_bad_files_are_named_and_nothing_is_written(tmp_path, monkeypatch, capsys):
    edges, communities = write_snap(tmp_path)
    communities.write_text("0 1\n1 77\n")
    code, _, err = command(monkeypatch, capsys, "snap", edges, communities, tmp_path / "g")
    assert code == 2
    assert "task `community_1` names node 77" in err
    edges.write_text("0 1 5\n")
    code, _, err = command(monkeypatch, capsys, "snap", edges, communities, tmp_path / "g")
    assert code == 2
    assert "e.txt: line 1" in err
    assert "Traceback" not in err
    assert not (tmp_path / "g").exists()
