from dataclasses import replace

import numpy as np
import pytest

from affinity_service.artifacts import StudyFolder
from affinity_service.tasks.prepared import CONTENT, read_suite, write_suite
from tests.suites import mixed_suite


@pytest.fixture
def stored(tmp_path):
    suite = mixed_suite()
    suite = replace(
        suite,
        inputs=np.stack([suite.inputs, -suite.inputs, suite.inputs * 3], axis=1),
        left_out=(("rare", "2 positives"),),
        facts={"nodes": 500, "edges": 900},
    )
    folder = StudyFolder.at(tmp_path)
    write_suite(folder, suite)
    return suite, folder


def test_a_suite_comes_back_with_all_that_is_known_of_it(stored):
    suite, folder = stored
    found = read_suite(folder)
    for name in ("inputs", "labels", "split"):
        assert getattr(found, name).dtype == getattr(suite, name).dtype
        np.testing.assert_array_equal(getattr(found, name), getattr(suite, name))
    assert (found.tasks, found.left_out, found.facts) == (suite.tasks, suite.left_out, suite.facts)
    assert found.content_hash == suite.content_hash
    assert found.summary() == suite.summary()
    assert found.summary()["facts"] == {"nodes": 500, "edges": 900}


def test_facts_are_told_and_stand_for_no_data(stored):
    suite, _ = stored
    assert replace(suite, facts={}).content_hash == suite.content_hash
    assert mixed_suite().summary()["facts"] == {}


def test_its_arrays_are_maps_that_nothing_writes_to(stored):
    found = read_suite(stored[1])
    for array in (found.inputs, found.labels):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    rows = found.inputs[[3, 1]]
    rows[:] = 0


def test_it_is_there_once_its_last_file_is(stored):
    suite, folder = stored
    assert folder.sizes([CONTENT])
    names = folder.list("suite/")
    assert len(names) == 3
    assert CONTENT in names
    assert sum(folder.sizes(names).values()) > suite.inputs.nbytes
