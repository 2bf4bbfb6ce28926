import pytest

from affinity_service.service.routes import files, page
from tests.served import write_study

BASE = "/v1/studies/done"
BAD_NAMES = (
    "..", "%2e%2e", ".service", "a..b", "done%2f..", "done%00", "-x", "_x", "x" * 101, "do ne", "döne", "done%0a",
    "%ff", "~", "*", "con:", "done\\",
)  # fmt: skip


def test_models_are_listed_and_fetched(served):
    listed = {each["path"]: each["bytes"] for each in served.get(f"{BASE}/models")["models"]}
    assert {"base_model/model.safetensors", "group_models/group-0.safetensors"} <= set(listed)
    for path, size in listed.items():
        answer = served.client.get(f"{BASE}/models/{path}")
        assert answer.status_code == 200
        assert answer.content == (served.root / "done" / path).read_bytes()
        assert int(answer.headers["content-length"]) == size == len(answer.content)


def test_too_many_downloads_are_refused(serving):
    served = serving(most_downloads=1)
    service = served.client.app.state.service
    path = f"{BASE}/models/base_model/model.safetensors"
    service.downloads = 1
    assert served.error("GET", path, 429)["code"] == "too_many"
    service.downloads = 0
    for _ in range(2):
        served.get(path)
    assert service.downloads == 0


def test_reports_are_read_in_pieces_too_and_counted(serving, monkeypatch):
    served = serving(most_downloads=1)
    service = served.client.app.state.service
    monkeypatch.setattr(files, "PIECE", 7)
    content = (served.root / "done/report/index.html").read_bytes()
    answer = served.get(f"{BASE}/report")
    assert answer.content == content
    assert int(answer.headers["content-length"]) == len(content)
    service.downloads = 1
    assert served.error("GET", f"{BASE}/report", 429)["code"] == "too_many"
    service.downloads = 0


@pytest.mark.parametrize(
    "path",
    [
        "../config.yaml", "config.yaml", "%2e%2e/%2e%2e/secret.json", "base_model/../../secret.json", "/etc/passwd",
        "base_model", "base_model/", "gradients/shard-00000.arrow", "base_model/link.json", "job.json",
        "base_model/folder/secret.json", "base_model//model.safetensors", "base_model/%00",
    ],
)  # fmt: skip
def test_nothing_else_is_fetched(shared, path):
    served = shared
    if not (served.root / "done/base_model/folder").exists():
        (served.root.parent / "secret.json").write_text("secret")
        (served.root / "done/base_model/link.json").symlink_to(served.root.parent / "secret.json")
        (served.root / "done/base_model/folder").symlink_to(served.root.parent)
    answer = served.client.get(f"{BASE}/models/{path}")
    assert answer.status_code == 404
    assert "secret" not in answer.text
    names = [each["path"] for each in served.get(f"{BASE}/models")["models"]]
    assert not any("link" in name or "folder" in name for name in names)


def test_the_report_runs_nothing(served):
    answer = served.client.get(f"{BASE}/report")
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    assert answer.content == (served.root / "done/report/index.html").read_bytes()


def test_fidelity_when_there_is_one(served):
    assert served.error("GET", f"{BASE}/fidelity", 404)["code"] == "no_fidelity"
    (served.root / "done/fidelity.json").write_text('{"best_validation": {"estimate": {"centred_r": null}}}')
    assert served.get(f"{BASE}/fidelity")["best_validation"]["estimate"]["centred_r"] is None
    assert served.get(BASE)["fidelity"] is True


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_are_none(shared, name):
    served = shared
    for rest in ("", "/config", "/models", "/events", "/report"):
        answer = served.client.get(f"/v1/studies/{name}{rest}")
        assert answer.status_code in (404, 405, 422), answer.text
        assert set(answer.json()) == {"error"}
    before = sorted(path.name for path in served.root.parent.rglob("*"))
    body = {"name": name, "config": {"data": {"source": "yeast"}}}
    assert served.client.post("/v1/studies", json=body).status_code == 422
    assert sorted(path.name for path in served.root.parent.rglob("*")) == before
    assert not served.jobs.submitted


def test_studies_behind_links_that_lead_out_are_not_there(served, tmp_path):
    write_study(tmp_path / "elsewhere")
    (served.root / "link").symlink_to(tmp_path / "elsewhere")
    (served.root / "inner").symlink_to(served.root / "done")
    (served.root / "circle").symlink_to(served.root / "circle")
    names = [each["name"] for each in served.get("/v1/studies")["studies"]]
    assert names == ["done", "inner"]
    for name in ("link", "circle"):
        served.error("GET", f"/v1/studies/{name}", 404)
        served.error("GET", f"/v1/studies/{name}/report", 404)
        body = {"name": name, "config": {"data": {"source": "yeast"}}}
        served.error("POST", "/v1/studies", 404, json=body)


@pytest.mark.parametrize(
    ("path", "file"),
    [("config", "config.yaml"), ("report", "report/index.html"), ("fidelity", "fidelity.json"),
     ("groups", "groups.json")],
)  # fmt: skip
def test_files_behind_links_that_lead_out_of_a_study_are_not_there(served, tmp_path, path, file):
    text = (
        '{"secret": "of whom the service runs as"}' if file.endswith(".json") else "name: done\ndata: {source: yeast}"
    )
    (tmp_path / "elsewhere").write_text(text)
    (served.root / "done" / file).unlink(missing_ok=True)
    (served.root / "done" / file).symlink_to(tmp_path / "elsewhere")
    served.error("GET", f"{BASE}/{path}", 404)


def test_the_page_is_served_from_its_folder_only(served, monkeypatch, tmp_path):
    static = tmp_path / "static"
    static.mkdir()
    (static / "index.html").write_text("<p>page")
    (static / "app.js").write_text("1")
    (tmp_path / "secret.txt").write_text("secret")
    (static / "link.txt").symlink_to(tmp_path / "secret.txt")
    monkeypatch.setattr(page, "STATIC", static)
    answer = served.client.get("/")
    assert (answer.status_code, answer.text) == (200, "<p>page")
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert served.client.get("/static/app.js").headers["content-type"].startswith("text/javascript")
    for name in ("../secret.txt", "%2e%2e%2fsecret.txt", "link.txt", "nothing.js", "%2e%2e", "a%00.js", ".hidden"):
        assert served.client.get(f"/static/{name}").status_code == 404
