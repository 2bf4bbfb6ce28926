import gzip

import numpy as np
import pytest

from affinity_service.errors import UserError
from affinity_service.graphs.edge_list import read_edge_list

PAIRS = [[3, 1], [-2, 40], [3, 3], [123456789012, 0]]


def write(path, text):
    content = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


def lines(separator):
    return "".join(f"{a}{separator}{b}\n" for a, b in PAIRS)


@pytest.mark.parametrize("name", ["e.txt", "e.txt.gz"])
@pytest.mark.parametrize(
    "text",
    [
        lines("\t"), lines(" "), lines(","), lines(", "), lines(";"), lines("\t").replace("\n", "\r\n"),
        lines("\t").rstrip("\n"), "# a comment\n\n% another\n" + lines("\t"), "node_1,node_2\n" + lines(","),
        "\nFrom To\n" + lines(" "), "\ufeff" + lines(" "), "\ufeff# comment\n" + lines(" "),
        lines(" ").replace("\n", "\n\n"), lines(" ").replace("\n", " \t \n"), lines("\t").replace("\n", "\t\r\n"),
        lines(",").rstrip("\n") + "  ", lines(" ") + "  \n\t\n", "# 0x1F \n" + lines("\t"),
    ],
)  # fmt: skip
def test_pairs_of_ids_whatever_separates_them(tmp_path, name, text):
    np.testing.assert_array_equal(read_edge_list(write(tmp_path / name, text)), PAIRS)


@pytest.mark.parametrize("name", ["e.txt", "e.txt.gz"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2\n3 4 5\n", "line 2: '3 4 5' has 3 columns; an edge is two node ids; leave other columns out"),
        ("1\t2\t0.5\n", "line 1: '1\\t2\\t0.5' has 3 columns"),
        ("# a\n\n1,2\n3\n", "line 4: '3' has 1 column;"),
        ("a,b\n1,2\n3,x\n", "line 3: '3,x' has no two whole numbers"),
        ("1,2\n3,4.5\n", "line 2: '3,4.5' has no two whole numbers"),
        ("1 2\n3 \n", "line 2: '3' has 1 column"),
        ("1 2\n# late\n", "line 2: '# late' has no two whole numbers"),
        ("1x\t2y\n3\t4\n", "line 1: '1x\\t2y' has no two whole numbers"),
        ("1.0\t2.0\n3\t4\n", "line 1: '1.0\\t2.0' has no two whole numbers"),
        ("-a b\n3 4\n", "line 1: '-a b' has no two whole numbers"),
        ("# comment\nFrom To\n3 4\n", "line 2: 'From To' has no two whole numbers"),
        ("# 0x1\n3 4\n0x1F 5\n", "line 3: '0x1F 5' has no two whole numbers"),
        ("3,4\n5,0X1f\n", "line 2: '5,0X1f' has no two whole numbers"),
        (f"1 2\n{10**30} 4\n", "line 2"),
        ("x 2\n1 2\n", "line 1: 'x 2' has no two whole numbers"),
        ("", "the graph is empty: no line has an edge"),
        ("# only\n% comments\n\n", "the graph is empty: no line has an edge"),
        ("source,target\n", "the graph is empty: no line has an edge"),
        (b"1 2\n\xff\xfe 3\n", "line 2"),
        (b"\x00\x01\n2 3\n", "e.txt"),
    ],
)
def test_a_broken_line_is_named(tmp_path, name, text, message):
    path = write(tmp_path / name, text)
    with pytest.raises(UserError) as error:
        read_edge_list(path)
    assert str(error.value).startswith(path)
    assert message in str(error.value)


def test_long_runs_of_spaces_take_no_longer(tmp_path):
    path = write(tmp_path / "e.txt", "1 2\n3" + " " * 300_000 + "4\n5 6 \n")
    with pytest.raises(UserError, match="line 2"):
        read_edge_list(path)


def test_a_file_that_is_cut_off_is_refused(tmp_path):
    rng = np.random.default_rng(0)
    whole = gzip.compress("".join(f"{a} {b}\n" for a, b in rng.integers(10**6, size=(5000, 2))).encode())
    for length in (5, 100, len(whole) // 2, len(whole) - 4):
        path = tmp_path / f"{length}.txt.gz"
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=rf"{length}\.txt\.gz: cannot be read: .*[Tt]runcated"):
            read_edge_list(str(path))
