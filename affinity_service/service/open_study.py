"""A study that is kept open to answer questions: thread-safe, and checked once as long as its files stay the same."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from affinity_service.affinity.matrix import AffinityMatrix
from affinity_service.artifacts import StudyFolder
from affinity_service.errors import UserError
from affinity_service.study import Study
from affinity_service.version import check_readable

Answer = TypeVar("Answer")
# Of the answers that are kept, rows altogether; a row is half a kilobyte.
MOST_ROWS = 100_000


class OpenStudy(Study):
    """A study whose files do not change while it is open: whoever holds it opens another when they do.

    Only what uses the estimator waits for its turn, so that a long grouping lets predictions pass between its steps.
    """

    def __init__(self, folder: StudyFolder) -> None:
        super().__init__(folder)
        self._turn = threading.RLock()
        self._finished: set[str] = set()
        self._answers: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        self._rows = 0

    @classmethod
    def of(cls, folder: StudyFolder) -> OpenStudy:
        """
        Raises
        ------
        UserError
            A later version of the package wrote it, or what it says of itself cannot be read.
        """
        check_readable(folder)
        study = cls(folder)
        # Read here, by one thread, and only looked at afterwards.
        study.config, study.summary, study.suite_tasks  # noqa: B018
        return study

    def require(self, stage: str) -> None:
        if stage not in self._finished:
            super().require(stage)
            self._finished.add(stage)

    def matrix(self) -> AffinityMatrix:
        with self._turn:
            return self.affinity

    def predict(self, tasks: Sequence[str]) -> pd.DataFrame:
        with self._turn:
            return super().predict(tasks)

    def _losses(self, subsets: list[tuple[int, ...]]) -> Sequence[NDArray[np.float64]]:
        with self._turn:
            return super()._losses(subsets)

    def why_not_predict(self) -> str | None:
        """What a prediction would fail for, without making one; None where it can be made."""
        if self.config.measured:
            return (
                f"affinities were measured while training (affinity.estimator {self.config.affinity.estimator}); they "
                "rank partners but predict no losses"
            )
        try:
            with self._turn:
                self.require("affinity")
                if self._trains:
                    return "the study fine-tunes every subset (affinity.estimator); a question would train models"
        except UserError:
            return "the affinities are not computed yet, or belong to an earlier config"
        return None

    def without_place(self, message: str) -> str:
        return without_place(message, self.folder)

    def answered(self, question: tuple[Any, ...], answer: Callable[[], Answer]) -> Answer:
        """The answer, from memory where the same was asked before. A question is what is asked, and a part per row."""
        with self._turn:
            if question in self._answers:
                self._answers.move_to_end(question)
                found: Answer = self._answers[question]
                return found
        made, rows = answer(), len(question) - 1
        with self._turn:
            if rows <= MOST_ROWS and question not in self._answers:
                self._answers[question] = made
                self._rows += rows
            while self._rows > MOST_ROWS:
                gone, _ = self._answers.popitem(last=False)
                self._rows -= len(gone) - 1
        return made


def without_place(message: str, folder: StudyFolder) -> str:
    """A message without the place that the study lies in, which is not the caller's business."""
    return message.replace(f"study {folder.root}", "the study").replace(folder.root, "the study")
