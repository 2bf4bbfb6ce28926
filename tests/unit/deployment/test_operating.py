"""What the operator's pages and the dashboard name is there."""

from __future__ import annotations

import json
import re

import pytest

from affinity_service import logs, retrying
from affinity_service.engine.stage_metrics import FAILURES, GAUGES
from tests.unit.deployment.manifests import CONFIGS, ROOT

PAGES = [CONFIGS / "README.md", ROOT / "docs" / "operations.md"]
# As Ray exports them: counters end in _total.
METRICS = {*(f"ray_{name}" for name in GAUGES), f"ray_{FAILURES}_total"}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere_and_variables_and_metrics_exist(page):
    text = page.read_text()
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (page.parent / target).exists(), target
    assert set(re.findall(r"AFFINITY_\w+", text)) <= {logs.FORMAT, retrying.PATIENCE}
    assert set(re.findall(r"ray_affinity_\w+", text)) <= METRICS


def test_the_dashboard_asks_for_metrics_that_there_are_and_shows_all():
    board = json.loads((CONFIGS / "grafana.json").read_text())
    asked = " ".join(target["expr"] for panel in board["panels"] for target in panel["targets"])
    assert set(re.findall(r"ray_affinity_\w+", asked)) == METRICS
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in board["panels"]}) == len(places)


def test_every_file_of_the_folder_is_in_the_table():
    text = PAGES[0].read_text()
    files = [path for path in CONFIGS.rglob("*") if path.suffix in (".sh", ".yaml") or path.name == "grafana.json"]
    assert [path for path in files if f"({path.relative_to(CONFIGS)})" not in text] == []
