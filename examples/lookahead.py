"""TAG's lookahead affinity in a plain PyTorch loop, on Yeast: `python examples/lookahead.py`."""

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from affinity_service.affinity.lookahead import measure_step
from affinity_service.affinity.measured import average_history
from affinity_service.config_sources import YeastSource
from affinity_service.gradients.instrument import Instrument
from affinity_service.grouping import centre_rows, cluster
from affinity_service.tasks import load_suite

suite = load_suite(YeastSource())
train = suite.split == 0
inputs, labels = torch.tensor(suite.inputs[train]), torch.tensor(suite.labels[train])

torch.manual_seed(0)
body = nn.Sequential(nn.Linear(inputs.shape[1], 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
model = nn.Sequential(body, nn.Linear(64, len(suite.tasks)))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)


def loss_sums(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed losses and numbers of examples per task."""
    x, y = batch
    each = binary_cross_entropy_with_logits(model(x), y, reduction="none")
    return each.sum(dim=0), torch.full((y.shape[1],), len(y))


# The body (module 0) is what the tasks share.
instrument = Instrument(model, loss_sums, [name for name, _ in model.named_parameters() if name.startswith("0.")])
history = []
for step in range(300):
    rows = torch.randint(len(inputs), (100,))
    batch = inputs[rows], labels[rows]
    if step % 10 == 0:
        history.append(measure_step(instrument, batch, rate=1e-3).lookahead.double().numpy())
    sums, counts = loss_sums(model, batch)
    optimizer.zero_grad()
    (sums / counts).sum().backward()
    optimizer.step()

matrix = average_history(suite.names, np.stack(history))
print(f"{len(history)} measurements; the affinity of label_10 to label_11 is", end=" ")
i, j = suite.names.index("label_10"), suite.names.index("label_11")
print(f"{1e6 * matrix.affinity[i, j]:.1f} ± {1e6 * matrix.standard_error[i, j]:.1f} ppm of its loss per step")
for group in cluster(centre_rows(matrix.affinity), 4).groups:
    print("  group:", ", ".join(suite.names[task] for task in group))
