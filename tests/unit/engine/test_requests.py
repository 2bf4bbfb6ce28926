"""What the stages ask of a cluster, told before a run."""

from __future__ import annotations

import pytest

from affinity_service import cli_output
from affinity_service.config import Config
from affinity_service.engine.requests import requests


def asked(resources, one_by_one=False, base=2, **sections):
    content = {"name": "c", "data": {"source": "yeast"}, "base": {"workers": base}, "resources": resources, **sections}
    return {each.stage: each for each in requests(Config.parse(content), one_by_one).stages}


def test_every_stage_on_ray_says_what_it_asks_for(cluster):
    cluster({"CPU": 8, "GPU": 2}, {"CPU": 4})
    found = asked({"cpus": 2, "gpus": 0.5}, gradients={"workers": 6})
    assert list(found) == ["base_model", "gradients", "fits", "group_models"]
    assert found["base_model"].asked == "2 × (2 CPU, 1 GPU)"  # whole GPUs where workers talk to each other
    assert found["gradients"].asked == "6 × (2 CPU, 0.5 GPU)"
    assert (found["gradients"].room, found["gradients"].verdict) == (4, "in turn")
    assert found["base_model"].verdict == "at once"
    assert requests(Config.parse({"name": "c", "data": {"source": "yeast"}}), False).nodes == (
        "the cluster's nodes have 1 × (8 CPU, 2 GPU) + 1 × (4 CPU)"
    )


def test_actors_of_a_language_model_state_their_gpus(cluster, tiny_llama, tmp_path):
    cluster({"CPU": 16, "GPU": 4})
    (tmp_path / "rows.jsonl").write_text('{"task": "a", "input": "x", "target": "y"}\n')
    data = {"source": "text", "path": str(tmp_path / "rows.jsonl")}
    found = asked({"gpus": 2}, one_by_one=True, data=data, model={"kind": "causal_lm", "path": tiny_llama})
    assert {each.gpus for each in found.values()} == {2}
    assert found["group_models"].asked == "4 × (1 CPU, 2 GPU)"  # two trials at a time, of two processes each
    assert found["group_models"].verdict == "in turn"
    assert found["suite" if "suite" in found else "base_model"].room == 2


@pytest.mark.parametrize(
    ("resources", "verdict"),
    [
        ({"cpus": 64}, "refused"),
        ({"gpus": 1}, "refused"),
        ({"gpus": 1, "wait": True}, "waits"),
        ({"gpus": "auto"}, "in turn"),  # fewer workers accumulate more micro-batches
        ({"gpus": 0}, "at once"),
    ],
)
def test_a_training_beyond_the_room(resources, verdict, cluster):
    cluster({"CPU": 8, "GPU": 1})
    assert asked(resources)["base_model"].verdict == verdict


def test_it_is_printed_with_what_there_is(cluster, capsys, monkeypatch):
    cluster({"CPU": 1})
    monkeypatch.setattr(cli_output.out, "width", 100)
    cli_output.print_requests(requests(Config.parse({"name": "c", "data": {"source": "yeast"}}), False))
    shown = capsys.readouterr().out
    assert "gradients" in shown
    assert "2 × (1 CPU)" in shown
    assert "in turn" in shown
    assert "The cluster's nodes have 1 × (1 CPU)." in shown
