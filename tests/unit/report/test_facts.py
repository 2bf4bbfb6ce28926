"""The word follows the interval, and the sign follows the number."""

import math

import numpy as np
import pytest

from affinity_service.affinity.matrix import AffinityMatrix
from affinity_service.report.facts import Gain, bound_sentences, comparison, decimals_of, direct_sentences, summary
from affinity_service.report.pairs import extreme_pairs
from affinity_service.report.wording import (
    decimals_for,
    duration,
    flops,
    memory,
    number,
    percent,
    short,
    signed,
)
from affinity_service.tasks.units import loss_unit

NAN = math.nan


@pytest.mark.parametrize(
    ("mean", "half", "verdict", "words"),
    [
        (0.02, 0.01, "better", "is better than joint training"),
        (-0.02, 0.01, "worse", "is worse than joint training"),
        (0.01, 0.02, "unclear", "No clear difference from joint training"),
        (0.02, 0.02, "unclear", "includes zero"),
        (0.0, 0.0, "same", "the same trainings as joint training"),
        (0.02, NAN, "one seed", "one seed gives no interval"),
    ],
)
def test_the_interval_decides_the_word(mean: float, half: float, verdict: str, words: str) -> None:
    gain = Gain(mean, half)
    assert gain.verdict == verdict
    assert words in comparison(gain, "joint", 3, "nats", 0.04, "test loss")


def test_the_sentence_flips_with_the_sign() -> None:
    better, worse = (comparison(Gain(m, 0.01), "single", 3, "nats", m / 0.5, "test loss") for m in (0.02, -0.02))
    assert "lower by 0.020 nats, 4.0 % of the loss" in better
    assert "+0.010 to +0.030, excludes zero" in better
    assert "higher by 0.020 nats, 4.0 % of the loss" in worse
    assert "−0.030 to −0.010, excludes zero" in worse


def test_summary_joins_baselines_of_one_verdict() -> None:
    found = summary({"joint": "better", "single": "worse", "random": "better"})
    assert found == "better than joint training and random groups; worse than single-task training"


def _matrix(gains: list[list[float]]) -> AffinityMatrix:
    values = np.array(gains)
    level = np.linspace(0.3, 0.6, len(values))[:, None]
    counts = np.full(values.shape, 3)
    names = tuple("abcdefgh"[: len(values)])
    return AffinityMatrix(names, values - level, np.full(values.shape, 0.01), counts, values - level)


def test_one_lucky_interval_does_not_widen_a_long_table() -> None:
    lucky, usual = Gain(0.02, 0.0000003), Gain(0.02, 0.003)
    assert decimals_of([lucky, usual]) == 7
    assert decimals_of([lucky] + 30 * [usual]) == decimals_of([usual]) == 4
    assert decimals_of([Gain(0.5, NAN)]) == 3
    assert [gain.text(4) for gain in (lucky, Gain(0.0, 0.0))] == ["+0.0200 ± 0.0001", "0.0000 ± 0.0000"]


def test_bound_names_gap_and_chance() -> None:
    matrix = _matrix([[0, 4, 0, 0], [4, 0, 0, 0], [0, 0, 0, 4], [0, 0, 4, 0]])
    grouping = {"groups": [["a", "b"], ["c", "d"]], "objective": 8.0, "bound": 10.0}
    text = " ".join(bound_sentences(grouping, matrix, "nats"))
    assert "scores +2.0000 nats" in text
    assert "above +2.5000" in text
    assert "20.0 % below it" in text
    # Each of 4 tasks has one mate; the mean gain of 12 pairs is 4/3, a half of it enters: 2/3 per task.
    assert "score +0.6667 on average" in text
    assert "72.7 % or more" in text
    relative = " ".join(bound_sentences({**grouping, "centre": "partners"}, matrix, "nats"))
    assert "gain beyond the task's average partner" in relative
    assert "score 0.0000 on average" in relative
    tight = " ".join(bound_sentences({**grouping, "bound": 8.0 + 1e-9}, matrix, "nats"))
    assert "noticeably higher" in tight
    assert "%" not in tight
    assert len(bound_sentences({**grouping, "bound": None}, None, "nats")) == 1


def test_pairs_are_ranked_within_the_receiver() -> None:
    # b gains from everybody; only its difference between partners counts.
    matrix = _matrix([[0, 3, 1], [10, 0, 10.5], [-2, -1, 0]])
    above, below = extreme_pairs(matrix, {"a": 1, "b": 1}, top=2)
    assert [(p.receiver, p.source, p.relative) for p in above] == [("a", "b", 1.0), ("c", "b", 0.5)]
    assert [(p.receiver, p.source, p.relative) for p in below] == [("a", "c", -1.0), ("c", "a", -0.5)]
    assert (above[0].gain, above[0].subsets, above[0].together, above[1].together) == (3.0, 3, True, False)
    assert extreme_pairs(_matrix([[0.0]]), {}) == ([], [])


def test_numbers_carry_sign_and_unit() -> None:
    assert [signed(x, 2) for x in (0.123, -0.123, 0.001, -0.001)] == ["+0.12", "−0.12", "0.00", "0.00"]
    assert number(NAN, 2) == "–"
    assert number(-1234.5, 1) == "−1,234.5"
    assert [decimals_for([x]) for x in (0.0123, 0.5, 12.0, 4000.0, 0.0)] == [4, 3, 1, 0, 3]
    assert [duration(x) for x in (0.5, 59.0, 61, 7265)] == ["0.50 s", "59.0 s", "1 min 01 s", "2 h 01 min"]
    assert [flops(x) for x in (0, 3.2e12, 999.0)] == ["–", "3.20 TFLOP", "999 FLOP"]
    assert memory(3 * 2**29) == "1.50 GiB"
    assert [percent(x) for x in (0.5, 0.0123, 0.00001, 0.9999)] == [
        "50.0 %",
        "1.2 %",
        "less than 0.01 %",
        "more than 99.9 %",
    ]


def test_units_follow_the_kinds() -> None:
    assert loss_unit(["binary", "multiclass"]) == "nats"
    assert loss_unit(["regression"]) == "half squared standard deviations"
    assert loss_unit(["regression", "binary"]) == "loss units"
    assert loss_unit(["sequence", "sequence"]) == "nats per answer token"


def test_short_keeps_both_ends_on_one_line() -> None:
    assert short("a\nb\u202e\x00c", 10) == "a b c"
    shortened = short("x" * 500 + "the end", 20)
    assert len(shortened) == 20
    assert shortened.endswith("he end")
    assert short("\n", 5) == "?"


def test_groups_chosen_by_their_own_losses_say_whether_probes_agreed():
    grouping = {"predicted_loss": 0.41234, "start_predicted_loss": 0.42, "evaluated": 17}
    assert direct_sentences({}) == []
    (predicted,) = direct_sentences(grouping)
    assert "0.4123 per task, against 0.4200" in predicted
    assert "17 groups were predicted" in predicted
    for loss, word in ((0.43, "were kept"), (0.44, "taken instead"), (0.45, "taken instead")):
        *_, probed = direct_sentences({**grouping, "probed_loss": loss, "start_probed_loss": 0.44})
        assert word in probed
