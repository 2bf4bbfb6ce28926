import numpy as np
import pytest
import torch
from torch.nn import functional as F

from affinity_service.config import MLPConfig
from affinity_service.models import TaskLosses, build_model
from affinity_service.models.losses import task_weights
from affinity_service.tasks import Task
from tests.suites import mixed_suite

TASKS = (Task("v", "regression"), Task("c", "multiclass", 4), Task("b", "binary"))


def test_losses_follow_the_kind_and_skip_missing_labels():
    outputs = torch.randn(6, 6)
    labels = torch.tensor(
        [[0.3, 2, 1], [1.0, 0, 0], [float("nan"), 1, 1], [0.1, float("nan"), 0], [0, 3, 1], [2, 1, 0]]
    )
    losses = TaskLosses(TASKS)(outputs, labels)
    for i in range(6):
        expected = [
            0.5 * (outputs[i, 0] - labels[i, 0]) ** 2,
            F.cross_entropy(outputs[i, 1:5], labels[i, 1].nan_to_num().long()),
            F.binary_cross_entropy_with_logits(outputs[i, 5], labels[i, 2].nan_to_num()),
        ]
        for t in range(3):
            wanted = 0.0 if labels[i, t].isnan() else expected[t]
            assert losses[i, t] == pytest.approx(float(wanted), rel=1e-5)


def test_stacks_of_outputs_share_the_labels():
    outputs, labels = torch.randn(4, 6, 6), torch.tensor([[0.3, 2, 1]] * 6)
    stacked = TaskLosses(TASKS)(outputs, labels)
    torch.testing.assert_close(stacked[2], TaskLosses(TASKS)(outputs[2], labels))


@pytest.mark.parametrize("kinds", [["binary", "regression"], ["binary", "multiclass"]])
@pytest.mark.parametrize("known", [0.1, 0.9])
def test_losses_of_few_known_labels_are_the_same(kinds, known):
    rng = np.random.default_rng(0)
    tasks = [Task(f"t{i}", kinds[i % 2], 3 if kinds[i % 2] == "multiclass" else 1) for i in range(6)]
    losses = TaskLosses(tasks)
    outputs = torch.tensor(rng.normal(size=(40, losses.columns)), requires_grad=True)
    values = [
        rng.integers(task.outputs, size=40) if task.kind == "multiclass" else rng.random(40) < 0.5 for task in tasks
    ]
    labels = torch.tensor(np.where(rng.random((40, 6)) < known, np.array(values, float).T, np.nan))
    labels[:, 1] += 0.5 if kinds[1] == "regression" else 0
    found, expected = losses.of_known(outputs, labels), losses(outputs, labels)
    np.testing.assert_allclose(found.detach(), expected.detach(), rtol=1e-12)
    gradients = [torch.autograd.grad((each * each).sum(), outputs)[0] for each in (found, expected)]
    np.testing.assert_allclose(*gradients, rtol=1e-12, atol=1e-15)


def test_weights_make_the_batch_loss_the_mean_of_task_means():
    suite = mixed_suite(missing=0.5)
    labels = torch.tensor(suite.labels)
    outputs = torch.randn(len(suite), 6)
    losses = TaskLosses(suite.tasks)(outputs, labels)
    counts = (~labels.isnan()).sum(dim=0)
    weighted = (losses * task_weights(counts.tolist(), [0, 2], len(suite))).sum() / len(suite)
    torch.testing.assert_close(weighted, (losses.sum(dim=0) / counts)[[0, 2]].mean())


def test_heads_of_some_tasks_are_columns_of_all():
    model = build_model(MLPConfig(hidden=[8]), (3,), TASKS, seed=0).eval()
    x = torch.randn(5, 3)
    whole = model(x)
    assert whole.shape == (5, 6)
    torch.testing.assert_close(model(x, [1]), whole[:, 1:5])
    torch.testing.assert_close(model(x, [2, 0]), whole[:, [5, 0]])


def test_a_task_left_out_of_a_step_has_no_gradient():
    model = build_model(MLPConfig(hidden=[8]), (3,), TASKS, seed=0)
    model(torch.randn(5, 3), [0, 2]).sum().backward()
    assert model.heads.weight_1.grad is None
    assert model.heads.weight_0.grad is not None


def test_weights_depend_on_the_seed_and_leave_the_global_state():
    state = torch.random.get_rng_state()
    a, b, c = (build_model(MLPConfig(), (3,), TASKS, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], c[name]) for name in a)
    assert torch.equal(state, torch.random.get_rng_state())
