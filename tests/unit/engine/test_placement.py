"""Who finds a place on a cluster, who runs in turn, who is refused."""

from __future__ import annotations

import pytest

from affinity_service.config import ResourceConfig, TrainConfig
from affinity_service.engine.placement import placed_training, places, workers_with_room
from affinity_service.errors import UserError


@pytest.mark.parametrize(
    ("nodes", "cpus", "gpus", "expected"),
    [
        ([{"CPU": 2}], 1, 0, 2),
        ([{"CPU": 1.5}], 0.5, 0, 3),
        ([{"CPU": 0.9}], 0.3, 0, 3),
        ([{"CPU": 3}, {"CPU": 3}], 2, 0, 2),  # a worker is not spread over nodes
        ([{"CPU": 8, "GPU": 2}], 1, 1, 2),
        ([{"CPU": 8, "GPU": 2}], 1, 0.5, 4),
        ([{"CPU": 8, "GPU": 2}], 1, 0.6, 2),  # nor over GPUs
        ([{"CPU": 8, "GPU": 3}], 1, 2, 1),
        ([{"CPU": 8}, {"CPU": 1, "GPU": 8}], 1, 1, 1),
        ([{}], 1, 0, 0),
    ],
)
def test_places(nodes, cpus, gpus, expected):
    assert places(nodes, cpus, gpus) == expected


def test_workers_beyond_the_room_run_in_turn(cluster):
    cluster({"CPU": 1})
    said = []
    assert workers_with_room("fits", 2, ResourceConfig(), said.append) == 1
    assert said == ["1 of 2 workers at a time: fits asks for 2 × (1 CPU); the cluster's nodes have 1 × (1 CPU)"]
    cluster({"CPU": 8, "GPU": 1})
    assert workers_with_room("fits", 2, ResourceConfig(), said.append) == 1
    assert "2 × (1 CPU, 1 GPU)" in said[1]
    assert workers_with_room("fits", 2, ResourceConfig(gpus=0.5), said.append) == 2
    assert workers_with_room("fits", 8, ResourceConfig(gpus=0), said.append) == 8
    assert workers_with_room("fits", 8, ResourceConfig(gpus=0), said.append, together=4) == 2
    assert len(said) == 3


@pytest.mark.parametrize("resources", [{"cpus": 16}, {"gpus": 2}])
def test_what_fits_nowhere_is_refused_unless_nodes_will_come(cluster, resources):
    cluster({"CPU": 8, "GPU": 1}, {"CPU": 8})
    with pytest.raises(
        UserError, match=r"gradients asks for 1 × .*have 1 × \(8 CPU, 1 GPU\) \+ 1 × \(8 CPU\).*wait: true"
    ):
        workers_with_room("gradients", 2, ResourceConfig(**resources), print)
    assert workers_with_room("gradients", 2, ResourceConfig(**resources, wait=True), print) == 2
    with pytest.raises(UserError, match="training asks for"):
        placed_training(TrainConfig(workers=2), ResourceConfig(**resources))


def test_training_workers_run_together_or_not_at_all(cluster):
    cluster({"CPU": 2})
    train = TrainConfig(batch_size=12, workers=2)
    assert placed_training(train, ResourceConfig()) == (train, 0)
    with pytest.raises(UserError, match=r"training asks for 4 × \(1 CPU\) at once"):
        placed_training(TrainConfig(batch_size=12, workers=4), ResourceConfig())


def test_fewer_gpus_than_training_workers_make_the_same_steps_by_accumulation(cluster):
    cluster({"CPU": 16, "GPU": 5})
    placed, gpus = placed_training(TrainConfig(batch_size=24, workers=6, accumulation=2), ResourceConfig())
    assert (placed.workers, placed.accumulation, placed.batch_size, gpus) == (3, 4, 24, 1)
    with pytest.raises(UserError, match=r"6 × \(1 CPU, 1 GPU\)"):
        placed_training(TrainConfig(batch_size=24, workers=6), ResourceConfig(gpus=1))


def test_a_part_of_a_gpu_is_for_a_worker_that_trains_alone(cluster):
    cluster({"CPU": 16, "GPU": 2})
    assert placed_training(TrainConfig(batch_size=24), ResourceConfig(gpus=0.25))[1] == 0.25
    assert placed_training(TrainConfig(batch_size=24, workers=2), ResourceConfig(gpus=0.25))[1] == 1


def test_gpus_are_whole_or_a_part_of_one():
    with pytest.raises(ValueError, match=r"gpus 1.5: expected auto, a whole number, or a part"):
        ResourceConfig(gpus=1.5)
