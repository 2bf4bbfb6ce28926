import gzip
import json

import pytest

from affinity_service.errors import UserError
from affinity_service.graphs.communities import read_communities
from affinity_service.graphs.snap import read_snap

EDGES = "# nodes and edges\n7\t30\n30\t2\n2\t7\n9\t2\n"


def write(folder, communities, name="c.txt", edges=EDGES):
    (folder / "e.txt").write_text(edges)
    content = communities.encode()
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return str(folder / "e.txt"), str(folder / name)


@pytest.mark.parametrize("name", ["c.txt", "c.txt.gz"])
def test_nodes_are_those_with_an_edge_by_their_ids(tmp_path, name):
    graph = read_snap(*write(tmp_path, "# communities\n7 2 7\n\n30\n9 2 30 7\n", name))
    assert graph.ids.tolist() == [2, 7, 9, 30]
    assert graph.edges.tolist() == [[1, 3], [3, 0], [0, 1], [2, 0]]
    found = {name: nodes.tolist() for name, nodes in graph.members.items()}
    assert found == {"community_0": [0, 1], "community_1": [3], "community_2": [0, 1, 2, 3]}


def test_ids_far_apart_are_numbered_as_dense_ones(tmp_path):
    far = EDGES.replace("30", str(3 * 10**15)).replace("9\t", "-5\t")
    graph = read_snap(*write(tmp_path, f"{3 * 10**15} -5\n", edges=far))
    assert graph.ids.tolist() == [-5, 2, 7, 3 * 10**15]
    assert graph.edges.tolist() == [[2, 3], [3, 1], [1, 2], [0, 1]]
    assert graph.members["community_0"].tolist() == [0, 3]


def test_json_lists_labels_by_node(tmp_path):
    content = json.dumps({"7": ["rock", "jazz"], "2": ["jazz"], "9": [], "30": [3]})
    graph = read_snap(*write(tmp_path, content, "c.json"))
    assert {name: nodes.tolist() for name, nodes in graph.members.items()} == {"3": [3], "jazz": [0, 1], "rock": [1]}


def test_a_community_names_a_node_without_an_edge(tmp_path):
    edges, communities = write(tmp_path, "7 2\n30 8 1000\n")
    with pytest.raises(UserError) as error:
        read_snap(edges, communities)
    assert f"{communities}: task `community_1` names node 8, which no edge of {edges} has (2 such nodes)" in str(
        error.value
    )


@pytest.mark.parametrize("name", ["c.txt", "c.txt.gz"])
@pytest.mark.parametrize("word", ["1.5", "--1", "-", "x", "1,2", "9" * 19, "1e3", "9" * 400])
def test_a_word_that_is_no_node_is_named_with_its_line(tmp_path, name, word):
    _, path = write(tmp_path, f"# first\n7 2\n\n7 {word} 2\n", name)
    with pytest.raises(UserError) as error:
        read_communities(path)
    assert f"{path}: line 4: '{word[:40]}' is no node id" in str(error.value)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_as_they_like_and_ids_are_exact(tmp_path, end):
    lines = ["# first", "\t7  2 ", "", "  ", f"{10**18 - 1} -5 007"]
    found = read_communities(write(tmp_path, end.join(lines))[1])
    assert [nodes.tolist() for nodes in found.values()] == [[2, 7], [-5, 7, 10**18 - 1]]
    with pytest.raises(UserError, match=r"c\.txt: line 6: 'x' is no node id"):
        read_communities(write(tmp_path, end.join([*lines, "3 x"]))[1])


@pytest.mark.parametrize("content", ["", "\n\n", "# nothing\n"])
def test_no_community_at_all(tmp_path, content):
    with pytest.raises(UserError, match=r"c\.txt: no line has a community"):
        read_communities(write(tmp_path, content)[1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "found list"),
        ('{"7": "rock"}', "node '7' has str"),
        ('{"seven": ["rock"]}', "'seven'"),
        ('{"7": null}', "node '7' has NoneType"),
        (f'{{"{10**30}": ["rock"]}}', "c.json"),
        ("[" * 100_000, "c.json"),
        ('{"7": ["ro', "c.json"),
        ("{}", "no node has a label"),
    ],
)
def test_json_of_another_shape(tmp_path, content, message):
    with pytest.raises(UserError) as error:
        read_communities(write(tmp_path, content, "c.json")[1])
    assert "c.json: " in str(error.value)
    assert message in str(error.value)
