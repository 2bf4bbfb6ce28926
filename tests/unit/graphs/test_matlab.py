import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp

from affinity_service.errors import UserError
from affinity_service.graphs.matlab import read_matlab

ADJACENCY = np.array([[0, 1, 0], [1, 0, 2], [0, 2, 1]], float)
LABELS = np.array([[1, 0, 0], [1, 0, 1], [0, 0, 1]], float)


def write(path, **variables):
    scipy.io.savemat(path, variables)
    return str(path)


@pytest.mark.parametrize("form", [np.asarray, sp.csc_matrix])
def test_edges_are_what_the_matrix_has_and_tasks_its_columns(tmp_path, form):
    graph = read_matlab(write(tmp_path / "g.mat", network=form(ADJACENCY), group=form(LABELS)))
    assert graph.ids.tolist() == [0, 1, 2]
    assert sorted(map(tuple, graph.edges.tolist())) == [(0, 1), (1, 0), (1, 2), (2, 1), (2, 2)]
    found = {name: nodes.tolist() for name, nodes in graph.members.items()}
    assert found == {"label_1": [0, 1], "label_2": [], "label_3": [1, 2]}


@pytest.mark.parametrize(
    ("variables", "names", "message"),
    [
        ({"net": ADJACENCY, "group": LABELS}, {}, "no variable `network`; found net, group"),
        ({"network": ADJACENCY}, {"labels": "y"}, "no variable `y`; found network"),
        ({"network": ADJACENCY[:2], "group": LABELS}, {}, "`network` is (2, 3) and `group` (3, 3)"),
        ({"network": ADJACENCY, "group": LABELS[:2]}, {}, "expected (n, n) and (n, labels)"),
        ({"network": "text", "group": LABELS}, {}, "`network` must be a matrix of numbers"),
        ({"network": ADJACENCY, "group": np.array([["a", 1]], object)}, {}, "`group`"),
    ],
)
def test_a_variable_that_is_missing_or_of_another_shape(tmp_path, variables, names, message):
    path = write(tmp_path / "g.mat", **variables)
    with pytest.raises(UserError) as error:
        read_matlab(path, **names)
    assert str(error.value).startswith(path)
    assert message in str(error.value)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_file_that_is_cut_off_is_refused(tmp_path, compressed):
    path = tmp_path / "g.mat"
    scipy.io.savemat(path, {"network": ADJACENCY, "group": LABELS}, do_compression=compressed)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 8, 7):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"g\.mat"):
            read_matlab(str(path))
