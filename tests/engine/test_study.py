"""The whole way on small suites, with a real Ray and a real DeepSpeed."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from affinity_service import Study, UserError
from affinity_service.artifacts import StudyFolder
from affinity_service.config import Config
from affinity_service.evaluation.outcomes import GROUPS
from affinity_service.tables import read_table
from affinity_service.tasks import load_suite
from tests.suites import allies_and_rivals, mixed_suite

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("ray_session")]


class Recorder:
    """Which stages ran and which were found done."""

    def __init__(self) -> None:
        self.ran, self.reused = [], []

    def started(self, stage): ...

    def progress(self, done, total, text):
        assert 0 <= done <= total

    def warn(self, message): ...

    def finished(self, stage, seconds, reused):
        (self.reused if reused else self.ran).append(stage)


def test_the_whole_way_on_mixed_kinds_then_only_what_a_change_reaches(small_config, tmp_path):
    config = small_config(mixed_suite(rows=300))
    first = Recorder()
    study = Study.run(config, tmp_path / "study", reporter=first)
    names = ["base_model", "gradients", "fits", "affinity", "groups", "group_models", "report"]
    assert first.ran == names

    matrix = study.affinity
    assert matrix.names == ("up", "high", "level", "value")
    for values in (matrix.affinity, matrix.standard_error, matrix.pair_estimate):
        assert values.shape == (4, 4)
        assert np.isfinite(values).all()
    stored = read_table(study.folder, "affinity/matrix.parquet").to_pandas()
    assert len(stored) == 16
    estimates = read_table(study.folder, "affinity/estimates.parquet").to_pandas()
    alone = estimates.groupby("subset").filter(lambda rows: len(rows) == 1).set_index("task").predicted_loss
    np.testing.assert_allclose(-np.diag(matrix.affinity), alone[list(matrix.names)])

    groups = json.loads(study.folder.read_bytes("groups.json"))
    assert sorted(task for group in groups["groups"] for task in group) == sorted(matrix.names)
    assert len(groups["groups"]) == groups["k"] == 2
    assert groups["objective"] <= groups["bound"] + 1e-9
    results = read_table(study.folder, "group_models/results.parquet").to_pandas()
    assert set(results.setting) == {"groups", "joint", "single", "random"}
    assert results[["validation_loss", "test_loss"]].notna().all().all()
    assert len(study.folder.list("group_models/group-", ".safetensors")) == 2
    timings = study.folder.read_json("timings.json")["stages"]
    assert [stage["name"] for stage in timings] == names
    assert all(stage["seconds"] > 0 and stage["peak_bytes"] > 0 for stage in timings)
    assert all(stage["flops"] > 0 for stage in timings if stage["name"] not in ("groups", "report"))
    assert b"<html" in study.folder.read_bytes("report/index.html")

    second = Recorder()
    Study.run(config, tmp_path / "study", reporter=second)
    assert second.reused == names

    faster = config.model_copy(update={"fits": config.fits.model_copy(update={"workers": 1, "subsets": 6})})
    third = Recorder()
    Study.run(faster, tmp_path / "study", reporter=third, until="groups")
    assert third.reused[:2] == ["base_model", "gradients"]
    assert third.ran[:2] == ["fits", "affinity"]

    again = Recorder()
    replayed = Study.run(tmp_path / "study" / "config.yaml", tmp_path / "study", reporter=again, until="affinity")
    assert again.ran == []
    assert replayed.config.written_by.schema_version == 1


def test_predictions_are_those_of_the_design(estimated):
    study = estimated
    design = read_table(study.folder, "affinity/estimates.parquet").to_pandas()
    for _, rows in list(design.groupby("subset"))[::5]:
        found = study.predict(list(rows.task)).set_index("task")
        np.testing.assert_allclose(found.predicted_loss[rows.task], rows.predicted_loss, rtol=1e-4)
        np.testing.assert_allclose(found.example_error[rows.task], rows.standard_error, rtol=1e-3)
        assert (found.standard_error > 0).all()
    with pytest.raises(UserError, match="unknown task `hihg`; did you mean `high`"):
        study.predict(["hihg"])
    with pytest.raises(UserError, match="`up` is named 2 times"):
        study.predict(["up", "up"])
    with pytest.raises(UserError, match=r"k.* 9"):
        study.group(k=9)
    partners = study.best_partners("up", size=2)
    assert (partners.gain > 0).all()
    assert "up" not in set(partners.partner)
    if len(partners):
        beside = study.predict(["up", *partners.partner]).set_index("task")
        assert beside.predicted_loss["up"] == pytest.approx(partners.predicted_loss.iloc[-1], rel=1e-5)
        assert beside.alone["up"] == pytest.approx(partners.attrs["alone"], rel=1e-5)
    direct = study.group(k=2, method="direct")
    assert sorted(task for group in direct.tasks for task in group) == sorted(study.tasks)
    assert direct.objective <= direct.bound + 1e-9
    apart = study.group(k=2, max_size=len(study.tasks) - 1, cannot_link=[["up", "high"]])
    assert not any({"up", "high"} <= set(group) for group in apart.tasks)
    for method in ("direct", "pairs"):
        chosen = study.networks(2, method)
        assert len(chosen.tasks) <= 2
        losses = [study.predict(group).set_index("task").predicted_loss for group in chosen.tasks]
        served = [losses[network][task] for task, network in chosen.served_by.items()]
        assert np.mean(served) == pytest.approx(chosen.loss, rel=1e-5)
        assert chosen.settled
    assert study.networks(2).bound == pytest.approx(study.networks(2).loss, rel=1e-5)
    with pytest.raises(UserError, match="expected direct or pairs"):
        study.networks(2, "density")
    with pytest.raises(UserError, match="budget"):
        study.networks(0)


def test_a_task_added_afterwards_is_predicted_beside_the_others(estimated, tmp_path):
    shutil.copytree(estimated.folder.root, tmp_path / "study")
    study = Study.open(tmp_path / "study")
    before = study.predict(["up", "high"])
    shards = {path: path.stat().st_mtime_ns for path in (tmp_path / "study/gradients").glob("*")}
    suite = load_suite(study.config.data)
    labels = suite.labels[:, suite.names.index("up")]
    energy = study.add_task("twin", labels)
    assert 0 < energy <= 1 + 1e-6
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "study/gradients").glob("*")} == shards
    pd.testing.assert_frame_equal(study.predict(["up", "high"]), before, rtol=1e-5)
    for opened in (study, Study.open(tmp_path / "study")):
        found = opened.predict(["twin", "high"]).set_index("task")
        # The same labels under a head that was fitted afterwards, by a basis that was made without it.
        assert found.predicted_loss["twin"] == pytest.approx(before.predicted_loss[0], rel=0.25)
        assert found.alone["twin"] == pytest.approx(before.alone[0], rel=0.25)
        assert np.isfinite(found.standard_error).all()
        assert "twin" not in set(opened.best_partners("twin").partner)
    with pytest.raises(UserError, match="the study has it already"):
        study.add_task("twin", labels)
    with pytest.raises(UserError, match=r"labels have shape \(3,\)"):
        study.add_task("other", labels[:3])


def test_the_number_of_gradient_and_fit_workers_does_not_change_the_matrix(estimated, tmp_path):
    """Largest relative difference at most 1e-5, from the same base model."""
    two, config = estimated, estimated.config
    shutil.copytree(two.folder.root, tmp_path / "one")
    folder = StudyFolder.at(tmp_path / "one")
    for stage in ("gradients", "fits", "affinity"):
        folder.delete(f"stages/{stage}.json")
    single = config.model_copy(
        update={
            "gradients": config.gradients.model_copy(update={"workers": 1}),
            "fits": config.fits.model_copy(update={"workers": 1}),
        }
    )
    recorder = Recorder()
    one = Study.run(single, tmp_path / "one", until="affinity", reporter=recorder)
    assert recorder.ran == ["gradients", "fits", "affinity"]
    np.testing.assert_allclose(one.affinity.affinity, two.affinity.affinity, rtol=1e-5)
    np.testing.assert_allclose(one.affinity.pair_estimate, two.affinity.pair_estimate, rtol=1e-5)


def test_camps_that_contradict_each_other_show_in_the_matrix_and_in_the_groups(small_config, tmp_path):
    suite = allies_and_rivals()
    config = small_config(
        suite,
        model={"hidden": [1], "activation": "tanh"},
        base={"epochs": 30, "patience": 30},
        gradients={"reduction": "exact"},
        fits={"subsets": 40, "sizes": [3, 5], "tile": 64},
        groups={"k": "auto"},
    )
    study = Study.run(config, tmp_path / "study", until="groups")
    gains = study.affinity.gains()
    camps = np.array([0, 0, 0, 1, 1, 1])
    same = camps[:, None] == camps[None, :]
    partners = ~np.eye(6, dtype=bool)
    for receiver in range(6):
        friends = gains[receiver, same[receiver] & partners[receiver]]
        # A single entry may be off by more than two friends differ.
        assert friends.mean() > gains[receiver, ~same[receiver]].max(), f"task {receiver}"
    assert sorted(map(sorted, study.groups)) == [["ally_a", "ally_b", "ally_c"], ["rival_a", "rival_b", "rival_c"]]


def test_group_models_of_a_larger_model_go_through_the_trainer_of_the_base_model(estimated, tmp_path):
    shutil.copytree(estimated.folder.root, tmp_path / "study")
    content = estimated.config.model_dump(mode="json")
    # The one group of all tasks is joint training: one training stands for both.
    content["groups"] |= {"k": 1}
    content["group_models"] |= {
        "seeds": 1,
        "random_groupings": 0,
        "single_tasks": 1,
        "trainer": "deepspeed",
        "workers": 1,
    }
    content["group_models"]["start"] = "base"
    study = Study.run(Config.parse(content), tmp_path / "study", until="group_models")
    results = read_table(study.folder, "group_models/results.parquet").to_pandas()
    assert set(results.setting) == {GROUPS, "joint", "single"}
    assert results.test_loss.notna().all()
    # Each of the two trainings is kept as soon as it is done.
    assert len(study.folder.list("group_models/trials/", ".parquet")) == 2


def test_validation_measures_the_estimates_and_reuses_true_trainings(estimated, tmp_path):
    shutil.copytree(estimated.folder.root, tmp_path / "study")
    content = estimated.config.model_dump(mode="json")
    content["validation"] |= {
        "subsets": 5,
        "sizes": [2, 3],
        "seeds": 1,
        "recipe_seeds": 1,
        "oracle_seeds": 1,
        "tile": 3,
    }
    recorder = Recorder()
    study = Study.run(Config.parse(content), tmp_path / "study", until="validation", reporter=recorder)
    assert recorder.ran == ["validation"]
    fidelity = study.folder.read_json("fidelity.json")
    truths = [name for name, found in fidelity.items() if isinstance(found, dict)]
    assert truths == ["best_validation", "epoch_2", "epoch_5"]
    for truth in truths:
        assert set(fidelity[truth]) == {
            *("estimate", "published_recipe", "first_order", "oracle", "base", "row_mean", "ceiling")
        }
        for estimator, found in fidelity[truth].items():
            assert np.isfinite(found["relative_distance"]), estimator
            assert found["relative_distance_squared"] == pytest.approx(found["relative_distance"] ** 2)
        assert fidelity[truth]["row_mean"]["centred_r"] is None
        assert fidelity[truth]["base"]["skill"] == 0
    assert 0 <= fidelity["best_validation"]["estimate"]["coverage_90"] <= 1
    assert 0 < fidelity["flops_ratio_model"] < fidelity["flops_ratio_total"]

    pieces = sorted((tmp_path / "study/validation").iterdir())
    assert len([path for path in pieces if path.name.startswith("truth")]) == 4
    assert len([path for path in pieces if path.name.startswith("oracle")]) == 2

    # Other estimates are measured by the same trainings; more subsets and seeds add to them.
    written = {path: path.stat().st_mtime_ns for path in pieces}
    content["fits"]["solution"] = "ridge"
    content["validation"] |= {"subsets": 7, "seeds": 2}
    again = Study.run(Config.parse(content), tmp_path / "study", until="validation").folder.read_json("fidelity.json")
    assert again["subsets"] == 7
    assert again["best_validation"]["estimate"] != fidelity["best_validation"]["estimate"]
    kept = [path for path in pieces if path.exists() and path.stat().st_mtime_ns == written[path]]
    assert kept == pieces
    assert len([p for p in (tmp_path / "study/validation").iterdir() if p.name.startswith("truth")]) == 14

    # From scratch there is one moment, the best; fine-tuning's horizon and errors are none of its business.
    content["validation"] |= {"start": "initial", "subsets": 4, "seeds": 1}
    scratch = Study.run(Config.parse(content), tmp_path / "study", until="validation").folder.read_json("fidelity.json")
    assert [name for name, found in scratch.items() if isinstance(found, dict)] == ["best_validation"]
    assert scratch["start"] == "initial"
    assert "oracle" not in scratch["best_validation"]
    assert "coverage_90" not in scratch["best_validation"]["estimate"]


def test_every_subset_can_be_trained_instead_and_groups_follow_their_own_losses(estimated, tmp_path):
    shutil.copytree(estimated.folder.root, tmp_path / "study")
    content = estimated.config.model_dump(mode="json")
    content["affinity"]["estimator"] = "trained"
    content["fits"] |= {"epochs": 2, "subsets": 2}
    content["groups"] |= {"method": "direct", "k": 2, "shrink": True, "probe": True}
    study = Study.run(Config.parse(content), tmp_path / "study", until="groups")
    stored = study.folder.read_json("groups.json")
    assert stored["predicted_loss"] <= stored["start_predicted_loss"] + 1e-12
    assert stored["probed_loss"] > 0
    assert stored["start_probed_loss"] > 0
    assert sorted(task for group in stored["groups"] for task in group) == sorted(study.tasks)
    assert np.isfinite(study.affinity.affinity).all()
    assert not study.folder.exists("fits/calibration.json"), "true trainings need no probes"
