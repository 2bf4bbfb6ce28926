"""Added tasks in the study folder, and who is asked about subsets that name them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from affinity_service.affinity.added import (
    KEPT,
    EstimatorWithAdded,
    read_added,
    remove_added,
    standard_errors,
    write_added,
)
from affinity_service.affinity.calibration import Calibration
from affinity_service.affinity.estimates import SubsetEstimates
from affinity_service.artifacts import StudyFolder
from affinity_service.errors import UserError
from affinity_service.gradients.new_task import NewTask
from affinity_service.tasks.suite import Task


def added(name: str, energy: float | None = 0.5, value: float = 0.0) -> NewTask:
    margins, targets = torch.full((4,), value, dtype=torch.float64), torch.tensor([0.0, 1.0, 0.0, 1.0])
    tensors = {
        "validation_features": torch.zeros(4, 2),
        "validation_margins": margins,
        "validation_targets": targets,
        "head_scale": torch.zeros(0),
    }
    return NewTask(Task(name, "binary"), energy, tensors)


def names(folder: StudyFolder) -> list[str]:
    return [new.task.name for new in read_added(folder)]


@pytest.fixture
def folder(tmp_path):
    folder = StudyFolder.at(tmp_path)
    folder.write_json("stages/gradients.json", {"identity": "first"})
    return folder


def test_they_come_back_in_their_order_whole(folder):
    for name in ("zebra", "ant/..", "müsli"):
        write_added(folder, added(name, energy=None if name == "zebra" else 0.25), "first")
    found = read_added(folder)
    assert [new.task for new in found] == [Task(name, "binary") for name in ("zebra", "ant/..", "müsli")]
    assert [new.energy for new in found] == [None, 0.25, 0.25]
    torch.testing.assert_close(dict(found[0].tensors), dict(added("zebra").tensors))
    assert len(folder.list("added/")) == 3


def test_one_that_is_removed_leaves_the_others_and_their_order(folder):
    for name in "abc":
        write_added(folder, added(name), "first")
    remove_added(folder, "a")
    assert names(folder) == ["b", "c"]
    write_added(folder, added("d"), "first")
    write_added(folder, added("a"), "first")
    assert names(folder) == ["b", "c", "d", "a"]
    with pytest.raises(UserError, match=r"task `e`: add_task brought no such task .* it brought `a`, `b`, `c`, `d`"):
        remove_added(folder, "e")


def test_a_file_that_was_cut_short_or_is_of_others_is_not_read(folder):
    write_added(folder, added("a"), "first")
    (name,) = folder.list("added/")
    folder.write_bytes("added/other.safetensors", b"\x02\0\0\0\0\0\0\0{}")
    (folder.local_path(name).with_name("x.safetensors.7.part")).write_bytes(b"half")
    assert names(folder) == ["a"]


def test_those_of_other_features_are_not_read(folder):
    write_added(folder, added("a"), "first")
    folder.write_json("stages/gradients.json", {"identity": "second"})
    assert names(folder) == []
    write_added(folder, added("a"), "second")
    assert names(folder) == ["a"]


def test_features_computed_again_meanwhile_refuse_it(folder):
    folder.write_json("stages/gradients.json", {"identity": "second"})
    with pytest.raises(UserError, match=r"task `a`: the features of study .* were computed again while it was being"):
        write_added(folder, added("a"), "first")
    assert folder.list("added/") == []


class Fake:
    """Answers task + 100 · (how many added tasks it knows), with an error of a hundredth."""

    def __init__(self, known: int) -> None:
        self.known, self.asked = known, []

    def estimate(self, subsets):
        self.asked.append(subsets)
        losses = [np.array([task + 100.0 * self.known for task in subset]) for subset in subsets]
        epochs, converged = np.arange(len(subsets)), np.ones(len(subsets), bool)
        return SubsetEstimates(
            list(subsets), epochs, losses, [x / 100 for x in losses], converged, np.zeros((len(subsets), 3), np.float32)
        )


def test_the_studys_own_estimator_answers_where_no_added_task_is_named():
    built: list[tuple[int, ...]] = []

    def build(named):
        built.append(named)
        return Fake(len(named))

    own = Fake(0)
    estimator = EstimatorWithAdded(own, 5, build)
    assert estimator.estimate([(0, 1), (3,)]).losses[0].tolist() == [0, 1]
    assert built == []
    # Tasks 6 and 8 are the second and fourth that were added: to an estimator of these two they are 5 and 6.
    found = estimator.estimate([(0, 8), (1, 2), (6,)])
    assert [losses.tolist() for losses in found.losses] == [[200, 206], [1, 2], [205]]
    assert found.subsets == [(0, 8), (1, 2), (6,)]
    assert own.asked[-1] == [(1, 2)]
    assert built == [(1, 3)]
    estimator.estimate([(8, 6)])
    assert built == [(1, 3)]
    for task in range(5, 5 + KEPT):
        estimator.estimate([(task,)])
    estimator.estimate([(6, 8)])
    assert built == [(1, 3), *[(position,) for position in range(KEPT)], (1, 3)]


def test_errors_of_an_added_task_grow_with_what_is_not_held_and_with_the_change_that_stands_on_it():
    def error(new: NewTask, loss: float, errors: tuple[float, ...] = (0.1, 0.2, 0.6)) -> float:
        found = Fake(0).estimate([(1, 3)])
        found.losses[0][:] = 0.5, loss
        found.standard_errors[0][:] = 0.01, 0.02
        own, other = standard_errors([1, 3], found, Calibration(task_errors=errors), 3, [new])
        assert own == (errors[1] if errors else 0.01)
        return other

    start = float(np.log(2))
    # The head alone reaches ln 2: where nothing is to change, it is a usual task.
    assert error(added("a"), start) == pytest.approx(0.2)
    assert error(added("a"), start, ()) == pytest.approx(0.02)
    assert error(added("a", energy=0.5), start - 0.4) == pytest.approx(np.hypot(0.2, 0.2))
    assert error(added("a", energy=0.0), start + 0.4) == pytest.approx(np.hypot(0.2, 0.4))
    assert error(added("a", energy=None), start - 0.4) == pytest.approx(np.hypot(0.2, 0.4))
    assert error(added("a", energy=1 + 1e-6), start - 0.4) == pytest.approx(0.2)
