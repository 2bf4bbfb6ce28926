"""What a real Ray is told and says: metrics at its Prometheus endpoint, and the doctor's questions."""

from __future__ import annotations

import re
import time
import urllib.request

import pytest
import ray

from affinity_service.engine import cluster_checks
from affinity_service.engine.cluster_checks import deepspeed_works, nodes_alike, ray_cluster
from affinity_service.engine.stage_metrics import FAILURES, GAUGES, StageMetrics, study_name

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("ray_session")]
SAMPLE = re.compile(r"^(ray_affinity_stage_\w+)\{(.*)\} (\S+)$", re.MULTILINE)


def scraped(study: str) -> dict[tuple[str, str], float]:
    """By metric and stage, of one study."""
    (node,) = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    found = {}
    for name, tags, value in SAMPLE.findall(text):
        labels = dict(re.findall(r'(\w+)="([^"]*)"', tags))
        if labels["study"] == study:
            found[name, labels["stage"]] = float(value)
    return found


def test_prometheus_finds_every_stage_of_a_study(estimated):
    study = study_name(estimated.folder.root)
    StageMetrics(study, "broken").failed()
    wanted = {(f"ray_{name}", "fits") for name in GAUGES} | {(f"ray_{FAILURES}_total", "broken")}
    finished = ("running", "seconds", "flops", "peak_bytes")
    stages = ("base_model", "gradients", "fits")
    wanted |= {(f"ray_affinity_stage_{name}", stage) for name in finished for stage in stages}
    # Processes hand their metrics over every ten seconds, and one answer need not have all of them.
    found: dict[tuple[str, str], float] = {}
    end = time.monotonic() + 90
    while not wanted <= set(found) and time.monotonic() < end:
        found |= scraped(study)
        time.sleep(1)
    assert wanted <= set(found)
    timings = {stage["name"]: stage for stage in estimated.folder.read_json("timings.json")["stages"]}
    for stage in stages:
        for key in ("seconds", "flops", "peak_bytes"):
            assert found[f"ray_affinity_stage_{key}", stage] == pytest.approx(timings[stage][key])
        assert found["ray_affinity_stage_running", stage] == 0
    done, total = (found[f"ray_affinity_stage_pieces_{part}", "fits"] for part in ("done", "total"))
    assert done == total > 0
    assert found[f"ray_{FAILURES}_total", "broken"] == 1


def test_the_doctor_finds_deepspeed_and_this_cluster_well(tmp_path):
    (found,) = deepspeed_works()
    assert found.state == "ok"
    findings = list(ray_cluster("auto", str(tmp_path / "study")))
    assert [(each.check, each.state) for each in findings] == [("ray", "ok"), ("nodes", "ok"), ("shared storage", "ok")]
    assert "1 node; the cluster's nodes have 1 × (" in findings[0].found


def test_a_node_with_other_versions_is_named(monkeypatch):
    monkeypatch.setattr(cluster_checks.platform, "python_version", lambda: "3.99.0")
    (found,) = nodes_alike([node for node in ray.nodes() if node["Alive"]])
    assert found.state == "fail"
    assert "has python 3." in found.found
    assert "this machine 3.99.0" in found.found
