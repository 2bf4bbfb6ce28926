"""The suite stage of graphs: the same whatever the workers, continued after an interruption, planned before it."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from affinity_service import Study
from affinity_service.artifacts import StudyFolder
from affinity_service.config import Config
from affinity_service.engine.context import StageContext
from affinity_service.engine.suite import prepare_suite
from affinity_service.graphs.raw import RawGraph
from affinity_service.graphs.source import read_graph
from affinity_service.graphs.tables import write_graph_tables
from affinity_service.planning import feasible_plan
from affinity_service.planning.view import plan_table
from affinity_service.tasks.prepared import read_suite
from affinity_service.tasks.source import planned_suite
from tests.engine.test_study import Recorder
from tests.unit.graphs.propagate_reference import dense_operator

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("ray_session")]


def config_of(data: dict, **sections) -> Config:
    return Config.parse({"name": "graph", "data": data, **sections})


GENERATED = {
    "source": "generated_graph",
    "nodes": 3000,
    "edges": 20_000,
    "communities": 10,
    "largest": 8,
    "community_sizes": [60, 300],
    "themes": 3,
    "features": {"dimension": 12, "iterations": 3},
    "hops": 2,
    "block_rows": 800,
}


class Interrupted(Recorder):
    """Raises in the middle of a layer, as a driver that is stopped there."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def progress(self, done, total, text):
        if text == "blocks of propagated features" and done >= self.after:
            raise RuntimeError("stopped")


@pytest.fixture(scope="module")
def prepared(ray_session, tmp_path_factory) -> Study:
    return Study.run(config_of({**GENERATED, "workers": 1}), tmp_path_factory.mktemp("one"), until="suite")


def test_the_workers_change_nothing_and_only_the_suite_is_kept(prepared, tmp_path):
    study = Study.run(config_of({**GENERATED, "workers": 2}), tmp_path / "two", until="suite")
    one, two = (read_suite(each.folder) for each in (prepared, study))
    assert one.content_hash == two.content_hash
    assert one.inputs.shape[1:] == (3, 12)
    assert len(one.tasks) == 8
    assert {"nodes": 3000, "edges": 20_000, "duplicates": 0, "self_loops": 0}.items() <= one.facts.items()
    assert study.summary["facts"] == one.facts, "a study that ends with its suite can be opened"
    assert not study.folder.list("graph/")
    timing = study.folder.read_json("timings.json")["stages"][0]
    # Twice three iterations, then two hops.
    assert timing["flops"] == 2.0 * (6 + 2) * 40_000 * 12
    assert timing["workers"] == 2
    again = Recorder()
    Study.run(config_of({**GENERATED, "workers": 1}), tmp_path / "two", reporter=again, until="suite")
    assert again.reused == ["suite"]


def test_inputs_are_standardised_and_tell_communities_apart(prepared):
    suite = read_suite(prepared.folder)
    training = suite.inputs[suite.split == 0]
    np.testing.assert_allclose(training.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(training.std(axis=0), 1, atol=1e-3)
    task = suite.labels[:, 0]
    means = [suite.inputs[task == label].reshape(-1, 36).mean(axis=0) for label in (0, 1)]
    assert np.abs(means[1] - means[0]).max() > 0.5


@pytest.mark.parametrize("after", [3, 14, 30])
def test_an_interrupted_stage_continues_from_its_blocks(prepared, tmp_path, after, caplog):
    config = config_of({**GENERATED, "workers": 2})
    with pytest.raises(RuntimeError, match="stopped"):
        Study.run(config, tmp_path / "study", reporter=Interrupted(after), until="suite")
    folder = StudyFolder.at(tmp_path / "study")
    assert folder.list("graph/tiles-")
    if after == 30:
        # The newest blocks may be lost as well.
        newest = max(int(name.split("-")[1].split("/")[0]) for name in folder.list("graph/power-"))
        folder.delete(f"graph/power-{newest}/block-00001.arrow")
    with caplog.at_level(logging.INFO, "affinity_service"):
        study = Study.run(config, tmp_path / "study", until="suite")
    assert "reused" in caplog.text
    assert read_suite(study.folder).content_hash == read_suite(prepared.folder).content_hash


def test_a_stage_stopped_while_it_tidies_up_ends_well(prepared):
    # The suite is whole, what it was made from is gone, the manifest was not written.
    context = StageContext("suite", prepared.config, prepared.folder, None, Recorder(), "")
    assert prepare_suite(context).identity == read_suite(prepared.folder).content_hash


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [({}, 1e-5), ({"directed": True, "normalisation": "mean"}, 1e-5), ({"precision": "bf16"}, 3e-2)],
)
def test_given_features_take_the_hops_of_the_dense_product(tmp_path, settings, tolerance):
    rng = np.random.default_rng(0)
    nodes = 60
    members = {"a": np.arange(0, 20), "b": np.arange(12, 30)}
    features = rng.normal(size=(nodes, 4)).astype(np.float32)
    edges = rng.integers(nodes, size=(150, 2))
    write_graph_tables(RawGraph("g", np.arange(nodes), edges, members, features=features), str(tmp_path / "g"))
    data = {"source": "graph", "path": str(tmp_path / "g"), "standardise": False, "block_rows": 7, "negatives": 0.3}
    # Blocks behind the members hold no example.
    data |= {"minimum_positives": 1, "minimum_negatives": 1, "hops": 3, **settings}
    config = config_of(data, model={"kind": "sign"})
    study = Study.run(config, tmp_path / "study", reporter=Recorder(), until="suite")
    suite = read_suite(study.folder)
    operator = dense_operator(edges, nodes, config.data.directed, config.data.normalisation)
    expected = [torch.from_numpy(features).double()]
    for _ in range(3):
        expected.append(operator @ expected[-1])
    examples = np.arange(30)
    np.testing.assert_allclose(suite.inputs, torch.stack(expected, dim=1)[examples].numpy(), atol=tolerance * 4)
    assert (suite.labels[:20, 0] == 1).all()
    assert (suite.labels[12:, 1] == 1).all()


def test_isolated_nodes_work_and_are_warned_of(tmp_path):
    class Warned(Recorder):
        def __init__(self):
            super().__init__()
            self.warnings = []

        def warn(self, message):
            self.warnings.append(message)

    graph = read_graph(config_of({**GENERATED, "nodes": 300, "edges": 900, "community_sizes": [30, 90]}).data)
    alone = replace(graph, ids=np.arange(310), members={**graph.members, "community_0": np.arange(270, 310)})
    write_graph_tables(alone, str(tmp_path / "g"))
    told = Warned()
    data = {"source": "graph", "path": str(tmp_path / "g"), "features": {"dimension": 3, "iterations": 1}, "hops": 1}
    study = Study.run(config_of(data), tmp_path / "study", reporter=told, until="suite")
    isolated = study.summary["facts"]["isolated"]
    assert isolated >= 10
    assert any(f"{isolated} of 310 nodes have no edge" in message for message in told.warnings)
    assert np.isfinite(read_suite(study.folder).inputs).all()


def test_sign_trains_on_the_suite_that_is_there(prepared):
    model, base = {"kind": "sign", "hop_width": 8, "hidden": [16]}, {"epochs": 2, "batch_size": 64}
    recorder = Recorder()
    config = config_of({**GENERATED, "workers": 1}, model=model, base=base)
    study = Study.run(config, prepared.folder.root, reporter=recorder, until="base_model")
    assert (recorder.reused, recorder.ran) == (["suite"], ["base_model"])
    assert study.folder.exists("base_model/model.safetensors")


def test_a_plan_has_a_row_for_the_suite(tmp_path):
    config = config_of(GENERATED, model={"kind": "sign"})
    plan = feasible_plan(config, planned_suite(config.data), StudyFolder.at(tmp_path))
    assert [stage.name for stage in plan.stages][:3] == ["suite", "base_model", "gradients"]
    suite = plan.stages[0]
    assert suite.flops == 2.0 * (6 + 2) * 40_000 * 12
    assert min(suite.seconds, suite.bytes, suite.disk_bytes) > 0
    assert "suite" in list(plan_table(plan).columns[0].cells)
