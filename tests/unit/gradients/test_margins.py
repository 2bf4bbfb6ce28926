import pytest
import torch
from torch.nn import functional as F

from affinity_service.gradients.margins import logistic_loss, multiclass_margin, pair_margins, targets
from affinity_service.tasks.suite import Task


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0, 60.0])
def test_binary_margin_loss_is_the_cross_entropy(scale):
    logit = torch.linspace(-1, 1, 41) * scale
    for y in (0.0, 1.0):
        target = torch.full_like(logit, y)
        # torch's own cross-entropy of a logit of 60 is off by 1e-6 of itself even in float64.
        exact = torch.logaddexp(torch.zeros(41, dtype=torch.float64), -(2 * y - 1) * logit.double())
        zeros = torch.zeros(len(logit), dtype=torch.long)
        margin = pair_margins(logit[:, None], [0], zeros, target, [Task("t", "binary")])
        torch.testing.assert_close(logistic_loss(margin, target), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0, 60.0])
@pytest.mark.parametrize("classes", [2, 3, 20])
def test_multiclass_margin_loss_is_minus_log_p_in_value_and_gradient(scale, classes):
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(200, classes, generator=generator) * scale).requires_grad_()
    label = torch.randint(classes, (200,), generator=generator)
    tasks, zeros = [Task("t", "multiclass", classes)], torch.zeros(200, dtype=torch.long)
    loss = logistic_loss(pair_margins(logits, [0], zeros, label, tasks), torch.ones(200))
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    precise = logits.detach().double().requires_grad_()
    # −log p_y through the other classes: log_softmax itself rounds losses near 0 to 0.
    exact = F.softplus(
        (precise.scatter(1, label[:, None], -torch.inf)).logsumexp(1) - precise.gather(1, label[:, None])[:, 0],
        threshold=700,
    )
    (exact_gradient,) = torch.autograd.grad(exact.sum(), precise)
    torch.testing.assert_close(loss, exact, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=1e-5, atol=1e-36)


def test_losses_near_zero_and_above_fifty_keep_their_digits():
    margin = torch.tensor([-80.0, -55.0, 18.0, 40.0, 80.0])
    exact = torch.log1p(torch.exp(-margin.double()))
    torch.testing.assert_close(logistic_loss(margin, torch.ones(5)).double(), exact, rtol=1e-6, atol=0)


def test_pairs_of_mixed_kinds_read_their_own_columns():
    tasks = [Task("a", "binary"), Task("b", "multiclass", 3), Task("c", "regression")]
    # Only tasks 1 and 2 occur in the batch, so the model gives their four columns.
    outputs = torch.tensor([[0.1, 0.2, 0.3, 5.0], [1.0, -1.0, 0.0, 6.0]])
    task, label = torch.tensor([2, 1]), torch.tensor([0.7, 1.0])
    margins = pair_margins(outputs, [1, 2], task, label, tasks)
    expected = multiclass_margin(outputs[1:, :3], torch.tensor([1.0]))[0]
    torch.testing.assert_close(margins, torch.stack([torch.tensor(5.0), expected]).double())
    torch.testing.assert_close(targets(task, label, tasks), torch.tensor([0.7, 1.0]))
