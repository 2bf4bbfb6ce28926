"""The deployment files, read, and what of KubeRay's resources they use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "cluster_configs"
KUBERAY = CONFIGS / "kuberay"
# The field of each kind that holds its cluster.
CLUSTER = {"RayCluster": (), "RayJob": ("rayClusterSpec",), "RayService": ("rayClusterConfig",)}


def documents(path: Path) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(path.read_text()) if each is not None]


def resources() -> dict[str, dict[str, Any]]:
    """KubeRay's resources by kind."""
    found = [each for path in sorted(KUBERAY.glob("ray*.yaml")) for each in documents(path)]
    return {each["kind"]: each for each in found}


def clusters() -> dict[str, dict[str, Any]]:
    """The RayClusterSpec of every kind."""
    specs = {}
    for kind, resource in resources().items():
        spec = resource["spec"]
        for key in CLUSTER[kind]:
            spec = spec[key]
        specs[kind] = spec
    return specs


def pod_templates() -> dict[str, dict[str, Any]]:
    """Every pod template, by kind and group."""
    found = {}
    for kind, spec in clusters().items():
        found[f"{kind}/head"] = spec["headGroupSpec"]["template"]
        for group in spec["workerGroupSpecs"]:
            found[f"{kind}/{group['groupName']}"] = group["template"]
    found["RayJob/submitter"] = resources()["RayJob"]["spec"]["submitterPodTemplate"]
    return found


_STRING, _COUNT, _BOOL = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
_OBJECT = {"type": "object"}
_QUANTITIES = {"type": "object", "additionalProperties": {"type": "string", "pattern": r"^\d+(m|Mi|Gi)?$"}}


def _closed(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


# Flags of `ray start`: KubeRay takes text only, and turns down numbers and booleans.
_FLAGS = {"type": "object", "additionalProperties": _STRING}
_CLUSTER_SPEC = _closed(
    ("rayVersion", "headGroupSpec", "workerGroupSpecs"),
    rayVersion=_STRING,
    authOptions=_closed(("mode",), mode={"enum": ["disabled", "token"]}),
    enableInTreeAutoscaling=_BOOL,
    autoscalerOptions=_closed(
        version={"enum": ["v1", "v2"]},
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
        idleTimeoutSeconds=_COUNT,
        securityContext=_OBJECT,
        resources=_closed(requests=_QUANTITIES, limits=_QUANTITIES),
    ),
    headGroupSpec=_closed(
        ("rayStartParams", "template"),
        serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
        rayStartParams=_FLAGS,
        template=_OBJECT,
    ),
    workerGroupSpecs={
        "type": "array",
        "minItems": 1,
        "items": _closed(
            ("groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"),
            groupName=_STRING,
            replicas=_COUNT,
            minReplicas=_COUNT,
            maxReplicas=_COUNT,
            rayStartParams=_FLAGS,
            template=_OBJECT,
        ),
    },
)
# What we use of ray.io/v1, after KubeRay's API reference.
SPECS = {
    "RayCluster": _CLUSTER_SPEC,
    "RayJob": _closed(
        ("entrypoint", "rayClusterSpec"),
        entrypoint=_STRING,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"]},
        backoffLimit=_COUNT,
        shutdownAfterJobFinishes=_BOOL,
        ttlSecondsAfterFinished=_COUNT,
        submitterPodTemplate=_OBJECT,
        rayClusterSpec=_CLUSTER_SPEC,
    ),
    "RayService": _closed(
        ("serveConfigV2", "rayClusterConfig"),
        upgradeStrategy=_closed(("type",), type={"enum": ["NewCluster", "None"]}),
        serveConfigV2=_STRING,
        rayClusterConfig=_CLUSTER_SPEC,
    ),
}


def schema_of(kind: str) -> dict[str, Any]:
    return _closed(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion={"const": "ray.io/v1"},
        kind={"const": kind},
        metadata=_closed(("name", "namespace"), name=_STRING, namespace=_STRING, labels=_OBJECT),
        spec=SPECS[kind],
    )
