"""What fine-tuning the base model on a subset would give, from the features alone (Grad-TAG, arXiv 2409.06091, §3)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from affinity_service.affinity.calibration import UNPROBED, Calibration
from affinity_service.affinity.estimates import Moment, SubsetEstimates, stated_moment
from affinity_service.affinity.penalty import ridge_penalties
from affinity_service.affinity.stopping import ExpectedStop
from affinity_service.config import Config
from affinity_service.deadline import check_deadline
from affinity_service.fitting import solve_subsets
from affinity_service.fitting.kept_memory import kept_memory
from affinity_service.fitting.member_rows import MemberRows
from affinity_service.fitting.optimizers import training_optimizer
from affinity_service.fitting.path import Paths, Training
from affinity_service.fitting.problem import check_subsets
from affinity_service.fitting.products import little_work
from affinity_service.fitting.query import QueryFits
from affinity_service.fitting.subset_rows import SubsetRows
from affinity_service.fitting.subset_weights import Anchor, SubsetWeights
from affinity_service.fitting.task_rows import split_by_task
from affinity_service.gradients.store import FeatureRows
from affinity_service.tasks.label_bits import LabelBits
from affinity_service.tasks.sampling import steps_per_epoch
from affinity_service.tasks.suite import Task

# Losses (M, T) and their standard errors over examples, of the network itself at weights displaced (M, p) for M
# subsets; NaN outside them.
NetworkLosses = Callable[[Tensor, Sequence[Sequence[int]]], tuple[Tensor, Tensor]]
HeldOut = SubsetRows | MemberRows
# Displacements of as many subsets at a time as fill so much memory; the path keeps about so many numbers per weight.
PATH_BYTES = 1 << 30
PATH_COPIES = 14
# So many subsets are sooner fitted one at a time than set up together, and their work on so many weights and so many
# numbers of rows is done before a second thread has begun (on yeast, 13 tasks with 5 million numbers take two as long).
FEW = 8
ONE_THREAD_NUMBERS, ONE_THREAD_ROW_NUMBERS = 1 << 18, 1 << 22


class LinearizedEstimator:
    """Follows or fits subsets on training rows and evaluates them on validation rows, thousands at a time.

    Parameters
    ----------
    train, validation : rows of the feature store, of all tasks or of those that will be asked for.
    tasks : all tasks of the suite, which decide the loss of each.
    config : `fits`, and of `base` the training that is imagined.
    anchor : as ``gradients.anchor.read_anchor`` gives it.
    network : evaluates the network itself at the weights found, in place of the linearised losses.
    calibration : what probes found, or what holds without them.
    device : where the products run.
    """

    def __init__(
        self,
        train: FeatureRows,
        validation: FeatureRows,
        tasks: Sequence[Task],
        config: Config,
        anchor: Mapping[str, Tensor],
        network: NetworkLosses | None = None,
        calibration: Calibration = UNPROBED,
        device: str = "cpu",
    ) -> None:
        self.config, self.tasks, self.device = config, tasks, device
        self.penalty_factor, self.stop = calibration.penalty_factor, calibration.stop
        self.reach_steps, self.correction = calibration.reach_steps, calibration.correction
        squared = [task.kind == "regression" for task in tasks]
        self.kinds = ["squared" if each else "logistic" for each in squared]
        whole = Anchor.from_tensors(anchor, device)
        # One penalised fit has no place for weights of one task's own: heads stay as they are.
        frozen = whole.own is not None and config.solution == "ridge"
        self.anchor = whole.of_shared() if frozen else whole
        self._free = whole.shared if frozen else None
        width = whole.dimension if frozen else None
        self._arrays = _tensors(train, device, width)
        held_out = _tensors(validation, device, width)
        self._train, self._validation = (
            split_by_task(*arrays, squared, None if frozen else _products(rows, device))
            for arrays, rows in ((self._arrays, train), (held_out, validation))
        )
        self._queries = QueryFits(self._train)
        self._labelled = _labelled(train, len(tasks))
        self._weights = len(whole.weights)
        self.network = network
        self._paths: Paths | None = None

    def estimate(self, subsets: Sequence[Sequence[int]]) -> SubsetEstimates:
        return self.estimates(subsets, [stated_moment(self.config)])[0]

    def courses_by_reach(
        self, subsets: Sequence[Sequence[int]], reaches: Sequence[float | None]
    ) -> dict[float | None, NDArray[np.float64]]:
        """(M, epochs, T) what the stop is judged by: linearised validation losses, NaN outside the subsets; for each
        reach that the path might have, from one run: they change what is looked at, not the path."""
        chosen = self._checked(subsets)
        with self._suited(chosen):
            parts = [self._courses(chunk, reaches) for chunk in self._chunks(chosen)]
        return {reach: np.concatenate([part[reach] for part in parts]) for reach in reaches}

    def _courses(
        self, subsets: Sequence[tuple[int, ...]], reaches: Sequence[float | None]
    ) -> dict[float | None, NDArray[np.float64]]:
        layout, epochs = SubsetWeights(self.anchor, subsets), self.config.fits.epochs
        held_out, steps = self._held_out(layout), self._steps(subsets)
        courses = {reach: np.full((len(subsets), epochs, len(self.tasks)), np.nan) for reach in reaches}

        def look(epoch: int, _: Tensor | None, c: Tensor, __: Tensor) -> None:
            for reach, course in courses.items():
                course[:, epoch - 1] = held_out.losses(c * counted(steps * epoch, reach))[0].cpu().numpy()

        follow = self._follow_path if self.config.solution == "path" else self._fit_ridges
        follow(layout, epochs, range(1, epochs + 1), look)
        return courses

    def estimates(self, subsets: Sequence[Sequence[int]], moments: Sequence[Moment]) -> list[SubsetEstimates]:
        """The same at several moments, from one run."""
        chosen = self._checked(subsets)
        with self._suited(chosen):
            taken = [self._take(chunk, moments) for chunk in self._chunks(chosen)]

        def joined(number: int, name: str) -> NDArray[Any]:
            return torch.cat([means[number][name] for means in taken]).cpu().numpy()

        def losses(number: int) -> NDArray[Any]:
            # What probes said is of the moment that the config states.
            stated = moments[number] == stated_moment(self.config)
            return self.correction.applied(joined(number, "mean"), chosen) if stated else joined(number, "mean")

        return [
            SubsetEstimates.from_table_of_tasks(
                chosen,
                joined(number, "epochs").round().astype(np.int64),
                losses(number),
                joined(number, "error"),
                joined(number, "converged") > 0.5,
                [row for means in taken for row in means[number]["coordinates"]],
            )
            for number in range(len(moments))
        ]

    def _checked(self, subsets: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
        check_subsets(subsets, self._arrays[3], len(self.tasks))
        return [tuple(int(task) for task in subset) for subset in subsets]

    def _chunks(self, chosen: Sequence[tuple[int, ...]]) -> list[Sequence[tuple[int, ...]]]:
        """As many subsets at a time as there is memory for."""
        size = max(1, len(chosen))
        if self.config.solution == "path" or self.network is not None:
            numbers = PATH_COPIES * self.anchor.width(max(map(len, chosen), default=1))
            numbers += max(map(self._own_numbers, chosen), default=0)
            size = max(1, PATH_BYTES // (4 * numbers))
        return [chosen[start : start + size] for start in range(0, len(chosen), size)]

    def _suited(self, chosen: Sequence[tuple[int, ...]]) -> AbstractContextManager[None]:
        """Little work in its turn; for much of it memory that stays."""
        return little_work() if self._is_small(chosen) else kept_memory()

    def _held_out(self, layout: SubsetWeights) -> HeldOut:
        """Validation rows; of one subset, asked for alone, all of them together."""
        rows = self._validation
        return SubsetRows(rows, layout) if len(layout.subsets) == 1 else MemberRows(rows, layout)

    def _own_numbers(self, subset: tuple[int, ...]) -> int:
        """Features of a subset's rows along its own means."""
        means = len(self.anchor.means_of(subset))
        if not means:
            return 0
        parts = (rows[task] for rows in (self._train, self._validation) for task in subset)
        return means * sum(len(own) for own in parts if own is not None)

    def _is_small(self, subsets: Sequence[tuple[int, ...]]) -> bool:
        """Whether neither the weights nor the rows that are looked at are many."""
        rows = sum(len(own) for subset in subsets for task in subset if (own := self._train[task]) is not None)
        return (
            len(subsets) <= FEW
            and len(subsets) * self.anchor.width(max(map(len, subsets))) <= ONE_THREAD_NUMBERS
            and rows * self._arrays[0].shape[1] <= ONE_THREAD_ROW_NUMBERS
        )

    def _take(self, subsets: Sequence[tuple[int, ...]], moments: Sequence[Moment]) -> list[dict[str, Any]]:
        check_deadline()
        layout = SubsetWeights(self.anchor, subsets)
        held_out, steps = self._held_out(layout), self._steps(subsets)
        stops = {moment: ExpectedStop(self.stop.noise) for moment in moments}
        last = max(self.config.fits.epochs if moment == "best" else moment for moment in moments)

        def look(epoch: int, w: Tensor | None, c: Tensor, converged: Tensor) -> None:
            part = counted(steps * epoch, self.reach_steps)
            c = c * part
            mean, error = held_out.losses(c)
            seen = {
                "epochs": torch.full((len(subsets),), float(epoch), device=c.device),
                "mean": mean,
                "error": error,
                "coordinates": c,
                "converged": converged.float(),
            }
            if w is not None and self.network is not None:
                seen["weights"] = self._whole(layout, w * part)
            for moment, stop in stops.items():
                if moment == "best" and epoch <= self.config.fits.epochs:
                    stop.add(self.stop.score(mean, epoch), seen)
                elif moment == epoch:
                    stop.add(mean.nanmean(dim=1), seen)

        follow = self._follow_path if self.config.solution == "path" else self._fit_ridges
        follow(layout, last, moments, look)
        found: list[dict[str, Any]] = [stops[moment].means() for moment in moments]
        for means in found:
            # Not needed any more, and large.
            weights = means.pop("weights", None)
            if self.network is not None and weights is not None:
                means |= zip(("mean", "error"), self.network(weights, subsets), strict=True)
            means["coordinates"] = layout.stored(means["coordinates"])
        return found

    def _whole(self, layout: SubsetWeights, w: Tensor) -> Tensor:
        """(M, p) displacements of all weights of the base model."""
        if self._free is None:
            return layout.whole(w)
        found = w.new_zeros(len(w), self._weights)
        found[:, self._free] = w
        return found

    def _training(self, subsets: Sequence[Sequence[int]]) -> Training:
        examples = [self._labelled.count(subset) for subset in subsets]
        steps = [steps_per_epoch(count, self.config.tuning.batch_size) for count in examples]
        return Training(self.config.tuning.batch_size, torch.tensor(steps), torch.tensor(examples))

    def _steps(self, subsets: Sequence[Sequence[int]]) -> Tensor:
        """(M, 1) optimizer steps an epoch."""
        return self._training(subsets).steps.to(self.device)[:, None]

    def _follow_path(self, layout: SubsetWeights, last: int, _: Sequence[Moment], look: Callable) -> None:
        if self._paths is None:
            self._paths = Paths(self._train, self.anchor, training_optimizer(self.config.tuning))
        converged = torch.ones(len(layout.subsets), dtype=torch.bool, device=self.device)
        training = self._training(layout.subsets)

        def on_epoch(epoch: int, w: Tensor, c: Tensor) -> None:
            look(epoch + 1, w, c, converged)

        self._paths.run(layout, training, last, on_epoch)

    def _fit_ridges(self, layout: SubsetWeights, last: int, wanted: Sequence[Moment], look: Callable) -> None:
        """One fit per penalty: the one given, or those that stand for 1, 2, 4, … epochs."""
        subsets = list(layout.subsets)
        fixed = self.config.fits.l2
        # A given penalty stands for no number of epochs: it is what is seen at every moment.
        # Where the best is looked for, doublings are close enough.
        doublings = {2**i for i in range(32) if 2**i < last} if "best" in wanted else set()
        exact = {moment for moment in wanted if moment != "best"}
        grid = {last} if fixed != "auto" else {*exact, *doublings, last}
        sizes = torch.bincount(self._arrays[3], minlength=len(self.tasks))
        c: Tensor | None = None
        for epochs in sorted(grid):
            if fixed == "auto":
                l2 = ridge_penalties(self.anchor, subsets, self._training(subsets), sizes, epochs, self.config.tuning)
            else:
                l2 = torch.full((len(subsets),), float(fixed))
            c, converged = self._ridges(subsets, l2 * self.penalty_factor, c)
            w = None
            if self.network is not None:
                w = self.anchor.displacement(c)
            for epoch in [epochs] if fixed == "auto" else sorted({*exact, last}):
                look(epoch, w, c, converged)

    def _ridges(self, subsets: Sequence[Sequence[int]], l2: Tensor, start: Tensor | None) -> tuple[Tensor, Tensor]:
        """Coordinates (M, d) and whether they are converged (M,); a few subsets are fitted one at a time."""
        found: list[Tensor | None] = [None]
        if len(subsets) <= FEW and all(self._queries.suits(subset) for subset in subsets):
            starts = [None] * len(subsets) if start is None else list(start)
            found = [self._queries.fit(*each) for each in zip(subsets, l2.tolist(), starts, strict=True)]
        settled = [weights for weights in found if weights is not None]
        if len(settled) == len(subsets):
            return torch.stack(settled), torch.ones(len(subsets), dtype=torch.bool, device=self.device)
        fit = solve_subsets(*self._arrays, subsets, l2, kinds=self.kinds)
        return fit.weights, torch.as_tensor(fit.converged)


def counted(steps: Tensor, reach: float | None) -> Tensor | float:
    """(M, 1) times which displacements count after so many steps (M, 1), see ``Calibration.reach_steps``."""
    return 1.0 if reach is None else (1 + steps / reach).rsqrt()


def _labelled(rows: FeatureRows, tasks: int) -> LabelBits:
    """Which of the examples that occur have a label for which task."""
    examples, place = np.unique(rows.example, return_inverse=True)
    labelled = np.zeros((len(examples), tasks), bool)
    labelled[place, rows.task_of_row] = True
    return LabelBits.from_mask(labelled)


def _products(rows: FeatureRows, device: str) -> Tensor | None:
    """Where they lie: of hundreds of tasks they are most of what is stored."""
    if rows.products is None:
        return None
    with warnings.catch_warnings():
        # Rows from the object store are read-only, which torch cannot express; nothing here writes to them.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(rows.products).to(device)


def _tensors(rows: FeatureRows, device: str, width: int | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    # Rows from the object store are read-only, which torch cannot express; nothing here writes to them.
    return (
        torch.tensor(rows.features[:, :width], device=device),
        torch.tensor(rows.margins.astype(np.float32), device=device),
        torch.tensor(rows.targets, device=device),
        torch.tensor(rows.task_of_row.astype(np.int64), device=device),
    )
