"""The files of a graph that are changed, moved or gone between two runs of its study."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from affinity_service.artifacts import StudyFolder
from affinity_service.config import Config
from affinity_service.engine.driver import SOURCE, run_study
from affinity_service.errors import UserError
from affinity_service.graphs.raw import RawGraph
from affinity_service.graphs.source import source_identity
from affinity_service.graphs.tables import write_graph_tables
from affinity_service.stages import SUITE, stages_of
from affinity_service.tasks.prepared import write_suite
from tests.suites import mixed_suite


class Told:
    def __init__(self):
        self.reused, self.warnings = [], []

    def started(self, stage): ...

    def warn(self, message):
        self.warnings.append(message)

    def finished(self, stage, seconds, reused):
        assert reused
        self.reused.append(stage)


@pytest.fixture
def study(tmp_path):
    """A config, and a folder whose suite stage is done as if it had been made of the files."""
    graph = RawGraph("g", np.arange(3), np.array([[0, 1], [1, 2]]), {"a": np.array([0, 2])})
    write_graph_tables(graph, str(tmp_path / "g"))
    config, folder = config_of(tmp_path), StudyFolder.at(tmp_path / "study")
    stage = stages_of(config)[0]
    wanted = stage.fingerprint(config, {"source": source_identity(config.data)})
    folder.begin(SUITE, wanted, stage.outputs)
    suite = mixed_suite()
    write_suite(folder, replace(suite, inputs=np.stack([suite.inputs, -suite.inputs], axis=1)))
    folder.complete(SUITE, wanted, stage.outputs, {}, "content")
    return config, folder


def config_of(tmp_path, **settings):
    data = {"source": "graph", "path": str(tmp_path / "g"), "hops": 1, **settings}
    return Config.parse({"name": "g", "data": data, "model": {"kind": "sign"}})


def run(config, folder):
    told = Told()
    run_study(config, folder, told, until=SUITE)
    assert told.reused == [SUITE]
    return told.warnings


def test_a_study_goes_on_without_the_files_that_its_suite_was_made_from(study, tmp_path):
    config, folder = study
    assert run(config, folder) == []
    shutil.rmtree(tmp_path / "g")
    (warning,) = run(config, folder)
    assert "g: no such file or folder" in warning
    assert warning.endswith("; the suite that was made of it before is used")


def test_the_files_are_asked_for_where_the_suite_is_not_of_this_config(study, tmp_path):
    config, folder = study
    run(config, folder)
    shutil.rmtree(tmp_path / "g")
    with pytest.raises(UserError, match="no such file or folder"):
        run(config_of(tmp_path, hops=2), folder)
    folder.delete("suite/labels.arrow")
    with pytest.raises(UserError, match="no such file or folder"):
        run(config, folder)
    folder.delete(SOURCE)
    with pytest.raises(UserError, match="no such file or folder"):
        run(config, folder)


def test_files_that_are_there_and_cannot_be_read_are_an_error(study, tmp_path):
    config, folder = study
    run(config, folder)
    (tmp_path / "g" / "edges.parquet").unlink()
    (tmp_path / "g" / "edges.parquet").mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        run(config, folder)
