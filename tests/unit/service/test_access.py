"""Who is let in: tokens, hosts, origins, kinds and sizes of bodies."""

import asyncio
import json
import os
import stat

import pytest

from affinity_service.cli import app, attempt
from affinity_service.errors import UserError
from affinity_service.service.auth import TokenStore, token_file
from affinity_service.service.launch import checked, free
from affinity_service.service.settings import ServiceSettings, is_loopback
from tests.unit.service.conftest import CONFIG

OPEN = ("/healthz",)
READ = (
    "/v1/whoami", "/metrics", "/openapi.json", "/v1/studies", "/v1/studies/done", "/v1/studies/done/events",
    "/v1/studies/done/logs", "/v1/studies/done/config", "/v1/studies/done/tasks", "/v1/studies/done/affinity",
    "/v1/studies/done/groups", "/v1/studies/done/fidelity", "/v1/studies/done/models", "/v1/studies/done/report",
    "/v1/studies/done/models/base_model/model.safetensors",
)  # fmt: skip
ASK = {
    "/v1/studies/done/predict": {"tasks": ["task_0"]}, "/v1/studies/done/partners": {"task": "task_0"},
    "/v1/studies/done/groups": {"k": 2}, "/v1/studies/done/networks": {"budget": 1},
}  # fmt: skip
WRITE = {"/v1/studies": {"name": "new", "config": CONFIG}, "/v1/studies/done/cancel": {}}


@pytest.fixture
def tokens(tmp_path):
    store = TokenStore(tmp_path / "tokens.json")
    return store, {scope: store.create(scope, scope)[1] for scope in ("read", "write")}


def bearer(secret):
    return {"authorization": f"Bearer {secret}"}


def test_every_route_is_in_one_of_the_lists_above(served):
    paths = {*OPEN, *READ, *ASK, *WRITE}
    plain = {p.replace("done/models/base_model/model.safetensors", "{name}/models/{path}") for p in paths}
    plain = {p.replace("/studies/done", "/studies/{name}") for p in plain}
    assert set(served.client.app.openapi()["paths"]) == plain - {"/openapi.json"}


def test_with_tokens_nothing_is_said_without_one(serving, tokens):
    served = serving(tokens=str(tokens[0].path))
    for path in OPEN:
        served.get(path)
    for wrong in ({}, bearer("aff_wrong"), bearer(""), {"authorization": tokens[1]["write"]},
                  {"authorization": f"Basic {tokens[1]['write']}"}):  # fmt: skip
        for path in READ:
            error = served.error("GET", path, 401, headers=wrong)
            assert error["code"] == "no_token"
        for path, body in {**ASK, **WRITE}.items():
            served.error("POST", path, 401, headers=wrong, json=body)
    # Not even which studies there are, nor what is wrong with a body.
    served.error("GET", "/v1/studies/nobody", 401)
    assert not served.jobs.submitted


def test_scopes(serving, tokens):
    store, secrets = tokens
    served = serving(tokens=str(store.path))
    read, write = bearer(secrets["read"]), bearer(secrets["write"])
    assert served.get("/v1/whoami", headers=read) == {"scope": "read", "version": "0.1.0", "can_submit": False}
    assert served.get("/v1/whoami", headers=write)["can_submit"] is True
    for path, body in ASK.items():
        served.post(path, body, headers=read)
    for path, body in WRITE.items():
        assert served.error("POST", path, 403, json=body, headers=read)["code"] == "read_only"
    assert not served.jobs.submitted
    served.post("/v1/studies", WRITE["/v1/studies"], 201, headers=write)


def test_a_revoked_token_is_out_at_the_next_request_and_no_door_opens(serving, tokens):
    store, secrets = tokens
    served = serving(tokens=str(store.path))
    served.get("/v1/whoami", headers=bearer(secrets["read"]))
    store.revoke("read")
    served.error("GET", "/v1/whoami", 401, headers=bearer(secrets["read"]))
    store.revoke(store.tokens()[0].id)
    assert store.tokens() == []
    served.error("GET", "/v1/whoami", 401)


def test_tokens_that_cannot_be_read_let_nobody_in(serving, tokens):
    store, secrets = tokens
    served = serving(tokens=str(store.path))
    whole = store.path.read_text()
    for content in ("", "{", "{}", '{"tokens": [{}]}', '{"tokens": 3}', whole.replace('"read"', '"Read"'),
                    whole.replace('"sha256": "', '"sha256": "x')):  # fmt: skip
        store.path.write_text(content)
        error = served.error("GET", "/v1/whoami", 503, headers=bearer(secrets["read"]))
        assert error["code"] == "tokens_unreadable"


def test_a_service_that_needs_tokens_and_has_none_lets_nobody_in(serving):
    served = serving(require_tokens=True)
    served.error("GET", "/v1/whoami", 401)


def test_secrets_are_kept_as_hashes_and_the_file_is_the_owners(tokens):
    store, secrets = tokens
    text = store.path.read_text()
    assert all(secret not in text and len(secret) > 43 for secret in secrets.values())
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert store.find(secrets["read"]).scope == "read"
    assert store.find("aff_" + "x" * 43) is None
    assert store.find("\ud800") is None
    with pytest.raises(UserError, match="one of this name"):
        store.create("read", "read")
    with pytest.raises(UserError, match="no token `nobody`"):
        store.revoke("nobody")
    for name, scope in (("", "read"), ("a\nb", "read"), ("x" * 101, "read"), ("a", "admin")):
        with pytest.raises(UserError):
            store.create(name, scope)


def test_tokens_on_the_command_line(tmp_path, capsys):
    def affinity(*arguments):
        assert attempt(lambda: app(["token", *arguments, "--root", str(tmp_path)], standalone_mode=False)) == 0
        return capsys.readouterr().out

    secret = affinity("create", "ana", "--scope", "write").splitlines()[0]
    assert TokenStore(token_file(str(tmp_path), None)).find(secret).name == "ana"
    listed = json.loads(affinity("list", "--json"))["tokens"]
    assert [(each["name"], each["scope"]) for each in listed] == [("ana", "write")]
    assert TokenStore(token_file(str(tmp_path), None)).revoke("ana").scope == "write"


@pytest.mark.parametrize("command", [["create", "ana"], ["list"], ["revoke", "ana"]])
def test_tokens_of_a_root_that_is_misspelt_are_not_made(tmp_path, capsys, command):
    wrong = tmp_path / "studeis"
    assert attempt(lambda: app(["token", *command, "--root", str(wrong)], standalone_mode=False)) != 0
    assert "no such folder" in capsys.readouterr().err
    assert not wrong.exists()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("localhost:8000", 200), ("LOCALHOST:1", 200), ("127.0.0.1:8000", 200), ("[::1]:8000", 200),
        ("lab.example", 200), ("evil.example", 403), ("localhost.evil.example", 403), ("127.0.0.1.nip.io", 403),
        ("evil.example@localhost", 400), ("localhost:8000:9", 400), ("", 400), ("local host", 400), ("[::1", 400),
        ("localhost/", 400),
    ],
)  # fmt: skip
def test_only_our_names_are_answered(shared, host, status):
    assert shared.client.get("/v1/whoami", headers={"host": host}).status_code == status


PROXIED = {
    "forwarded": "for=192.0.2.7", "x-forwarded-for": "192.0.2.7", "x-forwarded-host": "lab.example",
    "x-forwarded-proto": "https", "x-real-ip": "192.0.2.7", "via": "1.1 proxy",
}  # fmt: skip


@pytest.mark.parametrize("header", [*PROXIED, *(name.title() for name in PROXIED)])
def test_what_a_proxy_passes_on_is_not_from_this_machine(served, header):
    # The proxy on this machine says that the request is for 127.0.0.1, whoever sent it.
    headers = {"host": "127.0.0.1:8000", header: PROXIED[header.lower()]}
    for path in READ:
        error = served.error("GET", path, 401, headers=headers)
        assert error["code"] == "no_token"
        assert header.lower() in error["message"]
        assert "affinity token create" in error["hint"]
    for path, body in {**ASK, **WRITE}.items():
        served.error("POST", path, 401, headers=headers, json=body)
    assert not served.jobs.submitted
    # Neither more nor less than strangers see of a service with tokens.
    for path in (*OPEN, "/"):
        served.get(path, headers=headers)
    served.get("/v1/whoami", headers={"host": "127.0.0.1:8000"})


def test_behind_a_proxy_a_token_lets_in(serving, tokens):
    store, secrets = tokens
    served = serving(tokens=str(store.path))
    served.error("GET", "/v1/whoami", 401, headers=PROXIED)
    served.get("/v1/whoami", headers={**PROXIED, **bearer(secrets["read"])})


def test_a_second_host_header_is_refused(served):
    answer = served.client.get("/v1/whoami", headers=[("host", "localhost"), ("host", "evil.example")])
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:8000", 200), ("https://localhost:8000", 200), ("http://localhost:9000", 403),
        ("http://evil.example", 403), ("null", 403), ("", 403), ("http://localhost:8000.evil.example", 403),
        ("http://localhost:8000/x", 403), ("http://a@localhost:8000", 403), ("file://", 403), ("http://[", 403),
        ("chrome-extension://localhost:8000", 403),
    ],
)  # fmt: skip
def test_pages_of_other_origins_are_refused(shared, origin, status):
    for method, path in (("GET", "/v1/whoami"), ("POST", "/v1/studies/done/cancel")):
        options = {"json": {}} if method == "POST" else {}
        answer = shared.client.request(method, path, headers={"origin": origin}, **options)
        assert answer.status_code == status, answer.text


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", None])
def test_posts_are_json_or_refused(shared, kind):
    headers = {} if kind is None else {"content-type": kind}
    for path in (*ASK, *WRITE):
        answer = shared.client.post(path, content=b"{}", headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")


def test_large_bodies_are_refused_stated_or_chunked(serving):
    served = serving(most_bytes=2000)
    body = json.dumps({"tasks": ["x" * 100] * 30}).encode()

    def pieces():
        for start in range(0, len(body), 100):
            yield body[start : start + 100]

    headers = {"content-type": "application/json"}
    for content in (body, pieces()):
        answer = served.client.post("/v1/studies/done/predict", content=content, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
    lie = {**headers, "content-length": "ten"}
    assert served.client.post("/v1/studies/done/predict", content=body, headers=lie).status_code == 400
    # Within the bound the same works in pieces.
    small = iter([b'{"tasks": ', b'["task_0"]}'])
    assert served.client.post("/v1/studies/done/predict", content=small, headers=headers).status_code == 200


@pytest.mark.parametrize("length", [(b"content-length", b"10"), (b"transfer-encoding", b"chunked")])
@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/studies"), ("GET", "/healthz"), ("POST", "/nowhere")])
def test_nobody_waits_for_the_body_of_a_stranger(serving, tokens, method, path, length):
    served = serving(tokens=str(tokens[0].path))
    sent = []

    async def ask():
        async def never():
            await asyncio.sleep(60)

        async def send(message):
            sent.append(message)

        headers = [(b"host", b"localhost"), (b"content-type", b"application/json"), length]
        scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "headers": headers,
                 "query_string": b"", "root_path": "", "scheme": "http", "http_version": "1.1"}  # fmt: skip
        await asyncio.wait_for(served.client.app(scope, never, send), 10)

    asyncio.run(ask())
    assert sent[0]["status"] == 401


def test_every_answer_has_headers_that_keep_browsers_from_guessing(served):
    for path in ("/healthz", "/v1/whoami", "/v1/studies/nobody", "/nowhere"):
        headers = served.client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store"


def test_more_than_can_wait_is_told_to_come_back(serving):
    served = serving(workers=1, queue=0)
    workers = served.client.app.state.service.quick
    workers.atwork = workers.most
    answer = served.client.get("/v1/studies")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    workers.atwork = 0
    served.get("/v1/studies")


def test_questions_do_not_keep_a_run_from_being_cancelled(serving):
    served = serving()
    slow = served.client.app.state.service.slow
    slow.atwork = slow.most
    assert served.client.post("/v1/studies/done/groups", json={"k": 2}).status_code == 503
    served.post("/v1/studies", WRITE["/v1/studies"], 201)
    assert served.post("/v1/studies/new/cancel")["status"] == "cancelled"
    slow.atwork = 0


def test_what_nobody_foresaw_has_an_id_that_the_log_has_too(served, caplog, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(served.client.app.state.service.catalogue, "page", broken)
    error = served.error("GET", "/v1/studies", 500)
    assert error["code"] == "internal"
    assert "secret" not in error["message"]
    number = error["message"].split()[-1]
    assert number in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_metrics_count_by_template(served):
    served.get("/v1/studies/done")
    served.error("GET", "/v1/studies/nobody", 404)
    served.error("GET", "/nowhere/at/all", 404)
    served.post("/v1/studies/done/predict", {"tasks": ["task_0"]})
    text = served.get("/metrics").text
    for line in (
        'affinity_requests_total{method="GET",route="/v1/studies/{name}",status="200"} 1.0',
        'affinity_requests_total{method="GET",route="/v1/studies/{name}",status="404"} 1.0',
        'affinity_requests_total{method="GET",route="unmatched",status="404"} 1.0',
        'affinity_studies{status="finished"} 1.0',
        "affinity_predict_seconds_count 1.0",
    ):
        assert line in text
    assert "nobody" not in text


def test_others_are_let_in_with_tokens_only(tmp_path):
    settings = ServiceSettings(root=str(tmp_path))
    assert checked(settings, "127.0.0.1").require_tokens is False
    for host in ("0.0.0.0", "192.0.2.7", "lab.example", "::"):
        with pytest.raises(UserError, match="affinity token create"):
            checked(settings, host)
    TokenStore(token_file(str(tmp_path), None)).create("ana", "read")
    found = checked(settings, "192.0.2.7")
    assert found.require_tokens is True
    assert found.hosts == ["192.0.2.7"]
    with pytest.raises(UserError, match="no such folder"):
        checked(ServiceSettings(root=str(tmp_path / "nowhere")), "127.0.0.1")
    with pytest.raises(UserError, match="--data-root"):
        checked(ServiceSettings(root=str(tmp_path), data_roots=[str(tmp_path / "nowhere")]), "127.0.0.1")


@pytest.mark.parametrize("name", ["*", "lab.example", "192.0.2.7"])
def test_names_of_other_machines_need_tokens_behind_a_proxy_too(tmp_path, name):
    settings = ServiceSettings(root=str(tmp_path), hosts=[name])
    with pytest.raises(UserError, match=r"allow-host.*affinity token create NAME --scope write --root"):
        checked(settings, "127.0.0.1")
    TokenStore(token_file(str(tmp_path), None)).create("ana", "read")
    # Without the file nobody is let in, rather than everybody.
    assert checked(settings, "127.0.0.1").require_tokens is True
    assert checked(ServiceSettings(root=str(tmp_path), hosts=["127.0.0.2"]), "127.0.0.1").require_tokens is False


def test_the_command_that_makes_a_token_names_the_file_that_is_read(tmp_path):
    settings = ServiceSettings(root=str(tmp_path), tokens=str(tmp_path / "my tokens.json"))
    with pytest.raises(UserError, match=r"--tokens '.*/my tokens.json'`"):
        checked(settings, "0.0.0.0")


def test_a_port_in_use_is_said():
    import socket

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match="choose another --port"):
            free("127.0.0.1", port)
    assert free("127.0.0.1", 0) > 0
    assert is_loopback("127.0.0.2")
    assert is_loopback("[::1]")
    assert not is_loopback("0.0.0.0")
    assert os.environ.get("RAY_AUTH_TOKEN") is None
