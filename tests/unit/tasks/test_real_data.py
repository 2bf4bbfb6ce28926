"""The real sets beside the checkout; skipped where they are not."""

from pathlib import Path

import pytest

from affinity_service.config_sources import ArffSource, CsvSource
from affinity_service.errors import UserError
from affinity_service.tasks import load_suite

DATA = Path(__file__).parents[4] / "shared" / "data"


def needs(name):
    return pytest.mark.skipif(not (DATA / name).exists(), reason=f"{DATA / name} is not on this machine")


@pytest.mark.parametrize(
    ("name", "rows", "features", "tasks"),
    [
        pytest.param("bibtex", 7395, 1836, 159, marks=needs("bibtex")),
        pytest.param("delicious", 16105, 500, 983, marks=needs("delicious")),
    ],
)
def test_multilabel_sets_of_mulan(name, rows, features, tasks):
    files = {"path": str(DATA / name / f"{name}.arff"), "labels": str(DATA / name / f"{name}.xml")}
    suite = load_suite(ArffSource(**files))
    assert suite.inputs.shape == (rows, features)
    assert len(suite.tasks) == tasks
    assert {task.kind for task in suite.tasks} == {"binary"}
    assert suite.observed.all()


@needs("tox21")
def test_molecules_are_no_features():
    with pytest.raises(UserError, match=r"tox21\.csv\.gz: column `smiles` must hold numbers, found text"):
        load_suite(CsvSource(path=str(DATA / "tox21" / "tox21.csv.gz"), features=["smiles"], leave_out=["mol_id"]))
