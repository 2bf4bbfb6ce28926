"""Requests that nobody means well with: what the description of the interface allows and what it does not, thousands of
malformed names, bodies and configs. Never an error of the server's own making, never a traceback, never a file outside
of the studies."""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.testclient import TestClient, httpx

from affinity_service.config import Config
from affinity_service.service.app import create_app
from affinity_service.service.settings import ServiceSettings
from tests.broken.cases import JUNK
from tests.broken.configs import misspelt, parent_of, paths_of
from tests.served import FakeJobs, write_study

HOST = {"host": "localhost"}
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
NAMES, CONFIGS, BODIES = 900, 700, 400
ROOMY = {"workers": 8, "queue": 500, "slow_workers": 4, "slow_queue": 500, "poll_seconds": 0.01}
TRACES = ("Traceback", 'File "', "/site-packages/", "pydantic_core")


class JobsThatEnd(FakeJobs):
    """At once: a stream of the events of a job that stays would never end."""

    def submit(self, job: str, config: Config, study: str, until: str) -> None:
        super().submit(job, config, study, until)
        self.end(job)


class Site:
    """A service in a folder with something beside it that nobody may see or change."""

    def __init__(self, place: Path) -> None:
        self.place, self.root = place, place / "root"
        write_study(self.root / "done", tasks=4, rows=20, dimension=4)
        (place / "secret.txt").write_text("the secret")
        (place / "secret.json").write_text('{"a": "the secret"}')
        self.jobs = JobsThatEnd()
        self.app = create_app(ServiceSettings(root=str(self.root), require_tokens=False, **ROOMY), self.jobs)
        self.client = TestClient(self.app, base_url="http://localhost:8000", raise_server_exceptions=False)
        self.beside = self._beside()

    def _beside(self) -> dict[str, bytes]:
        """Everything but new studies, which a write may make, and the service's own locks."""
        return {
            str(path.relative_to(self.place)): path.read_bytes()
            for path in self.place.rglob("*")
            if path.is_file() and path.name != "job.json" and ".service" not in path.parts
        }

    def check(self, answer: Any, label: object) -> None:
        assert answer.status_code < 500, f"{label}: {answer.status_code} {answer.text[:500]}"
        assert not any(trace in answer.text for trace in TRACES), f"{label}: {answer.text[:500]}"
        assert "the secret" not in answer.text, label
        assert str(self.place) not in answer.text, f"{label}: {answer.text[:500]}"
        if answer.status_code >= 400:
            error = answer.json()["error"]
            assert error["code"]
            assert error["message"]

    def check_beside(self) -> None:
        assert self._beside() == self.beside
        for path in self.root.iterdir():
            assert path.name in ("done", ".service") or [file.name for file in path.iterdir()] == ["job.json"]
        for _, config, study, _ in self.jobs.submitted:
            assert Path(study).parent == self.root
            assert config.data.source in ("yeast", "generated_graph")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site"))
    with made.client:
        yield made


@pytest.fixture(autouse=True)
def nothing_else_has_changed(site: Site) -> Iterator[None]:
    yield
    site.check_beside()


def operations() -> list[str]:
    app = create_app(ServiceSettings(root="nowhere"), FakeJobs())
    return [f"{method.upper()} {path}" for path, methods in app.openapi()["paths"].items() for method in methods]


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("label", operations())
def test_whatever_the_description_allows_or_forbids_is_answered_as_described(site, label, mode):
    schema = schemathesis.openapi.from_asgi("/openapi.json", site.app, headers=HOST)
    method, path = label.split()
    operation = schema[path][method]

    @settings(
        max_examples=12,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def tried(case: Any) -> None:
        answer = case.call(headers=HOST)
        case.validate_response(answer, checks=CHECKS)
        site.check(answer, case)

    try:
        tried()
    except Unsatisfiable:
        # Nothing of such a request can be wrong.
        assert mode is GenerationMode.NEGATIVE


PIECES = (
    "..", "/", "\\", "%2e", "%2f", "%5c", "%00", "%0a", ".", "~", "done", "secret.txt", "secret.json", ".service",
    "\u202e", "\uff0e\uff0e", "a" * 101, "C:", "file://", "s3://", "%c0%ae", ";", "?x", "#", "*", "|", "{", "\t",
)  # fmt: skip
names = st.one_of(
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=5).map("".join),
    st.text(min_size=1, max_size=120),
    st.text("./\\%2eEfF", min_size=1, max_size=30),
)
PLACES = ("", "/config", "/models/{}", "/logs", "/tasks?cursor={}", "/affinity?format={}", "/report", "/events")


@settings(max_examples=NAMES // 2, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(name=names, place=st.sampled_from(PLACES), within=st.booleans())
def test_malformed_names_in_paths_and_bodies(site, name, place, within):
    study = "done" if within else name
    path = f"/v1/studies/{study}{place.format(name) if '{}' in place else place}"
    try:
        answer = site.client.get(path)
    except (ValueError, httpx.InvalidURL):
        answer = None  # the client itself refuses to send it
    if answer is not None:
        site.check(answer, path)
    body = {"name": name, "config": {"data": {"source": "yeast"}}}
    answer = site.client.post("/v1/studies", content=json.dumps(body), headers={"content-type": "application/json"})
    site.check(answer, body)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["done", "task_0"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
KEYS = ("tasks", "task", "size", "k", "method", "seed", "min_size", "max_size", "must_link", "cannot_link", "budget")
ROUTES = ("done/predict", "done/partners", "done/groups", "done/networks", "done/cancel", "")


@settings(max_examples=BODIES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    route=st.sampled_from(ROUTES),
    body=st.dictionaries(st.sampled_from((*KEYS, "name", "config", "until")), values, max_size=4) | values,
    cut=st.integers(0, 400),
    raw=st.none() | st.binary(max_size=60),
)
def test_malformed_bodies(site, route, body, cut, raw):
    content = raw if raw is not None else json.dumps(body).encode()[: cut if cut < 40 else None]
    place = f"/v1/studies/{route}".rstrip("/")
    site.check(site.client.post(place, content=content, headers={"content-type": "application/json"}), (route, content))


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000, b"NaN", b'"\\ud800"', b"\xff\xfe"]
)
def test_bodies_that_parsers_choke_on(site, content):
    for route in ROUTES:
        place = f"/v1/studies/{route}".rstrip("/")
        site.check(site.client.post(place, content=content, headers={"content-type": "application/json"}), content[:9])


HOSTILE = (
    *JUNK, "../../secret.txt", "/etc/passwd", "s3://bucket/x", "http://169.254.169.254/", "os:system", "gpt2",
    "package:os/x", "\ud800", "x" * 3000, {"$ref": "x"}, [[]] * 50, 10**50, "{input.__class__}",
)  # fmt: skip
SOURCES: tuple[dict[str, Any], ...] = (
    {"source": "yeast"}, {"source": "generated_graph"}, {"source": "csv", "path": "secret.txt", "tasks": ["a"]},
    {"source": "python", "function": "os:getcwd"}, {"source": "snap", "edges": "a", "communities": "b"},
    {"source": "parquet", "path": "../secret.txt"}, {"source": "graph", "path": "/etc"},
)  # fmt: skip


def broken_config(seed: int) -> Any:
    """A whole config with one to three keys replaced, renamed or gone; as an object or as text, which may be cut."""
    rng = random.Random(seed)
    whole = Config.parse({"name": f"c{seed % 7}", "data": rng.choice(SOURCES)}).model_dump(mode="json")
    whole.pop("written_by")
    for _ in range(rng.randint(1, 3)):
        place = rng.choice(paths_of(whole))
        parent, key = parent_of(whole, place), place[-1]
        change = rng.random()
        if change < 0.7:
            parent[key] = copy.deepcopy(rng.choice(HOSTILE))
        elif change < 0.85:
            parent[misspelt(rng, str(key))] = parent.pop(key)
        else:
            parent.pop(key)
    if rng.random() < 0.6:
        return whole
    text = yaml.safe_dump(whole, allow_unicode=True) if "\ud800" not in repr(whole) else json.dumps(whole)
    at = rng.randrange(len(text) or 1)
    insert = rng.choice(["", "", "\t", "{", "]", ": ", "&a *a", "!!python/name:os.system", "\0", "\x85", "? "])
    return text[:at] + insert + text[at:] if rng.random() < 0.7 else text[:at]


def test_malformed_configs(site):
    refused = 0
    for seed in range(CONFIGS):
        config = broken_config(seed)
        body = json.dumps({"name": f"c{seed % 7}", "config": config, "until": "report" if seed % 5 else "nothing"})
        answer = site.client.post("/v1/studies", content=body, headers={"content-type": "application/json"})
        site.check(answer, (seed, config))
        refused += answer.status_code != 201
        if answer.status_code == 201:
            # Free for the next one of this name.
            shutil.rmtree(site.root / f"c{seed % 7}")
    assert refused > CONFIGS * 0.6
    assert site.jobs.submitted, "what is still valid is taken"


def test_two_thousand_cases_are_tried():
    assert NAMES // 2 * 2 + BODIES + CONFIGS >= 2000
