"""The facade: run a study or open a finished one, and ask it questions without training."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from affinity_service.affinity.added import (
    EstimatorWithAdded,
    check_can_add,
    estimator_of_all,
    gradients_identity,
    read_added,
    remove_added,
    standard_errors,
    write_added,
)
from affinity_service.affinity.build import base_model, device_here, resolved
from affinity_service.affinity.calibration import Calibration, read_calibration
from affinity_service.affinity.estimates import Estimator, require_losses
from affinity_service.affinity.matrix import AffinityMatrix
from affinity_service.affinity.partners import forward_selection, partners_table
from affinity_service.artifacts import StudyFolder
from affinity_service.config import Config
from affinity_service.errors import UserError
from affinity_service.gradients.anchor import read_anchor
from affinity_service.gradients.new_task import NewTask, new_task
from affinity_service.gradients.store import FeatureStore
from affinity_service.grouping import Constraints, Grouping, centre_rows, choose_networks, cluster, select_networks
from affinity_service.grouping.direct import descend
from affinity_service.grouping.matrix import checked_integer
from affinity_service.grouping.partition import density
from affinity_service.grouping.shrinkage import shrink_rows
from affinity_service.lock import driver_lock
from affinity_service.named_groups import TaskGroups, TaskNetworks
from affinity_service.reporter import LogReporter, Reporter
from affinity_service.stages import finished_stages
from affinity_service.tables import read_table
from affinity_service.tasks import load_suite
from affinity_service.tasks.extend import with_task
from affinity_service.tasks.names import task_index
from affinity_service.tasks.prepared import read_suite
from affinity_service.tasks.suite import TRAIN, VALIDATION, Kind, Suite, Task
from affinity_service.tasks.units import loss_unit
from affinity_service.version import check_readable


class Study:
    """A study folder and the questions it answers."""

    def __init__(self, folder: StudyFolder) -> None:
        self.folder = folder

    @classmethod
    def open(cls, location: str | Path) -> Study:
        """Open the study at a local path or a URI such as ``s3://bucket/study``.

        Raises
        ------
        UserError
            There is no study, or a later version of the package wrote it.
        """
        folder = StudyFolder.at(location)
        if not folder.exists("config.yaml"):
            raise UserError(f"{location}: no study there (config.yaml is missing); `affinity run CONFIG` makes one")
        check_readable(folder)
        return cls(folder)

    @classmethod
    def run(
        cls,
        config: str | Path | Config,
        study: str | Path | None = None,
        address: str | None = None,
        reporter: Reporter | None = None,
        until: str = "report",
    ) -> Study:
        """Run what is not done yet and open the study.

        Parameters
        ----------
        config : a YAML file or a ``Config``.
        study : where the study lies; ``studies/<config name>`` when absent.
        address : a Ray cluster (``auto`` for the one this machine belongs to); a local Ray when absent.
        until : the last stage to run.
        """
        from affinity_service.engine.driver import run_study

        settings = config if isinstance(config, Config) else Config.load(config)
        folder = StudyFolder.at(study or Path("studies", settings.name))
        check_readable(folder)
        run_study(settings, folder, reporter or LogReporter(), address, until)
        return cls.open(folder.root)

    @cached_property
    def config(self) -> Config:
        return Config.from_yaml(self.folder.read_bytes("config.yaml").decode(), f"study {self.folder.root}")

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What `suite.json` says."""
        return self.folder.read_json("suite.json")

    @cached_property
    def suite_tasks(self) -> tuple[Task, ...]:
        keys = Task.__dataclass_fields__
        return tuple(Task(**{k: entry[k] for k in keys}) for entry in self.summary["tasks"])

    @property
    def tasks(self) -> list[str]:
        """Task names in the order of the matrix."""
        return [task.name for task in self.suite_tasks]

    @cached_property
    def affinity(self) -> AffinityMatrix:
        """The affinity matrix with counts and standard errors."""
        self.require("affinity")
        return AffinityMatrix.from_table(read_table(self.folder, "affinity/matrix.parquet"), self.tasks)

    @cached_property
    def features(self) -> FeatureStore:
        self.require("gradients")
        return FeatureStore(self.folder)

    @property
    def groups(self) -> list[list[str]]:
        """The groups of the last grouping that was stored."""
        self.require("groups")
        return self.folder.read_json("groups.json")["groups"]

    def predict(self, tasks: Sequence[str]) -> pd.DataFrame:
        """Predicted validation loss of each task if a model were trained on exactly these, by one small fit.

        Returns
        -------
        Columns task; predicted_loss; standard_error, how far predictions were off from truly fine-tuned probes (the
        example error where the study has no probes), of an added task larger the less of its gradients the study holds
        (``affinity.added.standard_errors``); example_error, that of the mean over the task's validation examples; and
        alone, the predicted loss of the task by itself. ``.attrs["unit"]`` is the unit of all of them.

        Raises
        ------
        UserError
            No task, a repeated task or one that the study does not know.
        """
        require_losses(self.config, "predict")
        known = self.known_tasks
        subset = task_index(tasks, known)
        self.require("affinity")
        new = [task for task in subset if task >= len(self.tasks)]
        estimates = self._estimator.estimate([subset, *[(task,) for task in new]])
        alone = dict(enumerate(-np.diag(self.affinity.affinity)))
        alone |= {task: losses[0] for task, losses in zip(new, estimates.losses[1:], strict=True)}
        errors = standard_errors(subset, estimates, self.calibration, len(self.tasks), self.added)
        table = pd.DataFrame(
            {
                "task": [known[task] for task in subset],
                "predicted_loss": estimates.losses[0],
                "standard_error": errors,
                "example_error": estimates.standard_errors[0],
                "alone": [alone[task] for task in subset],
            }
        )
        table.attrs["unit"] = loss_unit(task.kind for task in self.suite_tasks)
        return table

    def add_task(self, name: str, labels: ArrayLike, kind: Kind | None = None) -> float | None:
        """Let ``predict`` and ``best_partners`` know one more task on the study's examples; the base model and the
        features of the other tasks stay as they are.

        The task gets a head of its own on the base model's body. It is in no affinity matrix and no group: for that,
        put it into the data and run the study again.

        Parameters
        ----------
        labels : (N,) of the study's examples in the order of its data, NaN or None where there is none.
        kind : binary, multiclass or regression; inferred from the values when absent.

        Returns
        -------
        The part of the squared length of its gradients by the shared weights that the study's own features hold: where
        it is small, predictions are less sure than those of other tasks, which ``predict`` says. None where
        `gradients.reduction` has no basis (rademacher, factorised).

        Raises
        ------
        UserError
            The name is taken, the labels do not fit, the study trains its subsets instead of estimating them, or a
            driver is at work on it.
        """
        check_can_add(self.config, name)
        # One at a time, and none while a driver may compute the features again.
        with driver_lock(self.folder) as check:
            # What another process added since is not in what was read before.
            self._forget_added()
            self.require("fits")
            if self._trains:
                raise UserError(
                    f"task `{name}`: the study fine-tunes every subset (affinity.estimator) and keeps no features to "
                    "add to; put the task into the data and run the study again"
                )
            if name in self.known_tasks:
                raise UserError(f"task `{name}`: the study has it already; names must be unique")
            identity, suite = gradients_identity(self.folder), self._suite()
            extended = with_task(suite, name, labels, kind)
            model = base_model(self.config, self.folder, suite.inputs.shape[1:], self.suite_tasks)
            new = new_task(model, extended, self.config, read_anchor(self.folder), device_here())
            check()
            write_added(self.folder, new, identity)
            self._forget_added()
        return new.energy

    def remove_task(self, name: str) -> None:
        """Forget a task that ``add_task`` brought.

        Raises
        ------
        UserError
            It brought none of this name, or a driver is at work on the study.
        """
        if name in self.tasks:
            raise UserError(f"task `{name}`: it is one of the study's own; take it out of the data and run again")
        with driver_lock(self.folder):
            remove_added(self.folder, name)
            self._forget_added()

    def _forget_added(self) -> None:
        for cached in ("added", "_estimator"):
            self.__dict__.pop(cached, None)

    @property
    def _trains(self) -> bool:
        return resolved(self.config, self.folder).affinity.estimator == "trained"

    @cached_property
    def added(self) -> list[NewTask]:
        """Tasks that ``add_task`` brought to the features that the study holds now; none where it trains its subsets
        instead, as nothing trains those."""
        found = read_added(self.folder)
        return [] if found and self._trains else found

    @property
    def known_tasks(self) -> list[str]:
        """Names of the study's own tasks and of the added ones, as ``predict`` numbers them."""
        return [*self.tasks, *(new.task.name for new in self.added)]

    def best_partners(self, task: str, size: int = 3) -> pd.DataFrame:
        """Up to `size` auxiliary tasks for one target, by forward selection on its predicted loss; without training.

        Returns
        -------
        Columns partner, in the order they were taken; predicted_loss of the target with this and those before; gain,
        by how much this one lowers it. Empty where no partner helps. ``.attrs["alone"]`` is the loss of the target by
        itself.

        Raises
        ------
        UserError
            A task that the study does not know, or a size below 1.
        """
        require_losses(self.config, "best_partners")
        known = self.known_tasks
        (target,) = task_index([task], known)
        if size < 1:
            raise UserError(f"size: found {size}; expected at least 1 partner")
        self.require("fits")
        return partners_table(*forward_selection(self._losses, target, len(known), size), known)

    @cached_property
    def _estimator(self) -> Estimator | EstimatorWithAdded:
        """The estimator of the study's fits; one from gradients needs nothing but the study folder."""

        def rows() -> tuple[Any, Any]:
            return (self.features.rows(TRAIN), self.features.rows(VALIDATION)), read_anchor(self.folder)

        more = self.added, self.calibration
        return estimator_of_all(self.config, self.folder, rows, self.suite_tasks, self._suite, *more)

    def _suite(self) -> Suite:
        """The data itself, for true trainings."""
        if self.config.data.prepared:
            return read_suite(self.folder)
        suite = load_suite(self.config.data)
        if suite.content_hash != self.summary["content_hash"]:
            raise UserError(
                f"study {self.folder.root}: its data has changed since; `affinity run` brings the study up to date"
            )
        return suite

    @cached_property
    def calibration(self) -> Calibration:
        """What the probes of the fits said; of the stated default rule where there were none."""
        return read_calibration(self.folder)

    def group(
        self,
        k: int | Literal["auto"] = "auto",
        method: str = "sdp",
        seed: int = 0,
        centre: Literal["partners", "alone"] = "partners",
        min_size: int = 1,
        max_size: int | None = None,
        must_link: Sequence[Sequence[str]] = (),
        cannot_link: Sequence[Sequence[str]] = (),
        shrink: bool = False,
    ) -> TaskGroups:
        """Cluster the affinities, centred as in ``centre_rows``, into exactly k groups; nothing is written.

        ``direct`` goes on from the clusters of ``sdp`` by the predicted losses of the groups themselves.

        Parameters
        ----------
        min_size, max_size : tasks per group. must_link : sets of tasks that share a group. cannot_link : sets of tasks
            of which no two share one. shrink : draw affinities towards the average partner by their errors first.

        Raises
        ------
        UserError
            k is out of range, the method unknown, or no k groups are as they must be.
        """
        centred = centre_rows(self.affinity.affinity, centre)
        if shrink:
            centred = shrink_rows(centred, self.affinity.contrast_error())
        if method == "direct":
            require_losses(self.config, "method direct")
        constraints = Constraints.named(self.tasks, min_size, max_size, must_link, cannot_link)
        clusters = "sdp" if method == "direct" else method
        grouping: Grouping = cluster(centred, k, clusters, seed=seed, constraints=constraints)
        groups, objective = grouping.groups, grouping.objective
        if method == "direct":
            groups = descend(self._losses, groups, constraints=constraints).groups
            objective = density(centred, groups)
        names = [[self.tasks[task] for task in group] for group in groups]
        return TaskGroups(names, objective, grouping.bound, method, grouping.k)

    def networks(self, budget: int, method: str = "direct") -> TaskNetworks:
        """At most `budget` networks, tasks in several allowed, each task served by the best of its own; no training.

        Parameters
        ----------
        method : ``direct`` chooses by the predicted losses of the networks themselves (``choose_networks``), ``pairs``
            by the mean affinity of a task's mates (``select_networks``), whose loss is predicted where that takes no
            training.

        Raises
        ------
        UserError
            The budget is below 1, the method unknown, or direct asked of a study that trains its subsets: it would
            train thousands.
        """
        if method not in ("direct", "pairs"):
            raise UserError(f"method: found {method!r}; expected direct or pairs")
        self.require("affinity")
        budget = checked_integer(budget, "budget", 1, None)
        affinity = self.affinity.affinity
        if method == "pairs":
            # What a measured task does for itself is no choice between company and none: alone only where forced.
            alone = None if self.config.measured else np.diag(affinity)
            pairs = select_networks(affinity, budget, singleton_score=alone)
            # No model is trained for an answer.
            loss = None if self.config.measured or self._trains else pairs.mean_loss(self._losses)
            return TaskNetworks.named(self.tasks, pairs.groups, pairs.served_by, loss, None, 0, pairs.optimal)
        require_losses(self.config, "networks by method direct (pairs does without)")
        if self._trains:
            raise UserError("networks: direct would fine-tune thousands of subsets (affinity.estimator); use pairs")
        start = cluster(centre_rows(affinity), min(len(self.tasks), budget)).groups
        found = choose_networks(self._losses, len(self.tasks), budget, start=start)
        return TaskNetworks.named(
            self.tasks, found.groups, found.served_by, found.loss, found.bound, found.evaluated, found.settled
        )

    def _losses(self, subsets: list[tuple[int, ...]]) -> Sequence[NDArray[np.float64]]:
        return self._estimator.estimate(subsets).losses

    @property
    def report_path(self) -> str:
        return f"{self.folder.root}/report/index.html"

    def require(self, stage: str) -> None:
        """Raise unless the stage is finished for the config and suite that the study holds now."""
        if stage not in finished_stages(self.config, self.summary["content_hash"], self.folder):
            raise UserError(
                f"study {self.folder.root}: the stage `{stage}` is not finished, or belongs to an earlier config; "
                "`affinity run` brings it up to date"
            )
