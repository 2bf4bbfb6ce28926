"""The images, as far as their files tell: pinned, nobody, healthy, of what is in the repository."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest
from dockerfile_parse import DockerfileParser

from tests.unit.deployment.manifests import ROOT, clusters, pod_templates

DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")
)


@pytest.fixture(params=DOCKERFILES, ids=lambda path: path.name.split(".")[0])
def image(request, tmp_path):
    # The parser opens its file for writing too.
    copy = shutil.copy(request.param, tmp_path / "Dockerfile")
    return DockerfileParser(path=str(copy))


def values(image, instruction):
    return [each["value"] for each in image.structure if each["instruction"] == instruction]


def test_there_is_one_for_cpus_and_one_for_gpus():
    assert [path.name for path in DOCKERFILES] == ["cpu.Dockerfile", "gpu.Dockerfile"]


def test_bases_are_pinned_and_of_pythons_that_the_package_runs_on(image):
    bases = [value.split(" AS ")[0] for value in values(image, "FROM")]
    assert len(bases) == 2
    for base in bases:
        name, _, tag = base.partition(":")
        assert re.match(r"\d+\.\d+\.\d+-", tag), f"{base}: a tag that moves"
        if name == "python":
            major, minor = map(int, tag.split(".")[:2])
            assert f">={major}.{minor}" in PROJECT["requires-python"] or minor in (11, 12, 13)


def test_the_last_stage_runs_as_nobody_and_is_looked_after(image):
    order = [each["instruction"] for each in image.structure]
    last = len(order) - 1 - order[::-1].index("FROM")
    assert {"USER", "HEALTHCHECK", "ENTRYPOINT", "CMD"} <= set(order[last:])
    # The pods of cluster_configs run as the same number.
    ids = {template["spec"]["securityContext"]["runAsUser"] for template in pod_templates().values()}
    assert values(image, "USER") == [f"{user}:{user}" for user in ids]
    (check,) = values(image, "HEALTHCHECK")
    assert "/healthz" in check
    assert "affinity doctor --quick" in check
    # Nothing is installed once the user is nobody.
    after = order[len(order) - 1 - order[::-1].index("USER") :]
    assert "RUN" not in after
    assert "COPY" not in after


def test_versions_are_those_of_the_project(image):
    text = image.content
    for name, version in re.findall(r'"(\w+)==([\d.]+)(?:\+cpu)?"', text):
        assert PINS[name] == version
    assert "-c constraints.txt" in text
    assert f'image.version="{PROJECT["version"]}"' in text
    assert f"affinity-service:{PROJECT['version']}-" in text
    for template in pod_templates().values():
        for container in template["spec"]["containers"]:
            assert f":{PROJECT['version']}-" in container["image"]
    assert {spec["rayVersion"] for spec in clusters().values()} == {PINS["ray"]} == {metadata.version("ray")}


def test_what_is_copied_is_there_and_not_ignored(image):
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert "*" in (ROOT / ".dockerignore").read_text().splitlines()
    for value in values(image, "COPY"):
        if value.startswith("--from="):
            assert value.split()[0] == "--from=build"
            continue
        *sources, _ = value.split()
        for source in sources:
            assert (ROOT / source).exists(), source
            assert source in kept


def test_no_build_leaves_lists_or_caches(image):
    for value in values(image, "RUN"):
        if "apt-get install" in value:
            assert "--no-install-recommends" in value
            assert "rm -rf /var/lib/apt/lists/*" in value
    assert "PIP_NO_CACHE_DIR=1" in image.content
    assert "PYTHONDONTWRITEBYTECODE" not in image.content


def test_the_dependencies_are_the_projects_and_those_of_the_extras():
    command = [sys.executable, str(ROOT / "docker" / "dependencies.py"), str(ROOT / "pyproject.toml"), "language"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert printed == [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["language"]]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_finds_nothing(path):
    linter = shutil.which("hadolint", path=str(ROOT / ".venv" / "bin")) or shutil.which("hadolint")
    if linter is None:
        pytest.skip("hadolint is not installed")
    # Versions of system packages come with the pinned base.
    command = [linter, "--ignore", "DL3008", "--no-color", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
