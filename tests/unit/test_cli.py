import json
from io import StringIO
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from affinity_service import cli, cli_output
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
