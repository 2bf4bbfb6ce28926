"""Two data-parallel ranks are one process: gradients are averaged before anything is made of them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from affinity_service.affinity.lookahead import measure_step
from affinity_service.gradients.instrument import Instrument
from affinity_service.scheduling import InterferenceScheduler

TASKS = ["a", "b", "c"]


def model() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"body": nn.Linear(4, 5), "heads": nn.Linear(5, 3)})


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(32, 4, generator=generator), torch.randn(32, 3, generator=generator)


def per_task(own: nn.ModuleDict, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (own["heads"](torch.tanh(own["body"](x))) - y).square()


def answer(x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    own = model()
    found = {}
    for aggregator in ("sum", "UPGrad"):
        scheduler = InterferenceScheduler(
            own["body"].named_parameters(), TASKS, tau=-1.0, refresh=1, aggregator=aggregator
        )
        scheduler.backward(dict(zip(TASKS, per_task(own, x, y).mean(dim=0), strict=True)))
        if aggregator != "sum":
            # A sum is left to the parallel wrapper; an aggregate is made of averaged gradients here.
            found["aggregate"] = own["body"].weight.grad.clone()
        scheduler.step()
        found[f"interference, {aggregator}"] = torch.from_numpy(scheduler.history[0].interference)
    tool = Instrument(
        own, lambda m, batch: (per_task(m, *batch).sum(dim=0), torch.full((3,), len(batch[0]))), ["body.weight"]
    )
    step = measure_step(tool, (x, y), 0.1)
    return found | {"lookahead": step.lookahead, "cosine": step.cosine, "losses": step.losses}


def uneven(rank: int, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    """Each rank lacks a task, and PCGrad draws another order on each."""
    own = model()
    torch.manual_seed(rank)
    scheduler = InterferenceScheduler(own["body"].named_parameters(), TASKS, aggregator="PCGrad", refresh=1)
    losses = dict(zip(TASKS, per_task(own, x, y).mean(dim=0), strict=True))
    del losses["c" if rank == 0 else "b"]
    scheduler.backward(losses)
    found = {"gradient": own["body"].weight.grad.clone()}
    scheduler.step()
    return found | {"averages": scheduler.state_dict()["values"][0]}


def one_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    x, y = data()
    own = x[rank::2], y[rank::2]
    torch.save(answer(*own), f"{folder}/{rank}.pt")
    torch.save(uneven(rank, *own), f"{folder}/uneven-{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_ranks_are_one_process(tmp_path: Path):
    torch.multiprocessing.spawn(one_rank, (str(tmp_path),), nprocs=2)
    whole = answer(*data())
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, value in whole.items():
            torch.testing.assert_close(
                found[name], value, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
            )
    first, second = (torch.load(tmp_path / f"uneven-{rank}.pt", weights_only=True) for rank in range(2))
    assert torch.equal(first["gradient"], second["gradient"])
    assert torch.equal(first["averages"], second["averages"])
    # What only one rank has examples of is that rank's; what both have is their mean.
    x, y = data()
    own = model()
    rows = {}
    for rank in range(2):
        for task, loss in zip(TASKS, per_task(own, x[rank::2], y[rank::2]).mean(dim=0), strict=True):
            gradient = torch.autograd.grad(loss, list(own["body"].parameters()), retain_graph=True)
            rows[rank, task] = torch.cat([part.flatten() for part in gradient])
    wanted = torch.stack([(rows[0, "a"] + rows[1, "a"]) / 2, rows[0, "b"], rows[1, "c"]])
    torch.testing.assert_close(first["averages"], 0.1 * wanted, rtol=1e-4, atol=1e-6)
