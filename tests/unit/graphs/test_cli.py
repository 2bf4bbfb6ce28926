"""Graphs at the command line: planned with a row of their own, refused before anything starts."""

import json
import sys

import pytest
import yaml

from affinity_service import cli

GENERATED = {
    "source": "generated_graph",
    "nodes": 600,
    "edges": 3000,
    "communities": 6,
    "community_sizes": [40, 90],
    "features": {"dimension": 8},
}


def command(monkeypatch, capsys, tmp_path, name, data, *words, **sections):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"name": "g", "data": data, **sections}))
    monkeypatch.setattr(sys, "argv", ["affinity", name, str(path), "--study", str(tmp_path / "study"), *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return (stop.value.code, *capsys.readouterr())


def test_a_plan_has_a_row_for_the_suite(tmp_path, monkeypatch, capsys):
    code, told, _ = command(monkeypatch, capsys, tmp_path, "plan", GENERATED, model={"kind": "sign"})
    assert code == 0
    rows = [line.split()[1] for line in told.splitlines() if line.startswith("│")]
    assert rows[:2] == ["(start", "suite"]
    code, told, _ = command(monkeypatch, capsys, tmp_path, "plan", GENERATED, "--json")
    assert json.loads(told)["stages"][0]["name"] == "suite"
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("name", ["plan", "run"])
@pytest.mark.parametrize(
    ("data", "sections", "message"),
    [
        ({"source": "yeast"}, {"model": {"kind": "sign"}}, "model.kind sign reads examples of shape (hops, features)"),
        ({"source": "graph", "path": "nowhere"}, {}, "nowhere: no such file or folder"),
        ({**GENERATED, "tasks": ["community_9"]}, {}, "no task `community_9` among the 6 there are; did you mean"),
        ({**GENERATED, "largest": 7}, {}, "largest 7 is more than the 6 communities"),
        ({**GENERATED, "tasks": ["community_0"], "minimum_positives": 99}, {}, "task `community_0`, which data.tasks"),
        ({**GENERATED, "minimum_positives": 99}, {}, "generated graph: the suite has no task left: `community_0` has"),
        ({**GENERATED, "block_rows": "many"}, {}, "data.generated_graph.block_rows"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(tmp_path, monkeypatch, capsys, name, data, sections, message):
    code, _, err = command(monkeypatch, capsys, tmp_path, name, data, **sections)
    assert code == 2
    assert message in err.replace("\n", " ")
    assert "Traceback" not in err
    assert not (tmp_path / "study" / "config.yaml").exists()
