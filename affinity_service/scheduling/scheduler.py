"""The scheduler in any PyTorch loop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from affinity_service.errors import UserError
from affinity_service.gradients.sketch import sketch_of
from affinity_service.gradients.task_gradients import ranks, sum_over_ranks, task_gradients
from affinity_service.scheduling.aggregators import Aggregator, named_aggregator
from affinity_service.scheduling.leaves import leaves_of
from affinity_service.scheduling.schedule import Plan, Refresh, Schedule
from affinity_service.scheduling.settings import ScheduleSettings


class InterferenceScheduler:
    """Trains tasks that conflict in different steps, tasks that do not in the same (SON-GOKU, arXiv 2509.16959).

    >>> scheduler = InterferenceScheduler(body.parameters(), tasks)            # doctest: +SKIP
    >>> for batch in batches:                                                  # doctest: +SKIP
    ...     plan = scheduler.plan()
    ...     wanted = tasks if plan.refresh else plan.active
    ...     scheduler.backward({name: loss_of(name, batch) for name in wanted})
    ...     optimizer.step()
    ...     scheduler.step()

    ``zero_grad`` is not needed: ``step`` drops the gradients that ``backward`` wrote, so that the heads of inactive
    tasks have ``.grad is None`` and no optimizer moves them; calling it does no harm.

    The moving averages are of the gradients of *all* tasks on one batch, taken in the `probes` steps before each
    refresh: then no average is stale, and the other steps cost what a summed loss costs. The paper's rule, averages of
    the active tasks at every step, is ``track="active"``.

    Parameters
    ----------
    shared_parameters : the parameters that several tasks train, or (name, parameter) pairs as `named_parameters` gives
        them. Frozen ones are left out, tied ones counted once.
    tasks : names.
    tau : pairs conflict where ρ = −cos(ĝ_i, ĝ_j) exceeds it.
    refresh : steps between two drawings of the graph.
    beta : of the moving averages, per measurement.
    warmup, anneal : steps with all tasks together, and steps in which τ then falls to `tau` with their logarithm.
    quantile : in place of `tau`, the share of all pairs that shall conflict; only pairs with ρ > 0 do.
    coverage : least share of the steps that each task shall get; a shortfall is reported.
    probes : steps before each refresh that ask for the losses of all tasks.
    track : refresh or active, as above.
    split : two averages in turns, whose inner products noise does not bias.
    sketch : keep averages as seeded sketches of so many numbers; None keeps whole gradients, auto chooses by size.
    seed : of the sketch.
    aggregator : how the active tasks' gradients are combined: a function (m, p) → (p,), the name of one of torchjd's,
        or their sum. It needs the gradient of every active task in every step. Lengths are the aggregator's own: PCGrad
        adds, MGDA and UPGrad average, and one task alone keeps its gradient.
    process_group : data-parallel ranks over which gradients are averaged, each of which calls ``backward`` in every
        step; the default group where there is one.

    Raises
    ------
    UserError
        No shared parameter that trains, a setting out of its range, tasks named twice.
    """

    def __init__(
        self,
        shared_parameters: Iterable[Tensor] | Iterable[tuple[str, Tensor]],
        tasks: Sequence[str],
        tau: float = 0.25,
        refresh: int = 32,
        beta: float = 0.9,
        warmup: int = 0,
        *,
        anneal: int = 0,
        quantile: float | None = None,
        coverage: float = 0.0,
        probes: int = 1,
        track: Literal["refresh", "active"] = "refresh",
        split: bool = False,
        sketch: int | Literal["auto"] | None = "auto",
        seed: int = 0,
        aggregator: str | Aggregator = "sum",
        process_group: Any = None,
    ) -> None:
        settings = ScheduleSettings(tau, refresh, beta, warmup, anneal, quantile, coverage, probes, track, split)
        named = _named(shared_parameters)
        self._names, self._shared = list(named), list(named.values())
        sizes = [parameter.numel() for parameter in self._shared]
        self._sketch = sketch_of(sketch, sizes, len(tasks), seed)
        width = sum(sizes) if self._sketch is None else self._sketch.dimension
        self._schedule = Schedule(tasks, width, settings, self._shared[0].device)
        self._aggregate = named_aggregator(aggregator) if isinstance(aggregator, str) else aggregator
        self._given = aggregator if isinstance(aggregator, str) else None
        self._group = process_group
        self._trained: list[str] | None = None
        self._written: dict[int, Tensor] = {}
        self._reached: torch.Tensor | None = None

    @property
    def tasks(self) -> list[str]:
        return list(self._schedule.tasks)

    @property
    def history(self) -> list[Refresh]:
        """What every refresh of this process found."""
        return self._schedule.history

    def plan(self) -> Plan:
        """Whose turn it is; the same until ``step``."""
        return self._schedule.plan()

    def backward(self, losses: Mapping[str, Tensor]) -> None:
        """Writes the gradients of the active tasks' summed (or aggregated) losses.

        Parameters
        ----------
        losses : scalars of the active tasks, of all tasks where the plan asks for a refresh. An active task that the
            batch has no examples of is left out: it is not trained in this step, and its wait goes on.

        Raises
        ------
        UserError
            An unknown task, a loss that is no scalar of a graph, or a shared parameter that no task's loss reaches.
        """
        plan = self.plan()
        self._schedule.index(list(losses))
        for name, loss in losses.items():
            if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
                raise UserError(f"loss of task {name!r}: expected a scalar tensor with a graph, found {_shown(loss)}")
        holders = self._holders(losses)
        active = [name for name in plan.active if holders[name]]
        if plan.refresh:
            self._schedule.expect([name for name in self.tasks if not holders[name]])
        combined = self._aggregate is not None and len(active) > 1
        rows = self._measured(losses, holders, plan, combined)
        aggregate = None
        if combined:
            # One whose gradient is not finite would spoil the others': it sits this step out.
            active = [name for name in active if bool(rows[name].isfinite().all())]
            aggregate = self._combined([rows[name] for name in active])
        mine = [name for name in active if name in losses]
        if mine:
            self._write(losses, mine, aggregate)
        self._trained = [*(self._trained or []), *active]

    def _holders(self, losses: Mapping[str, Tensor]) -> dict[str, int]:
        """How many ranks have a loss of each task: all of them must come to the same turns."""
        if ranks(self._group) == 1:
            return {name: int(name in losses) for name in self.tasks}
        found = torch.tensor([float(name in losses) for name in self.tasks], device=self._shared[0].device)
        torch.distributed.all_reduce(found, group=self._group)
        return {name: round(count) for name, count in zip(self.tasks, found.tolist(), strict=True)}

    def _measured(
        self, losses: Mapping[str, Tensor], holders: Mapping[str, int], plan: Plan, combined: bool
    ) -> dict[str, Tensor]:
        """Takes the gradients that the plan asks for into the averages; (p,) gradients by task where they are combined.

        What is measured follows from the plan and from what all ranks have, so that every rank reduces alike.
        """
        tracked = list(self.tasks) if plan.refresh else list(plan.active) * (self._schedule.settings.track == "active")
        wanted = [name for name in self.tasks if name in tracked or (combined and name in plan.active)]
        wanted = [name for name in wanted if holders[name]]
        if not wanted:
            return {}
        own = [name for name in wanted if name in losses]
        # Whole gradients are needed to combine them, sketches only to compare.
        sketch = None if combined else self._sketch
        found = task_gradients([losses[name] for name in own], self._shared, sketch)
        self._check_reached(found.reached, own)
        rows = found.rows.new_zeros(len(wanted), found.rows.shape[1])
        rows[[wanted.index(name) for name in own]] = found.rows
        counts = rows.new_tensor([holders[name] for name in wanted])[:, None]
        compared = rows
        if self._sketch is not None and sketch is None:
            compared = self._sketch.rows(rows, [parameter.numel() for parameter in self._shared])
        compared = sum_over_ranks(compared.clone() if combined else compared, self._group) / counts
        places = [number for number, name in enumerate(wanted) if name in tracked]
        if places:
            self._schedule.measured([wanted[number] for number in places], compared[places])
        if not combined:
            return {}
        return dict(zip(wanted, sum_over_ranks(rows, self._group) / counts, strict=True))

    def _combined(self, rows: list[Tensor]) -> Tensor:
        """The aggregate (p,), nothing where no row is left; that of rank 0, as some aggregators draw at random."""
        assert self._aggregate is not None
        if not rows:
            return torch.zeros(sum(parameter.numel() for parameter in self._shared), device=self._shared[0].device)
        made = self._aggregate(torch.stack(rows)) if len(rows) > 1 else rows[0]
        if ranks(self._group) > 1:
            torch.distributed.broadcast(made, group=self._group, group_src=0)
        return made

    def _check_reached(self, reached: Tensor, names: list[str]) -> None:
        """A shared parameter that no task trains is a mistake in the list; only a batch of all tasks can tell."""
        if self._reached is None and set(names) == set(self._schedule.tasks):
            self._reached = reached.any(dim=0)
            idle = [self._names[index] for index, hit in enumerate(self._reached.tolist()) if not hit]
            if idle:
                self._reached = None
                raise UserError(
                    f"shared parameter {idle[0]} belongs to no task: no loss depends on it"
                    + (f" ({len(idle) - 1} more alike)" if len(idle) > 1 else "")
                    + "; leave it out of shared_parameters"
                )

    def _write(self, losses: Mapping[str, Tensor], active: list[str], aggregate: Tensor | None) -> None:
        leaves = list({id(leaf): leaf for name in active for leaf in leaves_of(losses[name])}.values())
        total = torch.stack([losses[name].reshape(()) for name in active]).sum()
        if aggregate is None:
            total.backward()
        else:
            self._write_combined(total, leaves, aggregate)
        self._written |= {id(leaf): leaf for leaf in leaves}

    def _write_combined(self, total: Tensor, leaves: Sequence[Tensor], aggregate: Tensor) -> None:
        """The aggregate for the shared parameters, the summed losses' gradient for the tasks' own."""
        shared = {id(parameter) for parameter in self._shared}
        private = [leaf for leaf in leaves if id(leaf) not in shared]
        before = [parameter.grad for parameter in self._shared]
        if ranks(self._group) > 1:
            # A parallel wrapper waits for all its parameters, so the whole pass is made and its shared part dropped.
            for parameter in self._shared:
                parameter.grad = None
            total.backward()
        elif private:
            torch.autograd.backward(total, inputs=private)
        sizes = [parameter.numel() for parameter in self._shared]
        for parameter, old, part in zip(self._shared, before, aggregate.split(sizes), strict=True):
            gradient = part.view_as(parameter).to(parameter.dtype)
            parameter.grad = gradient.clone() if old is None else old + gradient

    def step(self) -> None:
        """After the optimizer's step: on to the next turn; draws the graph anew when it is time.

        The gradients of all parameters that ``backward`` wrote to in this step are set to None.
        """
        for leaf in self._written.values():
            leaf.grad = None
        self._written = {}
        trained = self.plan().active if self._trained is None else list(dict.fromkeys(self._trained))
        self._trained = None
        self._schedule.step(trained)

    def add_task(self, name: str) -> None:
        """One more task from the next step on, which asks for a refresh.

        Raises
        ------
        UserError
            The name is taken.
        """
        self._schedule.add_task(name)

    def remove_task(self, name: str) -> None:
        """Raises UserError for an unknown task and for the last one."""
        self._schedule.remove_task(name)
        if self._trained is not None:
            self._trained = [task for task in self._trained if task != name]

    def state_dict(self) -> dict[str, Any]:
        """Tensors, numbers and names; a resumed run goes on bit for bit.

        Raises
        ------
        UserError
            Between ``backward`` and ``step``, when a step is half made.
        """
        if self._trained is not None:
            raise UserError("state_dict between backward and step would lose the step: call scheduler.step() first")
        return {**self._schedule.state_dict(), "made_for": self._made_for()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises UserError for a state of other tasks, settings, parameters, sketch or aggregator."""
        for key, value in self._made_for().items():
            if state["made_for"][key] != value:
                raise UserError(f"the state was made with {key} {state['made_for'][key]}, this scheduler has {value}")
        self._schedule.load_state_dict(state)

    def _made_for(self) -> dict[str, Any]:
        """What decides the meaning of the averages' numbers, beside the tasks and settings."""
        shapes = [(name, list(parameter.shape)) for name, parameter in zip(self._names, self._shared, strict=True)]
        sketch = None if self._sketch is None else [self._sketch.dimension, self._sketch.seed]
        aggregator = type(self._aggregate).__name__ if self._given is None else self._given
        return {
            "shared parameters": [f"{name} {shape}" for name, shape in shapes],
            "sketch": sketch,
            "aggregator": aggregator,
        }


def _named(parameters: Iterable[Any]) -> dict[str, Tensor]:
    """By name, in order; frozen ones left out, tied ones once."""
    named: dict[str, Tensor] = {}
    seen: set[int] = set()
    for number, entry in enumerate(parameters):
        name, parameter = entry if isinstance(entry, tuple) else (f"number {number}", entry)
        if not isinstance(parameter, Tensor):
            raise UserError(f"shared_parameters: {name} is {type(parameter).__name__}; expected tensors")
        if parameter.requires_grad and id(parameter) not in seen:
            seen.add(id(parameter))
            named[name] = parameter
    if not named:
        raise UserError("shared_parameters has no parameter that trains: tasks without any cannot interfere")
    return named


def _shown(loss: Any) -> str:
    if not isinstance(loss, Tensor):
        return type(loss).__name__
    return f"shape {tuple(loss.shape)}" if loss.numel() != 1 else "one without a graph (requires_grad is false)"
