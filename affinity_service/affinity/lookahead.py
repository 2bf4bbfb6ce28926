"""Affinities measured at one step of a joint training (TAG, arXiv 2109.04617, §3).

Z_{i→j} = 1 − L_j(θ_s + u_i, φ_j) / L_j(θ_s, φ_j): how much a step u_i that the shared weights make for source i alone
lowers the loss of receiver j, whose head stays. Matrices have a row per receiver and a column per source.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from affinity_service.errors import UserError
from affinity_service.gradients.instrument import Instrument, Measured
from affinity_service.gradients.sketch import CountSketch

MEASURES = ("lookahead", "first_order", "cosine")
Measure = Literal["lookahead", "first_order", "cosine"]


@dataclass(frozen=True)
class StepAffinity:
    """One measurement, (T, T) each, NaN where the batch has no examples of the receiver or the source.

    lookahead : Z; None where only first-order measures were asked for. first_order : η⟨g_i, g_j⟩ / L_j, its small-step
    limit for plain SGD. cosine : of the two gradients. losses : (T,) of the receivers before the step.
    """

    lookahead: Tensor | None
    first_order: Tensor
    cosine: Tensor
    losses: Tensor


def sgd_steps(rows: Tensor, rate: float) -> Tensor:
    """(T, p) the plain step of every source: −η·g_i."""
    return -rate * rows


def optimizer_steps(rows: Tensor, optimizer: torch.optim.Optimizer, shared: Mapping[str, torch.nn.Parameter]) -> Tensor:
    """(T, p) the steps that a copy of the run's own optimizer would make for the sources' gradients (T, p).

    What the optimizer does without any gradient, by momentum and decay, is common to all sources and taken off.
    Optimizer and parameters stay as they are: the copy has copied state and parameters of its own.
    """
    sizes = [parameter.numel() for parameter in shared.values()]
    steps = []
    for row in [torch.zeros_like(rows[0]), *rows]:
        clones = {id(p): p.detach().clone().requires_grad_() for p in shared.values()}
        own = _copied(optimizer, clones)
        for parameter, part in zip(shared.values(), row.split(sizes), strict=True):
            clones[id(parameter)].grad = part.view_as(parameter).to(parameter.dtype)
        own.step()
        moved = [clones[id(p)].detach() - p.detach() for p in shared.values()]
        steps.append(torch.cat([part.reshape(-1).float() for part in moved]))
    return torch.stack([step - steps[0] for step in steps[1:]])


def _copied(optimizer: torch.optim.Optimizer, clones: Mapping[int, Tensor]) -> Any:
    """An optimizer of the same kind, settings and state over the clones; other parameters are left out."""
    groups: list[dict[str, Any]] = []
    for group in optimizer.param_groups:
        own = [clones[id(p)] for p in group["params"] if id(p) in clones]
        if own:
            groups.append({**{key: value for key, value in group.items() if key != "params"}, "params": own})
    missing = len(clones) - sum(len(group["params"]) for group in groups)
    if missing:
        raise UserError(f"{missing} of the shared parameters are not in the optimizer: its step for them is unknown")
    # Settings and defaults by a shallow copy: constructors differ in what they require.
    made: Any = copy.copy(optimizer)
    made.param_groups, made.state = groups, defaultdict(dict)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if id(parameter) in clones and parameter in optimizer.state:
                made.state[clones[id(parameter)]] = copy.deepcopy(optimizer.state[parameter])
    return made


def measure_step(
    instrument: Instrument,
    batch: Any,
    rate: float,
    *,
    receivers: Any = None,
    lookahead: bool = True,
    weights: Mapping[str, Tensor] | None = None,
    optimizer: tuple[torch.optim.Optimizer, Mapping[str, torch.nn.Parameter]] | None = None,
    share: Tensor | None = None,
    sketch: CountSketch | None = None,
) -> StepAffinity:
    """All pairs from one batch.

    Parameters
    ----------
    rate : η of the plain step and of first_order.
    receivers : a held-out batch on which the receivers' losses and gradients are taken; the batch itself when None.
    lookahead : whether to evaluate the losses after the steps; without, only gradients are taken.
    weights : as of ``Instrument.gradients``.
    optimizer : the run's optimizer with the shared parameters by name, for its own step in place of the plain one.
    share : (T,) what a task's *summed* loss counts for in the loss that the run trains, such as 1/(T·examples) for a
        mean of means: the run's own optimizer has moments of that loss, so it is given the source's part of it. The
        mean loss of the source when None.
    sketch : of gradients too long to keep one per task; a lookahead needs them whole.
    """
    assert sketch is None or not lookahead, "a step cannot be made of a sketch"
    sources = instrument.gradients(batch, weights, sketch)
    heard = sources if receivers is None else instrument.gradients(receivers, weights, sketch)
    first_order, cosine = _first_order(sources, heard, rate)
    found = None
    if lookahead:
        known = ~sources.losses.isnan()
        rows = sources.rows[known]
        found = torch.full_like(cosine, torch.nan)
        if len(rows):
            if optimizer is None:
                steps = sgd_steps(rows, rate)
            else:
                part = 1.0 if share is None else (share.to(rows) * sources.counts)[known][:, None]
                steps = optimizer_steps(part * rows, *optimizer)
            where = batch if receivers is None else receivers
            # The losses before are taken along, so that both see the same dropout masks.
            after = instrument.losses_after(torch.cat([torch.zeros_like(rows[:1]), steps]), where, weights)
            found[:, known] = _lowered(after[0], after[1:].T).to(found)
    return StepAffinity(found, first_order, cosine, heard.losses)


def _first_order(sources: Measured, receivers: Measured, rate: float) -> tuple[Tensor, Tensor]:
    """(T, T) first-order affinities and cosines, from one product."""
    products = receivers.rows @ sources.rows.T
    lengths = receivers.rows.norm(dim=1)[:, None] * sources.rows.norm(dim=1)[None, :]
    losses = torch.where(receivers.losses > 0, receivers.losses, torch.nan)
    # A gradient of zero points nowhere: it neither helps nor harms.
    cosine = torch.where(lengths > 0, products / lengths, torch.where(products.isnan(), torch.nan, 0.0))
    return rate * products / losses[:, None], cosine.clamp(-1, 1)


def _lowered(before: Tensor, after: Tensor) -> Tensor:
    """1 − after/before for losses before (T,) and after (T, n); NaN where there is no loss to lower."""
    return 1 - after / torch.where(before > 0, before, torch.nan)[:, None]
