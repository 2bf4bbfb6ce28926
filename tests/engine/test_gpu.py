"""The same numbers on CUDA as on the CPU, piece by piece and the whole way."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import ray
import torch

from affinity_service import Study
from affinity_service.artifacts import StudyFolder
from affinity_service.config import GradientConfig, MLPConfig, ResourceConfig
from affinity_service.engine.session import gpus_per_worker
from affinity_service.fitting import fit_subsets
from affinity_service.gradients.features import Features, compute_features
from affinity_service.gradients.per_example import PerExampleGradients
from affinity_service.gradients.reductions import build_reduction
from affinity_service.gradients.store import pair_rows
from affinity_service.gradients.weight_space import WeightSpace
from affinity_service.models import build_model
from tests.suites import mixed_suite

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason=f"torch sees no CUDA device (built for CUDA: {torch.version.cuda})"
    ),
]


def features_on(device: str, reduction: str, hooks: bool) -> Features:
    suite = mixed_suite(rows=300)
    model = build_model(MLPConfig(hidden=[16, 16]), suite.inputs.shape[1:], suite.tasks, 0)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    reduce = build_reduction(GradientConfig(reduction=reduction, dimension=24), WeightSpace(shapes))
    _, task, example = pair_rows(suite)
    gradients = PerExampleGradients(model.to(device), suite.tasks, hooks)
    return compute_features(gradients, reduce, suite, example, task, 128)


@pytest.mark.parametrize("reduction", ["exact", "rademacher"])
@pytest.mark.parametrize("hooks", [True, False])
def test_features_equal_those_of_the_cpu(reduction, hooks):
    cpu, cuda = (features_on(device, reduction, hooks) for device in ("cpu", "cuda"))
    np.testing.assert_array_equal(cuda.targets, cpu.targets)
    for found, expected in ((cuda.margins, cpu.margins), (cuda.features, cpu.features)):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_fits_equal_those_of_the_cpu():
    rng = np.random.default_rng(0)
    task = np.repeat(np.arange(5), 200)
    x = rng.normal(size=(1000, 20)).astype(np.float32)
    margins = rng.normal(size=1000).astype(np.float32)
    targets = (rng.random(1000) < 0.5).astype(np.float32)
    subsets = [[0], [1, 2], [0, 3, 4], [0, 1, 2, 3, 4]]
    expected = fit_subsets(x, margins, targets, task, subsets, 1e-2)
    arrays = [torch.as_tensor(array, device="cuda") for array in (x, margins, targets, task)]
    found = fit_subsets(*arrays, subsets, 1e-2)
    assert found.device.type == "cuda"
    np.testing.assert_allclose(found.cpu().numpy(), expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.engine
@pytest.mark.usefixtures("ray_session")
def test_the_whole_way_gives_the_matrix_of_the_cpu_from_the_same_base_model(small_config, tmp_path):
    config = small_config(mixed_suite(rows=300))
    assert ray.cluster_resources()["GPU"] >= 1
    assert gpus_per_worker(config.resources) == 1
    cuda = Study.run(config, tmp_path / "cuda")
    assert len(cuda.groups) == 2

    shutil.copytree(tmp_path / "cuda", tmp_path / "cpu")
    folder = StudyFolder.at(tmp_path / "cpu")
    for stage in ("gradients", "fits", "affinity"):
        folder.delete(f"stages/{stage}.json")
    without = config.model_copy(update={"resources": ResourceConfig(gpus=0)})
    cpu = Study.run(without, tmp_path / "cpu", until="affinity")
    np.testing.assert_allclose(cuda.affinity.affinity, cpu.affinity.affinity, rtol=1e-4)
    np.testing.assert_allclose(cuda.affinity.pair_estimate, cpu.affinity.pair_estimate, rtol=1e-4)
