"""The facade: run a study or open a finished one, and ask it questions without training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from affinity_service.affinity.build import study_estimator
from affinity_service.affinity.calibration import Calibration, read_calibration
from affinity_service.affinity.estimates import Estimator
from affinity_service.affinity.matrix import AffinityMatrix
from affinity_service.affinity.partners import forward_selection
from affinity_service.artifacts import StudyFolder
from affinity_service.config import Config
from affinity_service.errors import UserError
from affinity_service.gradients.anchor import read_anchor
from affinity_service.gradients.store import FeatureStore
from affinity_service.grouping import Grouping, centre_rows, cluster
from affinity_service.grouping.direct import descend
from affinity_service.grouping.partition import density
from affinity_service.reporter import LogReporter, Reporter
from affinity_service.stages import finished_stages
from affinity_service.tables import read_table
from affinity_service.tasks import load_suite
from affinity_service.tasks.names import task_index
from affinity_service.tasks.suite import TRAIN, VALIDATION, Suite, Task
from affinity_service.version import check_readable


@dataclass(frozen=True)
class TaskGroups:
    """Groups by task name, with the objective and its certified upper bound."""

    tasks: list[list[str]]
    objective: float
    bound: float | None
    method: str
    k: int


class Study:
    """A study folder and the questions it answers.

    >>> study = Study.run("ray_jobs/configs/yeast.yaml")   # doctest: +SKIP
    >>> study.predict(["label_3", "label_7"])              # doctest: +SKIP
    """

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
        example error where the study has no probes); example_error, that of the mean over the task's validation
        examples; and alone, the predicted loss of the task by itself.

        Raises
        ------
        UserError
            No task, a repeated task or one that the study does not know.
        """
        subset = task_index(tasks, self.tasks)
        self.require("fits")
        estimates = self._estimator.estimate([subset, *[(task,) for task in subset]])
        errors = self.calibration.task_errors
        return pd.DataFrame(
            {
                "task": [self.tasks[task] for task in subset],
                "predicted_loss": estimates.losses[0],
                "standard_error": [errors[t] for t in subset] if errors else estimates.standard_errors[0],
                "example_error": estimates.standard_errors[0],
                "alone": [float(loss[0]) for loss in estimates.losses[1:]],
            }
        )

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
        (target,) = task_index([task], self.tasks)
        if size < 1:
            raise UserError(f"size: found {size}; expected at least 1 partner")
        self.require("fits")
        alone, chosen = forward_selection(
            lambda subsets: self._estimator.estimate(subsets).losses, target, len(self.tasks), size
        )
        losses = [partner.predicted_loss for partner in chosen]
        table = pd.DataFrame(
            {
                "partner": [self.tasks[partner.task] for partner in chosen],
                "predicted_loss": losses,
                "gain": [before - after for before, after in zip([alone, *losses], losses, strict=False)],
            }
        )
        table.attrs["alone"] = alone
        return table

    @cached_property
    def _estimator(self) -> Estimator:
        """The estimator of the study's fits; one from gradients needs nothing but the study folder."""

        def rows() -> tuple[Any, Any]:
            return (self.features.rows(TRAIN), self.features.rows(VALIDATION)), read_anchor(self.folder)

        return study_estimator(self.config, self.folder, rows, self.suite_tasks, self._suite)

    def _suite(self) -> Suite:
        """The data itself, for true trainings."""
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
    ) -> TaskGroups:
        """Cluster the affinities, centred as in ``centre_rows``, into exactly k groups; nothing is written.

        ``direct`` goes on from the clusters of ``sdp`` by the predicted losses of the groups themselves.

        Raises
        ------
        UserError
            k is out of range or the method unknown.
        """
        centred = centre_rows(self.affinity.affinity, centre)
        grouping: Grouping = cluster(centred, k, "sdp" if method == "direct" else method, seed=seed)
        groups, objective = grouping.groups, grouping.objective
        if method == "direct":
            groups = descend(lambda subsets: self._estimator.estimate(subsets).losses, groups).groups
            objective = density(centred, groups)
        names = [[self.tasks[task] for task in group] for group in groups]
        return TaskGroups(names, objective, grouping.bound, method, grouping.k)

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
