import io
import json
from itertools import chain

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from affinity_service import Study
from affinity_service.artifacts import StudyFolder
from affinity_service.config import Config
from affinity_service.grouping import centre_rows
from affinity_service.service import errors, open_study
from tests.served import write_study

BASE = "/v1/studies/done"


def test_predictions_are_those_of_the_facade(served):
    found = served.post(f"{BASE}/predict", {"tasks": ["task_1", "task_3"]})
    expected = Study.open(served.root / "done").predict(["task_1", "task_3"])
    assert found["unit"] == "nats"
    table = pd.DataFrame(found["predictions"])
    assert table["task"].tolist() == ["task_1", "task_3"]
    for column in ("predicted_loss", "standard_error", "alone"):
        np.testing.assert_allclose(table[column], expected[column], rtol=1e-6)
    np.testing.assert_allclose(table["gain"], table["alone"] - table["predicted_loss"])


def test_partners_are_those_of_the_facade(served):
    found = served.post(f"{BASE}/partners", {"task": "task_0", "size": 2})
    expected = Study.open(served.root / "done").best_partners("task_0", 2)
    assert [each["partner"] for each in found["partners"]] == expected["partner"].tolist()
    assert found["alone"] == pytest.approx(expected.attrs["alone"])


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("predict", {"tasks": ["task_9"]}, "did you mean"),
        ("predict", {"tasks": ["task_1", "task_1"]}, "named 2 times"),
        ("predict", {"tasks": []}, "tasks"),
        ("predict", {"tasks": "task_1"}, "tasks"),
        ("predict", {"task": ["task_1"]}, "tasks"),
        ("predict", {"tasks": ["x" * 501]}, "500"),
        ("predict", {"tasks": ["\ud800"]}, "tasks"),
        ("partners", {"task": "task_1", "size": 0}, "size"),
        ("groups", {"k": 6}, "k"),
        ("groups", {"method": "magic"}, "method"),
        ("groups", {"min_size": 4, "k": 2}, "2 groups of 4 to 5 tasks"),
        ("groups", {"must_link": [["task_0", "task_1"]], "cannot_link": [["task_0", "task_1"]]}, "task_0"),
        ("networks", {"budget": 0}, "budget"),
    ],
)
def test_what_cannot_be_answered_is_said(shared, path, body, named):
    served = shared
    error = served.error("POST", f"{BASE}/{path}", 422, content=json.dumps(body),
                         headers={"content-type": "application/json"})  # fmt: skip
    assert named in error["message"] + error.get("field", "")
    assert str(served.root) not in str(error)


def test_a_study_asked_twice_is_read_once_and_read_again_when_it_changes(served):
    catalogue = served.client.app.state.service.catalogue
    first = catalogue.opened("done")
    asked = served.post(f"{BASE}/predict", {"tasks": ["task_0"]})
    assert catalogue.opened("done") is first
    write_study(served.root / "done", rows=60)
    again = served.post(f"{BASE}/predict", {"tasks": ["task_0"]})
    assert catalogue.opened("done") is not first
    assert again != asked


def test_so_many_studies_are_kept_open(serving):
    served = serving(open_studies=2)
    for name in ("a", "b", "c"):
        write_study(served.root / name)
    catalogue = served.client.app.state.service.catalogue
    for name in ("a", "b", "a", "c"):
        served.post(f"/v1/studies/{name}/predict", {"tasks": ["task_0"]})
    assert list(catalogue._open) == ["a", "c"]


def test_the_matrix_in_all_its_forms(served):
    matrix = Study.open(served.root / "done").affinity
    found = served.get(f"{BASE}/affinity")
    assert found["tasks"] == list(matrix.names)
    np.testing.assert_allclose(found["affinity"], matrix.affinity)
    np.testing.assert_allclose(found["standard_error"], matrix.standard_error)
    assert found["subsets"] == matrix.subsets.tolist()
    assert found["direction"].startswith("higher is better")

    centred = served.get(f"{BASE}/affinity?centred=true")
    np.testing.assert_allclose(centred["affinity"], centre_rows(matrix.affinity))

    csv = served.get(f"{BASE}/affinity?format=csv")
    assert csv.headers["content-type"].startswith("text/csv")
    long = pd.read_csv(io.StringIO(csv.text))
    assert long.columns.tolist() == [
        "receiver", "source", "affinity", "standard_error", "subsets", "pair_estimate"
    ]  # fmt: skip
    np.testing.assert_allclose(long["affinity"].to_numpy().reshape(5, 5), matrix.affinity)

    arrow = served.client.get(f"{BASE}/affinity", headers={"accept": "application/vnd.apache.arrow.stream"})
    table = pa.ipc.open_stream(arrow.content).read_all()
    assert table.column_names == long.columns.tolist()
    assert table.to_pandas()["source"].tolist() == long["source"].tolist()

    wide = pa.ipc.open_stream(served.client.get(f"{BASE}/affinity?format=arrow&layout=wide").content).read_all()
    assert wide.column_names == ["receiver", *matrix.names]
    np.testing.assert_allclose(wide.drop_columns("receiver").to_pandas().to_numpy(), matrix.affinity)
    assert served.error("GET", f"{BASE}/affinity", 406, headers={"accept": "image/png"})["code"] == "not_acceptable"


def test_groups_stored_and_computed(served):
    stored = served.get(f"{BASE}/groups")
    assert sorted(chain(*stored["groups"])) == [f"task_{index}" for index in range(5)]
    before = (served.root / "done/groups.json").read_bytes()
    found = served.post(f"{BASE}/groups", {"k": 2, "must_link": [["task_0", "task_4"]]})
    assert found["k"] == len(found["groups"]) == 2
    assert any({"task_0", "task_4"} <= set(group) for group in found["groups"])
    assert found["objective"] <= found["bound"] + 1e-9
    direct = served.post(f"{BASE}/groups", {"k": 2, "method": "direct"})
    assert sorted(chain(*direct["groups"])) == sorted(chain(*stored["groups"]))
    assert (served.root / "done/groups.json").read_bytes() == before


@pytest.mark.parametrize("method", ["direct", "pairs"])
def test_networks(served, method):
    found = served.post(f"{BASE}/networks", {"budget": 2, "method": method})
    assert len(found["networks"]) <= 2
    for task, network in found["served_by"].items():
        assert task in found["networks"][network]


def test_a_study_without_affinities_cannot_be_asked_yet(served):
    write_study(served.root / "half", until="gradients")
    error = served.error("POST", "/v1/studies/half/predict", 409, json={"tasks": ["task_0"]})
    assert error["code"] == "cannot_predict"
    assert served.get("/v1/studies/half")["why_not_predict"]


def test_a_study_that_trains_every_subset_is_not_asked_to(served):
    folder = write_study(served.root / "trains")
    text = folder.read_bytes("config.yaml").decode().replace("estimator: linearized", "estimator: trained")
    folder.write_bytes("config.yaml", text.encode())
    error = served.error("POST", "/v1/studies/trains/predict", 409, json={"tasks": ["task_0"]})
    assert error["code"] == "cannot_predict"


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("groups", {"must_link": [[1] * 5000] * 80}, "must_link.0.0"),
        ("groups", {"cannot_link": [[]] * 5000}, "cannot_link.0"),
        ("predict", {"tasks": [1] * 5000}, "tasks.0"),
        ("groups", {f"{key:x}": 0 for key in range(80_000)}, "80000 keys"),
    ],
)
def test_a_body_full_of_mistakes_is_told_of_the_first(shared, monkeypatch, path, body, named):
    told = []
    invalid = errors._invalid
    monkeypatch.setattr(errors, "_invalid", lambda error: told.append(len(error.errors())) or invalid(error))
    error = shared.error("POST", f"{BASE}/{path}", 422, json=body)
    assert named in error["message"]
    # Each costs as much as the whole body: all of them would hold up every other request.
    assert told == [1]


def test_groups_of_an_earlier_config_are_not_those_of_the_study(served):
    assert served.get(f"{BASE}/groups")["k"] == 2
    assert served.get(BASE)["groups"] is True
    folder = StudyFolder.at(served.root / "done")
    config = Config.from_yaml(folder.read_bytes("config.yaml").decode())
    other = config.model_copy(update={"groups": config.groups.model_copy(update={"k": 3})})
    folder.write_bytes("config.yaml", other.to_yaml().encode())
    assert served.error("GET", f"{BASE}/groups", 409)["code"] == "not_ready"
    assert served.get(BASE)["groups"] is False


def test_answers_are_kept_by_their_size(served, monkeypatch):
    monkeypatch.setattr(open_study, "MOST_ROWS", 7)
    study = served.client.app.state.service.catalogue.opened("done")
    for tasks in (["task_0", "task_1"], ["task_2"], ["task_3", "task_4"]):
        served.post(f"{BASE}/predict", {"tasks": tasks})
    assert len(study._answers) == 3
    served.post(f"{BASE}/predict", {"tasks": ["task_2"]})
    served.post(f"{BASE}/predict", {"tasks": ["task_1", "task_2", "task_3"]})
    # The one that was not asked for longest had to go.
    assert [question[1:] for question in study._answers] == [
        ("task_3", "task_4"), ("task_2",), ("task_1", "task_2", "task_3")
    ]  # fmt: skip
    assert sum(len(question) - 1 for question in study._answers) == study._rows == 6
    # The same again, which is neither counted twice nor another answer.
    study.answered(("predict", "task_2"), dict)
    assert study._rows == 6
    # What is larger than all that may be kept is not kept.
    assert study.answered(("predict", *"abcdefgh"), lambda: "large") == "large"
    assert len(study._answers) == 3
