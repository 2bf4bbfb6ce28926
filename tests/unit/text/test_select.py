import numpy as np
import pytest

from affinity_service.config_text_suites import ColumnNames, TextSource
from affinity_service.errors import UserError
from affinity_service.tasks.suite import SPLITS
from affinity_service.text.rows import RawRow, text_row
from affinity_service.text.select import select_rows
from tests.texts import topic_rows


def selected(contents, split_column=None, **settings):
    source = TextSource(path="p", split_column=split_column, **settings)
    raw = (RawRow(f"row {number}", content) for number, content in enumerate(contents))
    return select_rows((text_row(each, ColumnNames(), split_column) for each in raw), source)


def counts(selection):
    return [np.bincount(selection.split[selection.task == task], minlength=3).tolist() for task in (0, 1)]


def test_every_task_is_split_by_itself():
    found = selected([*topic_rows(20), *topic_rows(50)[::2]])
    assert found.tasks == ["capital", "opposite"]
    assert counts(found) == [[30, 10, 10], [12, 4, 4]]
    alone = selected(topic_rows(20)[1::2])
    both = selected(topic_rows(20))
    np.testing.assert_array_equal(alone.split, both.split[both.task == 1])
    other = selected(topic_rows(20), split={"seed": 1})
    assert (both.split != other.split).any()


def test_a_row_given_again_is_dropped_and_counted():
    rows = topic_rows(20)
    found = selected([*rows, *rows[:5], {**rows[0], "target": "Lyon"}])
    assert (found.duplicates, len(found.rows)) == (5, 41)
    assert [row.place for row in found.rows[:2]] == ["row 0", "row 1"]


def test_a_row_in_two_parts_stays_in_the_first():
    rows = [{**row, "part": SPLITS[number % 3]} for number, row in enumerate(topic_rows(20)[::2])]
    found = selected([*rows, {**rows[0], "part": "test"}], "part")
    assert found.duplicates == 1
    assert found.split.tolist() == [number % 3 for number in range(20)]


def test_caps_draw_by_their_seed_and_keep_the_order():
    most = {"train": 5, "test": 1}
    found = selected(topic_rows(20), most=most)
    assert counts(found) == [[5, 4, 1], [5, 4, 1]]
    places = [int(row.place.split()[1]) for row in found.rows]
    assert places == sorted(places)
    again, other = selected(topic_rows(20), most=most), selected(topic_rows(20), most={**most, "seed": 1})
    assert again.rows == found.rows
    assert other.rows != found.rows
    whole = {
        row.place: code for row, code in zip(*(lambda s: (s.rows, s.split))(selected(topic_rows(20))), strict=True)
    }
    assert all(whole[row.place] == code for row, code in zip(found.rows, found.split, strict=True))


def test_small_tasks_are_left_out_and_named():
    few = [{"task": "rare", "input": str(number), "target": "a"} for number in range(4)]
    found = selected([*topic_rows(20), *few])
    assert found.tasks == ["capital", "opposite"]
    assert found.left_out == (("rare", "4 different rows; at least 10 are asked for"),)
    assert "rare" in selected([*topic_rows(20), *few], minimum_examples=3).tasks


def test_named_tasks_come_in_their_order_and_must_be_there():
    assert selected(topic_rows(20), tasks=["opposite", "capital"]).tasks == ["opposite", "capital"]
    assert {row.task for row in selected(topic_rows(20), tasks=["opposite"]).rows} == {"opposite"}
    with pytest.raises(UserError, match=r"no row is of the task `capitol`, .*did you mean `capital`"):
        selected(topic_rows(20), tasks=["capitol"])
    with pytest.raises(UserError, match="task `capital` has 4 different rows; at least 10"):
        selected(topic_rows(4), tasks=["capital"])


def test_rows_too_few_for_anything_are_an_error():
    with pytest.raises(UserError, match="there are no rows"):
        selected([])
    with pytest.raises(UserError, match="no other task has enough either"):
        selected(topic_rows(4))
    with pytest.raises(UserError, match="task `capital` has 3 rows, of which 2 validate and 1 test: none trains"):
        selected(topic_rows(3), minimum_examples=3, split={"validation": 0.6, "test": 0.2})
    rows = [
        {**row, "part": "train" if row["task"] == "opposite" else SPLITS[i % 3]} for i, row in enumerate(topic_rows())
    ]
    with pytest.raises(UserError, match="task `opposite` has 20 rows, but none whose split is validation"):
        selected(rows, "part")
