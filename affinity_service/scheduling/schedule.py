"""The schedule itself, apart from any training loop: averages in, whose turn it is out (arXiv 2509.16959, §3)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from affinity_service.errors import UserError
from affinity_service.gradients.moving_average import MovingAverages, cosines
from affinity_service.scheduling.graph import (
    colour_classes,
    conflicts,
    most_stale_first,
    quantile_threshold,
    raise_coverage,
    threshold,
)
from affinity_service.scheduling.settings import ScheduleSettings

log = logging.getLogger("affinity_service.scheduling")


@dataclass(frozen=True)
class Refresh:
    """What a refresh found.

    Attributes
    ----------
    step : optimizer steps done. tau : the threshold in force.
    tasks : names in the order of the other fields.
    interference : (K, K) ρ_ij = −cos(ĝ_i, ĝ_j), 0 on the diagonal.
    edges : conflicting pairs. colours : class of each task. density : edges over all pairs.
    active : per class the tasks that run, with those that coverage added, in the order in which they run.
    visits : steps in which each task was trained, since the start. longest_wait : steps in a row without, at most, of
        each task. shortfall : share of the steps that each task gets which coverage could not give enough.
    skipped : gradients that were not finite and were left out, since the start.
    """

    step: int
    tau: float
    tasks: tuple[str, ...]
    interference: NDArray[np.float64]
    edges: list[tuple[str, str]]
    colours: dict[str, int]
    density: float
    active: list[list[str]]
    visits: dict[str, int]
    longest_wait: dict[str, int]
    shortfall: dict[str, float]
    skipped: dict[str, int]


@dataclass(frozen=True)
class Plan:
    """One step: `active` are the tasks to train, in the order of the tasks; `refresh` asks for the losses of all."""

    active: tuple[str, ...]
    refresh: bool


class Schedule:
    """Whose turn it is. Parameters as of ``InterferenceScheduler``; `width` numbers per gradient."""

    def __init__(self, tasks: Sequence[str], width: int, settings: ScheduleSettings, device: Any = None) -> None:
        self.tasks = _checked(tasks)
        self.settings = settings
        self.averages = MovingAverages(
            len(self.tasks), width, settings.beta, 2 if settings.split else 1, device
        )  # fmt: skip
        self.history: list[Refresh] = []
        self.step_count = 0
        # The steps that remain until the graph is drawn anew; the first graph needs only its probes.
        self._left = settings.probes
        self._position = 0
        self._classes: list[list[int]] = []
        count = len(self.tasks)
        # Steps in which each task was last trained, and last had its turn, with or without examples.
        self._last, self._offered = [-1] * count, [-1] * count
        self._visits, self._longest, self._skipped = ([0] * count for _ in range(3))
        self._plain = self._expected = False

    def plan(self) -> Plan:
        everyone = list(range(len(self.tasks)))
        active = self._classes[self._position % len(self._classes)] if self._classes else everyone
        return Plan(tuple(self.tasks[task] for task in active), self._left <= self.settings.probes)

    def index(self, names: Sequence[str]) -> list[int]:
        unknown = [name for name in names if name not in self.tasks]
        if unknown:
            raise UserError(f"task {unknown[0]!r} is not one of the scheduler's: {', '.join(self.tasks)}")
        return [self.tasks.index(name) for name in names]

    def measured(self, names: Sequence[str], rows: Tensor) -> None:
        """Takes gradients (len(names), width) into the averages. A row that is not finite is left out and counted."""
        for task in self.averages.update(self.index(names), rows):
            self._skipped[task] += 1
            if self._skipped[task] in (1, 10, 100, 1000):
                log.warning(
                    "step %d: the gradient of task %s is not finite; its average keeps the last finite ones (%d so "
                    "far). Lower the learning rate if this goes on",
                    self.step_count, self.tasks[task], self._skipped[task],
                )  # fmt: skip

    def expect(self, missing: Sequence[str]) -> None:
        """Says once when a refresh is not given the losses of these tasks: their averages grow old."""
        if missing and not self._expected:
            self._expected = True
            log.warning(
                "step %d: the plan asks for a refresh, but there is no loss of %s: conflicts are drawn from older "
                "gradients of theirs; give the losses of all tasks where plan.refresh is true",
                self.step_count, ", ".join(missing),
            )  # fmt: skip

    def step(self, trained: Sequence[str]) -> None:
        """One optimizer step was made on these tasks; draws the graph anew when it is time."""
        now = self.step_count
        own = set(self.index(trained))
        for task in self.index(self.plan().active):
            self._offered[task] = now
        for task in range(len(self.tasks)):
            if task in own:
                self._last[task] = now
                self._visits[task] += 1
            else:
                self._longest[task] = max(self._longest[task], now - self._last[task])
        self.step_count += 1
        self._position += 1
        self._left -= 1
        if self._left == 0:
            self._refresh()

    def _refresh(self) -> None:
        settings, count = self.settings, len(self.tasks)
        rho = -cosines(self.averages.gram()).numpy()
        np.fill_diagonal(rho, 0.0)
        tau = threshold(self.step_count, settings.tau, settings.warmup, settings.anneal)
        if settings.quantile is not None:
            # The share of pairs that may conflict grows as the threshold would have fallen to 0.
            grown = 1 - threshold(self.step_count, 0.0, settings.warmup, settings.anneal)
            tau = quantile_threshold(rho, settings.quantile * grown) if grown else 1.0
        edges = conflicts(rho, tau)
        classes = colour_classes(count, edges)
        colours = {self.tasks[task]: colour for colour, members in enumerate(classes) for task in members}
        # A task without examples must not keep the others waiting: its turn counts, whether it could use it or not.
        waits = [self.step_count - 1 - last for last in self._offered]
        filled, shortfall = raise_coverage(most_stale_first(classes, waits), edges, settings.coverage, count)
        self._classes, self._position = filled, 0
        # The end of the warm-up is a refresh as well.
        rest = settings.warmup - self.step_count
        self._left = max(settings.probes, rest) if 0 < rest < settings.refresh else settings.refresh
        pairs = count * (count - 1) / 2
        density = len(edges) / pairs if pairs else 0.0

        def named(values: Sequence[Any]) -> dict[str, Any]:
            return dict(zip(self.tasks, values, strict=True))

        record = Refresh(
            step=self.step_count,
            tau=tau,
            tasks=tuple(self.tasks),
            interference=rho,
            edges=[(self.tasks[i], self.tasks[j]) for i, j in edges],
            colours=colours,
            density=density,
            active=[[self.tasks[task] for task in members] for members in filled],
            visits=named(self._visits),
            longest_wait=named(self._longest),
            shortfall={self.tasks[task]: share for task, share in shortfall.items()},
            skipped=named(self._skipped),
        )
        self.history.append(record)
        self._tell(record)

    def _tell(self, record: Refresh) -> None:
        log.info(
            "step %d: threshold %.3f, %d conflicts (%.0f%% of pairs), %d classes, longest wait %d",
            record.step, record.tau, len(record.edges), 100 * record.density, len(record.active),
            max(record.longest_wait.values()),
        )  # fmt: skip
        never = [name for name, visits in record.visits.items() if not visits]
        if never and record.step > self.settings.refresh:
            log.warning("step %d: never trained yet: %s; do its examples come?", record.step, ", ".join(never))
        if record.shortfall:
            short = ", ".join(f"{name} {share:.0%}" for name, share in record.shortfall.items())
            log.warning("step %d: coverage %.0f%% is not reached: %s", record.step, 100 * self.settings.coverage, short)
        plain = len(self.tasks) > 2 and record.tau < 1 and record.density in (0.0, 1.0)
        # Said when it becomes so, not at every refresh.
        if plain and not self._plain:
            what = "no pair" if record.density == 0 else "every pair"
            log.warning(
                "step %d: %s conflicts at threshold %.3f: the schedule is that of joint training or of single tasks; "
                "change tau, or give a quantile", record.step, what, record.tau,
            )  # fmt: skip
        self._plain = plain

    def add_task(self, name: str) -> None:
        """One more task: it joins every class until the next refresh, which is now due."""
        if name in self.tasks:
            raise UserError(f"task {name!r} is already one of the scheduler's")
        self.tasks = _checked([*self.tasks, name])
        self.averages.add()
        self._last.append(self.step_count - 1)
        self._offered.append(self.step_count - 1)
        for counts in (self._visits, self._longest, self._skipped):
            counts.append(0)
        for members in self._classes:
            members.append(len(self.tasks) - 1)
        self._left = self.settings.probes

    def remove_task(self, name: str) -> None:
        """The task leaves at once; the others keep their turns until the next refresh, which is now due."""
        (gone,) = self.index([name])
        self.tasks = _checked([task for task in self.tasks if task != name])
        self.averages.remove(gone)
        for counts in (self._last, self._offered, self._visits, self._longest, self._skipped):
            del counts[gone]
        kept = [[task - (task > gone) for task in members if task != gone] for members in self._classes]
        self._classes = [members for members in kept if members]
        self._left = self.settings.probes

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on bit for bit; the history is not in it."""
        return {
            "tasks": list(self.tasks),
            "settings": self.settings.to_dict(),
            "step": self.step_count,
            "left": self._left,
            "position": self._position,
            "classes": [list(members) for members in self._classes],
            "last": list(self._last),
            "offered": list(self._offered),
            "visits": list(self._visits),
            "longest": list(self._longest),
            "skipped": list(self._skipped),
            "plain": self._plain,
            **self.averages.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises UserError for a state of other tasks, settings or numbers per gradient."""
        found = list(state["tasks"])
        if found != self.tasks:
            other = sorted(set(found) ^ set(self.tasks))
            raise UserError(
                "the state is of other tasks: it has "
                f"{len(found)}, this scheduler {len(self.tasks)}"
                + (f"; not in both: {', '.join(other[:5])}" if other else ", in another order")
                + "; build the scheduler with the state's tasks, then add or remove some"
            )
        settings = self.settings.to_dict()
        changed = [key for key, value in state["settings"].items() if settings.get(key) != value]
        if changed:
            key = changed[0]
            raise UserError(
                f"the state was made with {key} {state['settings'][key]}, this scheduler has {settings.get(key)}"
            )
        shapes = tuple(state["values"].shape), tuple(self.averages.values.shape)
        if shapes[0] != shapes[1]:
            raise UserError(
                f"the state's gradients have {shapes[0][-1]} numbers, those of this scheduler {shapes[1][-1]}: other "
                "shared parameters, or another sketch"
            )
        self.step_count, self._left, self._position = state["step"], state["left"], state["position"]
        self._classes = [list(members) for members in state["classes"]]
        self._last, self._offered, self._visits, self._longest, self._skipped = (
            list(state[name]) for name in ("last", "offered", "visits", "longest", "skipped")
        )
        self._plain = state["plain"]
        self.averages.load_state_dict(state)


def _checked(tasks: Sequence[str]) -> list[str]:
    names = list(tasks)
    if not names:
        raise UserError("tasks is empty; a scheduler needs at least one")
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"task {name!r} is named more than once")
    return names
