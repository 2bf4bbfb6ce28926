import threading
import time

import numpy as np
import pytest

from affinity_service.deadline import DeadlineExceeded, check_deadline, deadline_in, seconds_left
from affinity_service.grouping import METHODS, Constraints, choose_networks, cluster, select_networks
from affinity_service.grouping.constraints import Rules
from affinity_service.grouping.direct import descend

AFFINITY = np.random.default_rng(0).normal(size=(20, 20))


def losses(subsets):
    return [np.ones(len(subset)) for subset in subsets]


def test_without_one_there_is_none():
    check_deadline()
    assert seconds_left(60.0) == 60.0


def test_it_passes_and_is_gone_afterwards():
    with deadline_in(0.01):
        check_deadline()
        assert 0 < seconds_left(60.0) <= 0.01
        time.sleep(0.02)
        for late in (check_deadline, lambda: seconds_left(60.0)):
            with pytest.raises(DeadlineExceeded):
                late()
    check_deadline()


def test_an_inner_one_does_not_lengthen_an_outer_one():
    with deadline_in(10.0), deadline_in(1000.0):
        assert seconds_left(60.0) <= 10.0


def test_other_threads_have_none_of_it():
    found = []
    with deadline_in(1e-9):
        thread = threading.Thread(target=lambda: found.append(seconds_left(60.0)))
        thread.start()
        thread.join()
    assert found == [60.0]


@pytest.mark.parametrize(
    "search",
    [
        *(lambda method=method: cluster(AFFINITY, "auto", method) for method in METHODS),
        lambda: cluster(AFFINITY, 4),
        lambda: select_networks(AFFINITY[:9, :9], 3),
        lambda: select_networks(AFFINITY, 3),
        lambda: choose_networks(losses, 20, 3),
        lambda: descend(losses, [list(range(10)), list(range(10, 20))]),
        lambda: Rules(Constraints(2, 5), 20).repaired(np.zeros(20, dtype=np.intp), 4),
        # Goes on to the next number of groups where one is refused, but not where the time is over.
        lambda: Rules(Constraints(2, 5, cannot_link=((0, 4),)), 20).nearest_possible(3, 4, 10),
    ],
)
def test_searches_give_up_when_it_is_past(search):
    with deadline_in(0.0), pytest.raises(DeadlineExceeded):
        search()
