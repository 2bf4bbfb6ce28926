"""SON-GOKU's schedule in a plain PyTorch loop, on Yeast: `python examples/interference_scheduler.py`."""

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from affinity_service.config_sources import YeastSource
from affinity_service.scheduling import InterferenceScheduler
from affinity_service.tasks import load_suite

suite = load_suite(YeastSource())
train = suite.split == 0
inputs, labels = torch.tensor(suite.inputs[train]), torch.tensor(suite.labels[train])
tasks = suite.names

torch.manual_seed(0)
body = nn.Sequential(nn.Linear(inputs.shape[1], 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
heads = nn.ModuleDict({task: nn.Linear(64, 1) for task in tasks})
optimizer = torch.optim.AdamW([*body.parameters(), *heads.parameters()], lr=1e-3)

# Three of ten pairs shall conflict; eight batches before each refresh are averaged against their noise.
scheduler = InterferenceScheduler(body.named_parameters(), tasks, quantile=0.3, probes=8, split=True)

for _ in range(300):
    rows = torch.randint(len(inputs), (100,))
    plan = scheduler.plan()
    shared = body(inputs[rows])
    losses = {
        task: binary_cross_entropy_with_logits(heads[task](shared)[:, 0], labels[rows, tasks.index(task)])
        for task in (tasks if plan.refresh else plan.active)
    }
    scheduler.backward(losses)
    optimizer.step()
    scheduler.step()

last = scheduler.history[-1]
print(f"after {last.step} steps: {len(last.edges)} conflicts, {last.density:.0%} of the pairs")
for members in last.active:
    print("  together:", ", ".join(members))
print("steps trained:", last.visits)
print("longest wait:", max(last.longest_wait.values()), "steps")
