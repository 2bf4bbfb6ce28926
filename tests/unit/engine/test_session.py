"""What workers are started with, where scratch lies, and addresses that cannot be one."""

from __future__ import annotations

import json
import socket

import pytest

from affinity_service.artifacts import StudyFolder
from affinity_service.engine import session
from affinity_service.engine.session import ENVIRONMENT, JOB_ENVIRONMENT, beside, check_address, runtime_environment
from affinity_service.errors import UserError


def test_workers_of_a_cluster_get_variables_and_code():
    found = runtime_environment({"OMP_WAIT_POLICY": "active"}, carry_package=True)
    assert found["env_vars"] == {**ENVIRONMENT, "OMP_WAIT_POLICY": "active"}
    assert [module.rsplit("/", 1)[1] for module in found["py_modules"]] == ["affinity_service"]


def test_our_own_variables_reach_the_workers_where_they_are_set():
    found = runtime_environment({"AFFINITY_STORAGE_PATIENCE": "7", "AFFINITY_OTHER": "1"}, carry_package=False)
    assert found["env_vars"] == {**ENVIRONMENT, "AFFINITY_STORAGE_PATIENCE": "7"}


@pytest.mark.parametrize(("cores", "asked"), [(8, [None]), (2, [None]), (1, [None, 2])])
def test_a_machine_of_one_core_is_given_to_two_workers(cores, asked, monkeypatch):
    started = []
    monkeypatch.setattr(session.ray, "init", lambda _, num_cpus, **rest: started.append(num_cpus))
    monkeypatch.setattr(session.ray, "shutdown", lambda: None)
    monkeypatch.setattr(session.ray, "cluster_resources", lambda: {"CPU": started[-1] or cores})
    session._start()
    assert started == asked


def test_inside_a_job_nothing_is_set_twice():
    job = {"runtime_env": {"env_vars": {"OMP_WAIT_POLICY": "passive", "MINE": "1"}, "py_modules": ["gcs://x.zip"]}}
    found = runtime_environment({JOB_ENVIRONMENT: json.dumps(job)}, carry_package=True)
    assert set(found) == {"env_vars"}
    assert set(found["env_vars"]) == set(ENVIRONMENT) - {"OMP_WAIT_POLICY"}


@pytest.mark.parametrize(
    ("root", "expected"),
    [
        ("/shared/studies/a", "/shared/studies/x"),
        ("s3://bucket/studies/a", "s3://bucket/studies/x"),
        ("s3://bucket/a", "s3://bucket/x"),
        ("s3://bucket/s/a?endpoint_override=h:1", "s3://bucket/s/x?endpoint_override=h:1"),
    ],
)
def test_scratch_that_every_node_sees_lies_beside_the_study(root, expected):
    assert beside(StudyFolder.at(root), "x") == expected


@pytest.mark.parametrize("address", ["http://head:8265", "ray://head:10001", "head", "head:port", ":6379", "h:99999"])
def test_what_is_no_address_of_a_cluster_is_refused(address):
    with pytest.raises(UserError, match=f"--address {address}: expected `auto` or HOST:PORT"):
        check_address(address)


def test_an_address_where_nobody_listens_is_refused_at_once():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UserError, match=f"--address {address}: no Ray cluster answers there"):
            check_address(address)
