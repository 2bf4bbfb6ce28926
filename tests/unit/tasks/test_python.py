import sys

import numpy as np
import pytest

from affinity_service.config import Config
from affinity_service.config_sources import PythonSource
from affinity_service.errors import UserError
from affinity_service.tasks import load_suite

MODULE = """
import numpy as np
from affinity_service.tasks import Suite, Task

class Made:
    @staticmethod
    def suite():
        return suite()

table = [1, 2]

def suite(rows=60, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, 3))
    return Suite.from_arrays(X, X[:, :2] > 0, ["a", "b"], seed=seed)

def arrays():
    return np.ones((3, 2)), np.ones((3, 1))

def fails():
    return 1 / 0

def wrong_split():
    good = suite()
    return Suite(good.inputs, good.labels, good.split[:-1], good.tasks)

def wrong_labels():
    good = suite()
    return Suite(good.inputs, good.labels[:, :1], good.split, good.tasks)

def text_inputs():
    good = suite()
    return Suite(good.inputs.astype(str), good.labels, good.split, good.tasks)

def no_rows():
    return suite(rows=0)

def wide_types():
    good = suite()
    labels = np.where(good.labels > 0, 1, 0)
    return Suite(good.inputs.astype(np.float64), labels, good.split.astype(np.int64), list(good.tasks))

def unknown_kind():
    good = suite()
    return Suite(good.inputs, good.labels, good.split, (good.tasks[0], Task("b", "binery")))

def one_class():
    good = suite()
    return Suite(good.inputs, good.labels, good.split, (good.tasks[0], Task("b", "multiclass")))
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "my_suites.py").write_text(MODULE)
    (tmp_path / "my_broken.py").write_text("import nowhere_to_be_found")
    (tmp_path / "my_syntax.py").write_text("def (")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("my_suites", "my_broken", "my_syntax"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("here")
def test_a_function_of_the_working_directory_makes_the_suite():
    before = list(sys.path)
    suite = load_suite(PythonSource(function="my_suites:suite", arguments={"rows": 80}))
    assert len(suite) == 80
    assert suite.names == ["a", "b"]
    assert sys.path == before
    nested = load_suite(PythonSource(function="my_suites:Made.suite"))
    np.testing.assert_array_equal(nested.split, load_suite(PythonSource(function="my_suites:suite")).split)


@pytest.mark.usefixtures("here")
def test_a_suite_of_wider_types_is_the_same_suite():
    wide, plain = (load_suite(PythonSource(function=f"my_suites:{name}")) for name in ("wide_types", "suite"))
    assert (wide.inputs.dtype, wide.labels.dtype, wide.split.dtype) == (np.float32, np.float32, np.int8)
    assert wide.content_hash == plain.content_hash


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        ("my_siutes:suite", {}, "my_siutes:suite: no module `my_siutes`; it must be installed or lie in the working"),
        ("my_suites.more:suite", {}, "no module `my_suites.more`"),
        ("my_broken:suite", {}, "importing `my_broken` failed: No module named 'nowhere_to_be_found'"),
        ("my_syntax:suite", {}, "importing `my_syntax` failed: SyntaxError"),
        ("my_suites:siute", {}, "`my_suites` has no `siute`; did you mean `suite`?"),
        ("my_suites:table", {}, "`table` is list, expected a function"),
        ("my_suites:suite", {"row": 3}, "do not fit its signature: got an unexpected keyword argument 'row'"),
        ("my_suites:arrays", {}, "my_suites:arrays returned tuple, expected affinity_service.tasks.Suite"),
        ("my_suites:fails", {}, "my_suites:fails failed: ZeroDivisionError: division by zero"),
        ("my_suites:suite", {"rows": "x"}, "my_suites:suite failed: TypeError"),
        ("my_suites:wrong_split", {}, "my_suites:wrong_split: `split` of the suite must hold one of 0, 1, 2"),
        ("my_suites:wrong_labels", {}, "my_suites:wrong_labels: labels have shape (60, 1)"),
        ("my_suites:text_inputs", {}, "`inputs` of the suite must be a NumPy array of numbers, found an array of <U"),
        ("my_suites:no_rows", {}, "my_suites:no_rows: the suite has no example"),
        ("my_suites:unknown_kind", {}, "my_suites:unknown_kind: task `b`: kind 'binery' is unknown"),
        ("my_suites:one_class", {}, "my_suites:one_class: task `b`: a multiclass task needs 2 or more classes"),
    ],
)
def test_what_is_wrong_with_the_function_is_told(function, arguments, message):
    with pytest.raises(UserError) as error:
        load_suite(PythonSource(function=function, arguments=arguments))
    assert message in str(error.value)


def test_a_function_is_named_with_its_module():
    with pytest.raises(UserError, match=r"`data\.python\.function`"):
        Config.parse({"name": "a", "data": {"source": "python", "function": "suite"}})
