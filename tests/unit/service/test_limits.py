"""How long a question may take, and how much it may ask."""

from __future__ import annotations

import asyncio
import time

import pytest

from affinity_service.affinity.trained import TrainedEstimator
from affinity_service.deadline import check_deadline
from affinity_service.service.errors import ApiError
from affinity_service.service.limits import Workers
from tests.served import write_study

BASE = "/v1/studies/done"
SLOW = [
    *(("groups", {"method": method}) for method in ("sdp", "spectral", "agglomerative", "random", "direct")),
    ("groups", {"k": 2}),
    ("groups", {"k": 2, "method": "direct"}),
    ("groups", {"k": 2, "method": "random", "min_size": 2, "cannot_link": [["task_0", "task_1"]]}),
    ("networks", {"budget": 2}),
    ("networks", {"budget": 2, "method": "pairs"}),
    ("partners", {"task": "task_0"}),
    ("predict", {"tasks": ["task_0"]}),
]


@pytest.mark.parametrize(("path", "body"), SLOW)
def test_an_answer_that_takes_too_long_is_given_up(serving, path, body):
    served = serving(answer_seconds=1e-9)
    error = served.error("POST", f"{BASE}/{path}", 503, json=body)
    assert error["code"] == "deadline"
    assert "longer than 1e-09 seconds" in error["message"]
    assert "fewer tasks" in error["hint"]
    # What is stored, and how the study stands, is answered as ever.
    served.get(f"{BASE}/groups")


@pytest.mark.parametrize("fits", [{}, {"solution": "path"}])
def test_work_on_many_tasks_stops_when_its_time_is_over(serving, fits):
    served = serving(answer_seconds=0.2)
    write_study(served.root / "many", tasks=90, **fits)
    slow = served.client.app.state.service.slow
    for path, body in (("groups", {"k": 30}), ("groups", {"method": "direct", "k": 30}), ("networks", {"budget": 30})):
        # Opened before, so that only the work is timed.
        served.get("/v1/studies/many")
        begin = time.monotonic()
        assert served.error("POST", f"/v1/studies/many/{path}", 503, json=body)["code"] == "deadline"
        assert time.monotonic() - begin < 30
    # No thread goes on with what nobody waits for.
    end = time.monotonic() + 10
    while slow.atwork and time.monotonic() < end:
        time.sleep(0.01)
    assert slow.atwork == 0


def test_a_thread_whose_time_is_over_works_for_the_next_one():
    def endless():
        while True:
            check_deadline()

    async def ask():
        workers = Workers("test", 1, 1, seconds=0.05)
        try:
            # The second one has waited for the first, and has as much time.
            answers = await asyncio.gather(workers.run(endless), workers.run(lambda: "done"), return_exceptions=True)
            return answers, await workers.run(lambda: "free")
        finally:
            workers.close()

    (given_up, waited), after = asyncio.run(ask())
    assert isinstance(given_up, ApiError)
    assert (given_up.status, given_up.code) == (503, "deadline")
    assert (waited, after) == ("done", "free")


@pytest.mark.parametrize(("path", "body"), [("groups", {"k": 2}), ("networks", {"budget": 2, "method": "pairs"})])
def test_studies_of_too_many_tasks_are_not_grouped_for_a_request(serving, path, body):
    served = serving(most_grouped=4)
    error = served.error("POST", f"{BASE}/{path}", 422, json=body)
    assert error["code"] == "too_large"
    assert "5 tasks" in error["message"]
    served.get(f"{BASE}/groups")
    served.post(f"{BASE}/predict", {"tasks": ["task_0"]})


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"must_link": [["task_0", "task_1", "task_2", "task_3", "task_4"]]}, "must_link: found 10 pairs"),
        ({"cannot_link": [["task_0", "task_1"], ["task_2", "task_3"]]}, "expected 1 at most"),
        ({"k": 4, "cannot_link": [["task_0", "task_1", "task_2"]]}, "cannot_link: found 3 pairs"),
    ],
)
def test_too_many_links_are_refused(serving, body, named):
    served = serving(most_links=9)
    error = served.error("POST", f"{BASE}/groups", 422, json=body)
    assert error["code"] == "too_large"
    assert named in error["message"]
    served.post(f"{BASE}/groups", {"k": 3, "cannot_link": [["task_0", "task_1", "task_2"]]})


def test_networks_by_pairs_train_nothing(served, monkeypatch):
    folder = write_study(served.root / "trains")
    text = folder.read_bytes("config.yaml").decode().replace("estimator: linearized", "estimator: trained")
    folder.write_bytes("config.yaml", text.encode())
    # The affinities of such a study are those that the stage stored.
    monkeypatch.setattr("affinity_service.study.Study.require", lambda *_: None)
    monkeypatch.setattr("affinity_service.service.open_study.OpenStudy.require", lambda *_: None)

    def trains(*_):
        raise AssertionError("a question trained models")

    monkeypatch.setattr(TrainedEstimator, "estimate", trains)
    found = served.post("/v1/studies/trains/networks", {"budget": 2, "method": "pairs"})
    assert found["loss"] is None
    assert set(found["served_by"]) == {f"task_{index}" for index in range(5)}
