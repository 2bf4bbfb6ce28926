"""Forward selection of partners on losses made up."""

from __future__ import annotations

import numpy as np

from affinity_service.affinity.partners import forward_selection

# What each partner adds to the loss of task 0; 2 helps only without 1.
EFFECTS = {1: -0.3, 2: -0.2, 3: 0.1, 4: -0.1}


def predict(subsets):
    losses = []
    for subset in subsets:
        effects = {task: EFFECTS[task] for task in subset if task in EFFECTS}
        if 1 in effects and 2 in effects:
            effects[2] = 0.05
        losses.append(np.array([1.0 + sum(effects.values()) if task == 0 else 9.0 for task in subset]))
    return losses


def test_each_partner_is_the_best_beside_those_before():
    alone, chosen = forward_selection(predict, 0, 5, 4)
    assert alone == 1.0
    assert [partner.task for partner in chosen] == [1, 4], "neither 2 beside 1 nor 3 helps"
    np.testing.assert_allclose([partner.predicted_loss for partner in chosen], [0.7, 0.6])


def test_no_more_than_asked_for_and_none_where_there_is_none():
    assert [partner.task for partner in forward_selection(predict, 0, 5, 1)[1]] == [1]
    assert forward_selection(predict, 0, 1, 3) == (1.0, [])
