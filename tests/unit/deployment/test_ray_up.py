"""Configs of `ray up` and scripts of `ray start`, as Ray reads them."""

from __future__ import annotations

import copy
import re
import shlex
import subprocess

import pytest
import yaml
from ray._private import external_storage
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start as ray_start

from affinity_service import logs
from tests.unit.deployment.manifests import CONFIGS

UP = sorted((CONFIGS / "ray_up").glob("*.yaml"))
SCRIPTS = sorted(CONFIGS.glob("*.sh"))


def starts(text: str) -> list[dict]:
    """The parameters of every `ray start` in shell text, by Ray's own parser."""
    found = []
    for command in re.findall(r"ray start ([^;\n]*)", text.replace("\\\n", " ")):
        flags = shlex.split(command)
        # What the shell would put in for a variable; a number where a number is due.
        flags = [re.sub(r"\$\{?\w+\}?", "1", flag) for flag in flags]
        with ray_start.make_context("start", flags) as context:
            found.append(context.params)
    return found


@pytest.mark.parametrize("path", UP, ids=lambda path: path.stem)
def test_ray_accepts_the_config(path):
    config = yaml.safe_load(path.read_text())
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    assert prepared["max_workers"] == config["max_workers"]
    assert any("--autoscaling-config=~/ray_bootstrap_config.yaml" in each for each in config["head_start_ray_commands"])
    # The token is copied to where Ray looks for it.
    assert any(target.endswith(".ray/auth_token") for target in config["file_mounts"])
    assert "RAY_AUTH_MODE=token" in path.read_text()


def test_unknown_keys_are_seen():
    config = yaml.safe_load(UP[0].read_text())
    with pytest.raises(Exception, match="max_worker"):
        validate_config(prepare_config({**config, "max_worker": 1}))


def test_nodes_of_the_cloud_are_where_the_head_is_none_for_work():
    config = yaml.safe_load((CONFIGS / "ray_up" / "aws.yaml").read_text())
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"] == {"CPU": 0}
    assert types["gpu"]["resources"]["GPU"] > 0
    assert all(each["node_config"]["MetadataOptions"] == {"HttpTokens": "required"} for each in types.values())
    assert sum(each.get("max_workers", 0) for each in types.values()) <= config["max_workers"]
    assert types["gpu"]["docker"]["worker_image"].endswith("-gpu")


@pytest.mark.parametrize("path", [*UP, *SCRIPTS], ids=lambda path: path.name)
def test_every_start_is_a_command_of_ray_and_spills_to_a_place_that_ray_accepts(path, tmp_path):
    text = path.read_text()
    if path.suffix == ".yaml":
        config = yaml.safe_load(text)
        text = "\n".join((*config["head_start_ray_commands"], *config["worker_start_ray_commands"]))
    found = starts(text)
    assert len(found) == (2 if path.suffix == ".yaml" else 1)
    assert found[0]["head"]
    for each in found:
        assert each["object_spilling_directory"]
        assert each["metrics_export_port"] == 8080
        # The dashboard runs whatever it is asked: nowhere open to all by default.
        assert not each["head"] or each["dashboard_host"] != "0.0.0.0"
    settings = {"type": "filesystem", "params": {"directory_path": str(tmp_path / "spill")}}
    external_storage.setup_external_storage(settings, "node", "session")
    try:
        assert list((tmp_path / "spill").iterdir())
    finally:
        external_storage.reset_external_storage()


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_bash_and_need_a_token(path):
    subprocess.run(["bash", "-n", str(path)], check=True)
    text = path.read_text()
    assert "export RAY_AUTH_MODE=token" in text
    assert "ray get-auth-token --generate" in text
    assert path.stat().st_mode & 0o111


def test_variables_of_ours_are_ones_that_are_read():
    text = "".join(path.read_text() for path in (*UP, *SCRIPTS))
    assert set(re.findall(r"AFFINITY_\w+", text)) == {logs.FORMAT}
    assert set(re.findall(r"AFFINITY_LOG_FORMAT=(\w+)", text)) <= set(logs.FORMATS)
