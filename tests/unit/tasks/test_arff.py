import numpy as np
import pytest

from affinity_service.config import Config
from affinity_service.config_sources import ArffSource
from affinity_service.errors import UserError
from affinity_service.tasks import load_suite
from affinity_service.tasks.arff import read_arff

HEAD = """% a comment
@RELATION 'made up: -C 2'
@attribute\tsize\tnumeric
@ATTRIBUTE colour {red, green, 'dark blue'}
@attribute on {off,on}
@attribute "label a" {0,1}
@attribute b {1,0}

@data
"""
XML = """<?xml version="1.0" encoding="utf-8"?>
<labels xmlns="http://mulan.sourceforge.net/labels">
<label name="label a"><label name="b"></label></label>
</labels>
"""


def dense(count=40):
    colours = ("red", "green", "'dark blue'")
    return [f"{i / 7:.3f},{colours[i % 3]},{('off', 'on')[i % 2]},{i // 3 % 2},{i // 2 % 2}" for i in range(count)]


def sparse(count=40):
    lines = []
    for i in range(count):
        cells = [f"0 {i / 7:.3f}"] if i else []
        cells += [f"1 {('red', 'green', chr(39) + 'dark blue' + chr(39))[i % 3]}"] if i % 3 else []
        cells += ["2 on"] if i % 2 else []
        cells += ["3 1"] if i // 3 % 2 else []
        cells += ["4 0"] if i // 2 % 2 == 0 else []  # its first value, the one left out, is 1
        lines.append("{" + ",".join(cells) + "}")
    return lines


def write(tmp_path, rows, head=HEAD, xml=XML):
    (tmp_path / "t.arff").write_text(head + "\n".join(rows) + "\n")
    (tmp_path / "t.xml").write_text(xml)
    return {"path": str(tmp_path / "t.arff"), "labels": str(tmp_path / "t.xml")}


@pytest.mark.parametrize("rows", [dense(), sparse()], ids=["dense", "sparse"])
def test_dense_and_sparse_files_say_the_same(tmp_path, rows):
    suite = read_arff(ArffSource(**write(tmp_path, rows)))
    assert suite.feature_names == ("size", "colour=red", "colour=green", "colour=dark blue", "on=on")
    index = np.arange(40)
    np.testing.assert_allclose(suite.inputs[:, 0], index / 7, atol=6e-4)
    for column in range(3):
        np.testing.assert_array_equal(suite.inputs[:, 1 + column], index % 3 == column)
    np.testing.assert_array_equal(suite.inputs[:, 4], index % 2)
    assert [(t.name, t.kind) for t in suite.tasks] == [("label a", "binary"), ("b", "binary")]
    np.testing.assert_array_equal(suite.labels, np.stack([index // 3 % 2, index // 2 % 2], axis=1))


def test_tasks_choose_among_the_labels_and_the_rest_is_left_out(tmp_path):
    suite = read_arff(ArffSource(**write(tmp_path, dense()), tasks={"b": "regression"}))
    assert [(t.name, t.kind) for t in suite.tasks] == [("b", "regression")]
    assert "label a" not in suite.feature_names


def test_missing_values(tmp_path):
    rows = dense()
    rows[2] = rows[2][:-1] + "?"
    suite = read_arff(ArffSource(**write(tmp_path, rows)))
    assert np.argwhere(~suite.observed).tolist() == [[2, 1]]
    rows[3] = "1,?,on,0,1"
    with pytest.raises(UserError, match="example 3, feature `colour=red`: missing or NaN"):
        load_suite(ArffSource(**write(tmp_path, rows)))


@pytest.mark.parametrize(
    ("mutate", "message"),
    [
        (lambda text: text.replace("1.000,green", "one,green"), "Invalid numerical value, at line 17. (line 17 `one,"),
        (lambda text: text.replace("1.000,green", "1.000,pink"), "Data value pink not found in nominal declaration"),
        (lambda text: text.replace("1.000,green", "1.000,green,1"), "Bad @DATA instance format in line 17"),
        (lambda text: text.replace("1.000,green", '1.000,"green'), "line 17"),
        (lambda text: text.replace("numeric", "date"), "Bad @ATTRIBUTE type, at line 3"),
        (lambda text: text.replace("attribute b", "attribute on"), "Bad @ATTRIBUTE name on at line 7"),
        (lambda text: text.replace("@RELATION 'made up: -C 2'", "@relation"), "(line 2 `@relation`)"),
        (lambda text: text.replace("@data", ""), "the file ends before its @data line"),
        (lambda text: text[:120], "the file ends before its @data line"),
        (lambda text: text[: text.index("@data") + 6], "the table has no rows"),
        (lambda text: "", "the file ends before its @data line"),
        (lambda text: text[:-7], "Bad @DATA instance format in line 49"),
        (lambda text: text.replace("numeric", "integer").replace("1.000,", "inf,"), "line 17"),
        (lambda text: text.replace("numeric", "integer").replace("1.000,", "nan,"), "example 7, feature `size`"),
        (lambda text: text.replace("1.000,", "nan,"), "example 7, feature `size`: missing or NaN"),
        (lambda text: text.replace("1.000,", "1e60,"), "example 7, feature `size`: infinite"),
        (
            lambda text: text.replace("size\tnumeric", "size string"),
            "column `size` must hold numbers, found numbers written as text",
        ),
    ],
)
def test_syntax_errors_name_the_file_and_the_line(tmp_path, mutate, message):
    files = write(tmp_path, dense())
    (tmp_path / "t.arff").write_text(mutate(HEAD + "\n".join(dense()) + "\n"))
    with pytest.raises(UserError) as error:
        load_suite(ArffSource(**files))
    assert message in str(error.value)
    assert "t.arff" in str(error.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{0 1,9 1}", "Bad @DATA instance format in line 12"),
        ("{0 1", "Error parsing '{0 1'"),
        ("1,red,on,0,1", "Invalid layout of the ARFF file, at line 12"),
        ("{0 %}", "line 12"),
    ],
)
def test_sparse_syntax_errors_name_the_line(tmp_path, row, message):
    rows = sparse()
    rows[2] = row
    with pytest.raises(UserError) as error:
        read_arff(ArffSource(**write(tmp_path, rows)))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        (XML.replace("</labels>", ""), "t.xml: not valid XML"),
        ("", "t.xml: not valid XML"),
        (XML.replace('"b"', '"c"'), "t.xml: 1 of 2 labels are not attributes of"),
        (XML.replace('"b"', '"label a"'), "label `label a` occurs twice"),
        (XML.replace('name="b"', ""), "label 2 has no name"),
        ("<labels></labels>", "no label found in <labels>"),
        ('<!DOCTYPE a [<!ENTITY x "y">]><labels/>', "remove them"),
        (XML.replace("utf-8", "utf-99"), "t.xml: not valid XML"),
        (
            "<labels>"
            + "".join(f'<label name="{n}"/>' for n in ("size", "colour", "on", "label a", "b"))
            + "</labels>",
            "no column is left for `features`",
        ),
    ],
)
def test_broken_label_lists_are_named(tmp_path, xml, message):
    with pytest.raises(UserError) as error:
        read_arff(ArffSource(**write(tmp_path, dense(), xml=xml)))
    assert message in str(error.value)


def test_tasks_outside_the_labels_and_no_labels_at_all(tmp_path):
    with pytest.raises(UserError, match=r"t\.xml: task `on` is not among its 2 labels"):
        read_arff(ArffSource(**write(tmp_path, dense()), tasks=["on"]))
    with pytest.raises(UserError, match="give the XML file of `labels`"):
        Config.parse({"name": "a", "data": {"source": "arff", "path": "t.arff"}})
