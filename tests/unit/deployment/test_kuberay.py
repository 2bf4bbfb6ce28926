"""The manifests for Kubernetes: schemas, and that they name only what is there."""

from __future__ import annotations

import re
import shlex
from importlib import metadata

import jsonschema
import kubernetes_validate
import pytest
import typer
import yaml
from ray.scripts.scripts import start as ray_start
from ray.serve.schema import ServeDeploySchema

from affinity_service import cli, logs, retrying
from affinity_service.config import Config
from affinity_service.service.settings import ServiceSettings
from tests.unit.deployment.manifests import (
    KUBERAY,
    clusters,
    documents,
    pod_templates,
    resources,
    schema_of,
)

KUBERNETES = "1.32"
KINDS = ("RayCluster", "RayJob", "RayService")
TEMPLATES = sorted(pod_templates())
# Variables of others that the manifests may set; ours must be read by the code.
KNOWN = {"RAY_BACKEND_LOG_JSON", "OMP_WAIT_POLICY"}
OURS = {logs.FORMAT, retrying.PATIENCE}


@pytest.mark.parametrize("kind", KINDS)
def test_resources_of_kuberay_have_fields_that_it_knows(kind):
    jsonschema.validate(resources()[kind], schema_of(kind))


@pytest.mark.parametrize("name", TEMPLATES)
def test_pods_are_pods_to_kubernetes(name):
    template = pod_templates()[name]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": template["spec"]}
    kubernetes_validate.validate(pod, KUBERNETES, strict=True)


@pytest.mark.parametrize("document", documents(KUBERAY / "common.yaml"), ids=lambda each: each["kind"])
def test_what_they_share_is_known_to_kubernetes(document):
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_everything_lies_in_one_namespace_and_what_pods_name_is_there():
    shared = documents(KUBERAY / "common.yaml")
    (namespace,) = (each["metadata"]["name"] for each in shared if each["kind"] == "Namespace")
    named = [each for each in (*shared, *resources().values()) if each["kind"] != "Namespace"]
    assert {each["metadata"]["namespace"] for each in named} == {namespace}
    there = {(each["kind"], each["metadata"]["name"]) for each in shared}
    for name, template in pod_templates().items():
        spec = template["spec"]
        assert ("ServiceAccount", spec["serviceAccountName"]) in there, name
        volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
        for volume in volumes.values():
            if claim := volume.get("persistentVolumeClaim"):
                assert ("PersistentVolumeClaim", claim["claimName"]) in there
            if config := volume.get("configMap"):
                assert ("ConfigMap", config["name"]) in there
        for container in spec["containers"]:
            assert {mount["name"] for mount in container.get("volumeMounts", [])} == set(volumes), name


@pytest.mark.parametrize("name", TEMPLATES)
def test_pods_are_nobody_and_may_nothing(name):
    template = pod_templates()[name]
    spec = template["spec"]
    assert template["metadata"]["labels"]["app.kubernetes.io/name"] == "affinity"
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 1000
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in spec["containers"]:
        own = container["securityContext"]
        assert own == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        wanted, limits = container["resources"]["requests"], container["resources"]["limits"]
        assert wanted["memory"] == limits["memory"], (
            "a pod that grows beyond what it asked for is killed on a full node"
        )
        if "submitter" not in name:
            assert {"readinessProbe", "livenessProbe"} <= set(container)


@pytest.mark.parametrize("kind", KINDS)
def test_clusters_scale_have_tokens_and_spill_where_they_may_write(kind):
    spec = clusters()[kind]
    assert spec["rayVersion"] == metadata.version("ray")
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["enableInTreeAutoscaling"] is True
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    assert set(groups) == {"cpu", "gpu"}
    for name, group in groups.items():
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        (worker,) = group["template"]["spec"]["containers"]
        assert ("nvidia.com/gpu" in worker["resources"]["limits"]) == (name == "gpu")
        assert worker["image"].endswith(f"-{name}")
        assert any(mount["mountPath"] == "/studies" for mount in worker["volumeMounts"])
    for group in (spec["headGroupSpec"], *groups.values()):
        (container,) = group["template"]["spec"]["containers"]
        spill = group["rayStartParams"]["object-spilling-directory"]
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert spill in mounts
        assert "/dev/shm" in mounts
        # Ray itself reads the flags, as KubeRay would write them.
        flags = [f"--{name}={value}" for name, value in group["rayStartParams"].items()]
        with ray_start.make_context("start", flags) as context:
            assert context.params["object_spilling_directory"] == spill
            port = context.params["metrics_export_port"]
        assert port in [each["containerPort"] for each in container["ports"]]


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_variable_is_one_that_something_reads(name):
    for container in pod_templates()[name]["spec"]["containers"]:
        variables = {each["name"]: each["value"] for each in container.get("env", [])}
        assert set(variables) <= KNOWN | OURS
        if "submitter" in name:
            continue
        assert logs.log_format(variables[logs.FORMAT]) == "json"
        assert float(variables[retrying.PATIENCE]) > 0


@pytest.mark.parametrize("name", [name for name in TEMPLATES if "submitter" not in name])
def test_probes_ask_ports_that_the_container_or_its_agent_has(name):
    (container,) = pod_templates()[name]["spec"]["containers"]
    ports = {str(each["containerPort"]) for each in container["ports"]} | {"52365"}
    for probe in (container["readinessProbe"], container["livenessProbe"]):
        command = " ".join(probe["exec"]["command"])
        asked = re.findall(r"localhost:(\d+)", command)
        assert asked
        assert set(asked) <= ports
        # Every curl gives up before the probe is counted as failed.
        patience = [int(seconds) for seconds in re.findall(r"-m (\d+)", command)]
        assert sum(patience) < probe["timeoutSeconds"]


def test_the_job_is_a_command_of_ours_on_a_config_and_a_place_that_are_mounted():
    job = resources()["RayJob"]["spec"]
    program, *arguments = shlex.split(job["entrypoint"])
    assert program == "affinity"
    command = typer.main.get_command(cli.app)
    context = command.make_context("affinity", arguments)
    name, run, rest = command.resolve_command(context, [*context._protected_args, *context.args])
    with run.make_context(name, rest, parent=context) as asked:
        assert (name, asked.params["address"]) == ("run", "auto")
        study, config = asked.params["study"], str(asked.params["config"])
    (head,) = job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    mounts = {mount["mountPath"]: mount["name"] for mount in head["volumeMounts"]}
    assert study.rsplit("/", 1)[0] in mounts
    folder, file = config.rsplit("/", 1)
    volumes = {
        volume["name"]: volume for volume in job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["volumes"]
    }
    shared = {
        each["metadata"]["name"]: each for each in documents(KUBERAY / "common.yaml") if each["kind"] == "ConfigMap"
    }
    content = shared[volumes[mounts[folder]]["configMap"]["name"]]["data"][file]
    settings = Config.from_yaml(content, file)
    # On an autoscaled cluster there may be no worker yet when the first stage asks.
    assert settings.resources.wait
    assert settings.resources.gpus != "auto"


def test_the_service_is_a_serve_config_whose_port_and_files_are_there():
    spec = resources()["RayService"]["spec"]
    config = ServeDeploySchema.model_validate(yaml.safe_load(spec["serveConfigV2"]))
    (application,) = config.applications
    assert application.import_path == "affinity_service.service.deployment:build"
    (head,) = spec["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"]
    assert config.http_options.port in [each["containerPort"] for each in head["ports"]]
    # Replicas ask for no CPU, so they may start on any node.
    groups = [spec["rayClusterConfig"]["headGroupSpec"], *spec["rayClusterConfig"]["workerGroupSpecs"]]
    for pod in (group["template"]["spec"] for group in groups):
        mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert application.args["root"] in mounts
        secret = mounts[application.args["tokens"].rsplit("/", 1)[0]]
        (volume,) = [each for each in pod["volumes"] if each["name"] == secret]
        assert volume["secret"]["secretName"] == "affinity-api-tokens"
    assert application.args["require_tokens"] is True


def test_the_port_of_the_service_is_open_to_an_ingress():
    (policy,) = [each for each in documents(KUBERAY / "common.yaml") if each["kind"] == "NetworkPolicy"]
    places = {
        each["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]: [
            port["port"] for port in rule["ports"]
        ]
        for rule in policy["spec"]["ingress"]
        for each in rule["from"]
        if "namespaceSelector" in each
    }
    assert places["ingress-nginx"] == [8000]


def test_the_arguments_of_the_service_are_settings_that_it_has():
    config = yaml.safe_load(resources()["RayService"]["spec"]["serveConfigV2"])
    ServiceSettings.model_validate(config["applications"][0]["args"])
