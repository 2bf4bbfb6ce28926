"""What `affinity doctor` asks of DeepSpeed and of a Ray cluster."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from affinity_service.artifacts import StudyFolder
from affinity_service.doctor.finding import Finding
from affinity_service.engine.placement import cluster_nodes, there
from affinity_service.engine.session import connected
from affinity_service.errors import UserError

PACKAGES = ("ray", "torch", "deepspeed", "pyarrow", "numpy")
ANSWER_SECONDS = 60.0


def deepspeed_works() -> Iterator[Finding]:
    try:
        import deepspeed
        from deepspeed.git_version_info import installed_ops
        from deepspeed.ops import __compatible_ops__ as compatible_ops
    except Exception as error:
        yield Finding(
            "deepspeed",
            "fail",
            f"cannot be imported: {type(error).__name__}: {error}",
            "pip install --force-reinstall the version of constraints.txt, with DS_BUILD_OPS unset",
        )
        return
    built, able = sum(map(bool, installed_ops.values())), sum(map(bool, compatible_ops.values()))
    found = f"{deepspeed.__version__}; {built} ops built ahead, {able} could be built when asked for"
    yield Finding("deepspeed", "ok", found)


def ray_cluster(address: str, study: str | None) -> Iterator[Finding]:
    """The cluster at an address: reachable, of one version, with the study on every node."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(connected(address))
        except UserError as error:
            yield Finding("ray", "fail", str(error), "start it (cluster_configs/README.md), or name another --address")
            return
        except Exception as error:
            yield Finding(
                "ray",
                "fail",
                f"{address} answers, but does not take us in: {_first_line(error)}",
                "use the same versions of Python and Ray here and there; with tokens set RAY_AUTH_MODE=token",
            )
            return
        nodes = [node for node in ray.nodes() if node["Alive"]]
        yield Finding("ray", "ok", f"{len(nodes)} node{'s' * (len(nodes) != 1)}; {there(cluster_nodes())}")
        yield from nodes_alike(nodes)
        if study is not None:
            yield from study_everywhere(study)


@ray.remote(num_cpus=0)
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def nodes_alike(nodes: list[dict[str, Any]]) -> Iterator[Finding]:
    """Whether every node has the packages that this process has."""
    here = {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}
    asked = {
        node["NodeManagerAddress"]: _versions.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote()
        for node in nodes
    }
    good = True
    for place, reference in asked.items():
        try:
            answer = ray.get(reference, timeout=ANSWER_SECONDS)
        except Exception as error:
            good = False
            yield Finding(
                "nodes",
                "fail",
                f"{place} runs no task: {_first_line(error)}",
                "look at its logs (`ray logs`) and restart it",
            )
            continue
        for name, version in here.items():
            if (other := answer.get(name, "missing")) != version:
                good = False
                yield Finding(
                    "nodes",
                    "fail" if name in ("python", "ray") else "warn",
                    f"{place} has {name} {other}, this machine {version}",
                    "give every node the same image, or the versions of constraints.txt",
                )
    if good:
        yield Finding("nodes", "ok", "all have this machine's versions")


def study_everywhere(study: str) -> Iterator[Finding]:
    from affinity_service.engine.placement import check_shared

    try:
        check_shared(StudyFolder.at(study))
    except (UserError, OSError) as error:
        yield Finding("shared storage", "fail", str(error), "mount it on every node at the same path, or use a URI")
        return
    yield Finding("shared storage", "ok", "every node sees the study")


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
