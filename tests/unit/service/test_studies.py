import json
import threading
import time

import pytest
import yaml

from affinity_service.artifacts import StudyFolder
from affinity_service.engine.jobs import JobState
from affinity_service.errors import UserError
from affinity_service.progress import ProgressFile
from affinity_service.service import events
from affinity_service.service.jobs import JobRecord, RayJobs
from tests.served import FakeJobs, write_study
from tests.unit.service.conftest import CONFIG


def submit(served, name="new", status=201, config=CONFIG, **more):
    return served.post("/v1/studies", {"name": name, "config": config, **more}, status)


def events_of(text):
    """(kind, content) of each event; comments left out."""
    parts = [part for part in text.split("\n\n") if part and not part.startswith(":")]
    lines = [dict(line.split(": ", 1) for line in part.split("\n")) for part in parts]
    return [(each["event"], json.loads(each["data"])) for each in lines]


def test_a_finished_study_tells_all_of_itself(served):
    found = served.get("/v1/studies/done")
    assert (found["name"], found["status"], found["tasks"], found["unit"]) == ("done", "finished", 5, "nats")
    assert [found[key] for key in ("groups", "report", "can_predict", "fidelity")] == [True, True, True, False]
    assert {stage["state"] for stage in found["stages"]} == {"done"}
    assert found["stages"][0] == {
        "name": "base_model", "state": "done", "seconds": 1.5, "done": None, "total": None, "text": None
    }  # fmt: skip


def test_studies_are_listed_in_pages(served):
    for index in range(5):
        write_study(served.root / f"s{index}", until="fits")
    (served.root / "no study").mkdir()
    (served.root / "empty").mkdir()
    found, cursor = [], None
    for _ in range(10):
        page = served.get("/v1/studies", params={"limit": 2, **({"cursor": cursor} if cursor else {})})
        found += [each["name"] for each in page["studies"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert found == ["done", "s0", "s1", "s2", "s3", "s4"]
    served.error("GET", "/v1/studies?cursor=%FF!", 422)
    served.error("GET", "/v1/studies?limit=0", 422)


def test_tasks_come_in_pages(served):
    first = served.get("/v1/studies/done/tasks?limit=3")
    rest = served.get("/v1/studies/done/tasks", params={"cursor": first["next"]})
    names = [task["name"] for task in first["tasks"] + rest["tasks"]]
    assert names == [f"task_{index}" for index in range(5)]
    assert first["tasks"][0]["kind"] == "binary"
    assert rest["next"] is None


def test_a_study_is_submitted_watched_and_ends(served):
    made = submit(served)
    assert (made["name"], made["status"]) == ("new", "queued")
    ((job, config, place, until),) = served.jobs.submitted
    assert (config.name, place, until) == ("new", str(served.root / "new"), "report")
    assert made["job"] == job
    assert submit(served, status=409)["error"]["code"] == "running"

    served.jobs.run(job)
    reporter = ProgressFile(StudyFolder.at(place))
    reporter.started("base_model")
    reporter.finished("base_model", 2.0, False)
    reporter.started("gradients")
    reporter.every = 0
    reporter.progress(2, 7, "shards")
    found = served.get("/v1/studies/new")
    assert (found["status"], found["stage"]) == ("running", "gradients")
    stage = next(each for each in found["stages"] if each["name"] == "gradients")
    assert (stage["state"], stage["done"], stage["total"], stage["text"]) == ("running", 2, 7, "shards")

    def finish():
        time.sleep(0.3)
        reporter.progress(7, 7, "shards")
        time.sleep(0.3)
        write_study(place)
        served.jobs.end(job)

    thread = threading.Thread(target=finish)
    thread.start()
    answer = served.client.get("/v1/studies/new/events")
    thread.join()
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert ": still here" in answer.text
    events = events_of(answer.text)
    assert [kind for kind, _ in events[:-1]] == ["state"] * (len(events) - 1)
    assert events[-1] == ("end", {"status": "finished"})
    assert events[-2][1]["status"] == "finished"
    assert any(stage["done"] == 7 for _, state in events[:-1] for stage in state["stages"])
    assert served.client.app.state.service.streams == 0


def test_a_cluster_that_is_away_for_a_moment_does_not_end_a_stream(served, monkeypatch):
    job = submit(served)["job"]
    served.jobs.run(job)
    state, asked = served.jobs.state, []

    def flickers(own):
        asked.append(own)
        if len(asked) in (2, 3):
            raise UserError("no Ray cluster answers there")
        if len(asked) == 6:
            served.jobs.end(job, "error: x")
        return state(own)

    monkeypatch.setattr(served.jobs, "state", flickers)
    found = events_of(served.get("/v1/studies/new/events").text)
    statuses = [content["status"] for _, content in found]
    assert statuses == ["running", "unfinished", "running", "failed", "failed"]
    assert found[-1][0] == "end"


def test_a_cluster_that_stays_away_ends_a_stream(served, monkeypatch):
    submit(served)
    monkeypatch.setattr(events, "PATIENCE", 3)
    served.jobs.failure = UserError("no Ray cluster answers there")
    assert [kind for kind, _ in events_of(served.get("/v1/studies/new/events").text)] == ["state", "end"]


def test_events_of_a_study_that_is_over_end_at_once(served):
    assert [kind for kind, _ in events_of(served.get("/v1/studies/done/events").text)] == ["state", "end"]


def test_too_many_streams_are_refused(serving):
    served = serving(most_streams=1)
    served.client.app.state.service.streams = 1
    assert served.error("GET", "/v1/studies/done/events", 429)["code"] == "too_many"


def test_a_study_is_cancelled_and_continued(served):
    job = submit(served)["job"]
    served.jobs.run(job)
    assert served.post("/v1/studies/new/cancel")["status"] == "cancelled"
    assert served.post("/v1/studies/new/cancel")["status"] == "cancelled"
    again = submit(served)
    assert again["status"] == "queued"
    assert again["job"] != job
    assert served.post("/v1/studies/done/cancel")["status"] == "finished"


def test_a_job_that_failed_says_why(served):
    job = submit(served)["job"]
    served.jobs.end(job, "Job failed, last logs:\nerror: data.path x: no such file\nFinished stages are kept; …")
    found = served.get("/v1/studies/new")
    assert (found["status"], found["message"]) == ("failed", "data.path x: no such file")
    place = served.root / "new"
    served.jobs.end(job, f"error: study {place}: `suite.json` is missing; {place}/x\nFinished stages are kept; …")
    assert served.get("/v1/studies/new")["message"] == "the study: `suite.json` is missing; the study/x"
    assert served.get("/v1/studies/new/logs").text == f"log of {job}\n"


def test_of_a_log_the_end_is_sent_and_whether_it_was_cut(served):
    job = submit(served)["job"]
    whole = served.get("/v1/studies/new/logs")
    assert (whole.text, whole.headers["x-log-truncated"]) == (f"log of {job}\n", "false")
    cut = served.get("/v1/studies/new/logs?bytes=4")
    assert (cut.text, cut.headers["x-log-truncated"]) == (whole.text[-4:], "true")
    # Of a long one as much as anybody asked for is read from the cluster, and no more; characters stay whole.
    served.jobs.log = "ä" * 100_000
    end = served.get("/v1/studies/new/logs")
    assert (end.text, end.headers["x-log-truncated"]) == ("ä" * 32_768, "true")
    assert served.get("/v1/studies/new/logs?bytes=5").text == "ää"
    assert served.jobs.asked == [65_536, 4, 65_536, 5]
    for wrong in (0, -1, (8 << 20) + 1):
        served.error("GET", f"/v1/studies/new/logs?bytes={wrong}", 422)
    described = served.client.app.openapi()["paths"]["/v1/studies/{name}/logs"]["get"]
    assert "X-Log-Truncated" in described["responses"]["200"]["headers"]
    assert [each["name"] for each in described["parameters"] if each["in"] == "query"] == ["bytes"]


def test_a_log_that_the_cluster_cannot_give_now_is_no_mistake_of_the_caller(served, monkeypatch):
    def away(*_):
        raise UserError("no Ray cluster answers there")

    submit(served)
    monkeypatch.setattr(served.jobs, "log_tail", away)
    assert served.error("GET", "/v1/studies/new/logs", 503)["code"] == "cluster"


def test_what_is_left_when_service_and_head_are_gone(serving):
    before = serving()
    for name in ("ended", "stopped", "cut"):
        job = submit(before, name)["job"]
        before.jobs.run(job)
    write_study(before.root / "ended")
    before.post("/v1/studies/stopped/cancel")
    after = serving()
    assert after.jobs.jobs == {}
    found = {each["name"]: each["status"] for each in after.get("/v1/studies")["studies"]}
    assert found == {"cut": "unfinished", "done": "finished", "ended": "finished", "stopped": "cancelled"}
    assert "submit the study again" in after.get("/v1/studies/cut")["message"]
    assert submit(after, "cut")["status"] == "queued"


def test_a_study_up_to_a_stage_is_finished_there(served):
    job = submit(served, until="affinity")["job"]
    write_study(served.root / "new", until="affinity")
    served.jobs.jobs.pop(job)
    found = served.get("/v1/studies/new")
    assert found["status"] == "finished"
    assert found["stages"][-1]["name"] == "affinity"


def test_a_cluster_that_is_away_is_said(served):
    submit(served)
    served.jobs.failure = UserError("no Ray cluster answers there")
    found = served.get("/v1/studies/new")
    assert found["status"] == "unfinished"
    assert "cannot be asked" in found["message"]
    assert submit(served, "other", 503)["error"]["code"] == "cluster"
    # Nothing is left of what was not taken.
    served.jobs.failure = None
    assert not (served.root / "other/job.json").exists()
    assert submit(served, "other")["status"] == "queued"


def test_a_driver_of_somebody_else_is_seen_and_left_alone(served):
    from affinity_service.lock import driver_lock

    write_study(served.root / "cli", until="fits")
    with driver_lock(StudyFolder.at(served.root / "cli")):
        assert served.get("/v1/studies/cli")["status"] == "running"
        assert submit(served, "cli", 409)["error"]["code"] == "running"
        assert served.post("/v1/studies/cli/cancel", status=409)["error"]["code"] == "not_ours"
    assert served.get("/v1/studies/cli")["status"] == "unfinished"


def test_of_two_submissions_at_once_one_is_taken(serving):
    class SlowJobs(FakeJobs):
        def submit(self, *arguments):
            time.sleep(0.3)
            super().submit(*arguments)

    served = serving()
    slow = SlowJobs()
    served.client.app.state.service.catalogue.runner = slow
    codes = []

    def once():
        codes.append(served.client.post("/v1/studies", json={"name": "new", "config": CONFIG}).status_code)

    threads = [threading.Thread(target=once) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(codes) == [201, 409]
    assert len(slow.submitted) == 1


def test_a_study_whose_submission_takes_its_time_is_queued(served):
    seen = []

    class SlowJobs(FakeJobs):
        def submit(self, *arguments):
            seen.append(served.get("/v1/studies/new"))
            seen.append(served.get("/v1/studies")["studies"][-1])
            super().submit(*arguments)

    served.client.app.state.service.catalogue.runner = SlowJobs()
    submit(served)
    assert [(each["status"], each["message"]) for each in seen] == [("queued", None)] * 2


def test_an_answer_from_before_a_submission_does_not_hide_the_job():
    class Cluster:
        def __init__(self):
            self.jobs, self.asked = {}, 0

        def submit(self, *_, job, **__):
            self.jobs[job] = JobState(job, "PENDING", "", None, None, None)

        def states(self):
            self.asked += 1
            answer = dict(self.jobs)
            if self.asked == 1:
                # While the cluster answers one question a job comes in.
                runner.submit("mine", None, "", "report")
            return answer

    runner = RayJobs(None, False)
    runner._jobs = cluster = Cluster()
    assert runner.state("other") is None
    assert runner.state("mine").status == "PENDING"
    assert runner.state("other") is None
    assert cluster.asked == 2


def test_a_folder_that_is_no_study_stays_as_it_is(served):
    (served.root / "photos").mkdir()
    (served.root / "photos/a.jpg").write_bytes(b"x")
    assert submit(served, "photos", 409)["error"]["code"] == "not_a_study"
    assert [path.name for path in (served.root / "photos").iterdir()] == ["a.jpg"]
    (served.root / "notes").write_text("x")
    assert submit(served, "notes", 409)["error"]["code"] == "not_a_study"
    served.error("GET", "/v1/studies/notes", 404)
    served.error("GET", "/v1/studies/notes/report", 404)


def test_a_study_that_is_damaged_does_not_hide_the_others_nor_break_anything(served):
    damage = {"config.yaml": (b"", b"- 1", b"\xff", b"name: ["), "suite.json": (b"", b"[]", b"{}", b'{"tasks": [1]}')}
    for number, (name, content) in enumerate((n, c) for n, every in damage.items() for c in every):
        folder = write_study(served.root / f"s{number}")
        folder.write_bytes(name, content)
        found = served.get(f"/v1/studies/s{number}")
        assert not found["can_predict"]
        assert served.client.post(f"/v1/studies/s{number}/predict", json={"tasks": ["task_0"]}).status_code == 409
    gone = write_study(served.root / "gone")
    gone.delete("gradients/anchor.safetensors")
    assert served.client.post("/v1/studies/gone/predict", json={"tasks": ["task_0"]}).status_code in (409, 503)
    assert len(served.get("/v1/studies")["studies"]) == 10


def test_configs_as_yaml_text_and_their_own_names(served):
    made = served.post("/v1/studies", {"config": "name: own\ndata: {source: yeast}\n"}, 201)
    assert made["name"] == "own"
    error = served.post("/v1/studies", {"config": {"data": {"source": "yeast"}}}, 422)["error"]
    assert "name" in error["message"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a: &x [1]\nb: *x", "references"),
        ("{" * 40 + "}" * 40, "nested"),
        ("- a", "expected keys"),
        ("data: {source: yeast}\ndata: {source: yeast}", "second time"),
        ("data: !!python/object/apply:os.system ['true']", "YAML"),
        ("when: 2020-13-45", "YAML"),
        ("n: " + "1" * 5000, "YAML"),
        ("data: {source: yeast}\nfits: {subsets: many}", "fits.subsets"),
        ("data: {source: yeats}", "source"),
        ("x" * 200_000, "longer"),
        ({"data": {"source": "yeast", **{f"{key:x}": 0 for key in range(10_000)}}}, "keys"),
        ("\0", "YAML"),
    ],
)
def test_broken_yaml_is_refused_by_name(shared, text, named):
    served = shared
    answer = served.client.post("/v1/studies", json={"name": "new", "config": text})
    assert answer.status_code in (413, 422), answer.text
    assert named in answer.json()["error"]["message"]
    assert not (served.root / "new").exists()


def test_the_config_comes_back_and_can_be_submitted_again(served):
    text = served.get("/v1/studies/done/config")
    assert text.headers["content-type"].startswith("application/yaml")
    assert yaml.safe_load(text.text)["written_by"]["version"] == "0.1.0"
    assert submit(served, "again", config=text.text)["status"] == "queued"
    assert submit(served, "third", config=yaml.safe_load(text.text))["status"] == "queued"


def test_a_service_that_only_reads_starts_nothing(serving):
    served = serving(can_submit=False)
    assert submit(served, status=403)["error"]["code"] == "no_submit"
    assert served.get("/v1/whoami")["can_submit"] is False


def test_records_that_cannot_be_read_are_none(tmp_path):
    folder = StudyFolder.at(tmp_path)
    whole = b'{"id": "a-1", "until": "report", "submitted": 1.0}'
    wrong = (
        whole.replace(b"a-1", b"../../x"),
        whole.replace(b"a-1", b""),
        *(whole.replace(b"1.0", at) for at in TIMES),
    )
    for content in (b"", b"[]", b'{"id": 1}', b"null", *wrong):
        (tmp_path / "job.json").write_bytes(content)
        assert JobRecord.read(folder) is None
    (tmp_path / "job.json").write_bytes(whole)
    assert JobRecord.read(folder) == JobRecord("a-1", "report", 1.0)


# Of no year that can be shown.
TIMES = (b"NaN", b"Infinity", b"-1", b"1e300")
