"""Which rows become examples: of the tasks asked for, each once, in splits, and of a task as many as its cap allows."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from affinity_service.config_sources import SplitConfig
from affinity_service.config_text_suites import CapConfig, LanguageSource
from affinity_service.errors import UserError
from affinity_service.tasks.suite import SPLITS, TEST, TRAIN, VALIDATION
from affinity_service.text.rows import TextRow


@dataclass(frozen=True)
class Selection:
    """N rows and what they are.

    Attributes
    ----------
    rows : N of them, in the order in which they were given.
    task : (N,) positions in `tasks`.
    split : (N,) int8 positions in ``SPLITS``.
    tasks : T names, in the order asked for, else of their first rows.
    left_out : name and reason of every task that has too few rows.
    duplicates : rows that were given again.
    """

    rows: list[TextRow]
    task: NDArray[np.int64]
    split: NDArray[np.int8]
    tasks: list[str]
    left_out: tuple[tuple[str, str], ...]
    duplicates: int


def select_rows(rows: Iterable[TextRow], source: LanguageSource) -> Selection:
    """Keep what the source asks for and decide every row's split.

    Raises
    ------
    UserError
        A task that is named is not there or has too few rows, or no task has enough, or a split of one is empty.
    """
    by_task: dict[str, list[int]] = {name: [] for name in source.tasks or ()}
    kept: dict[object, TextRow] = {}
    present: set[str] = set()
    duplicates = 0
    for row in rows:
        present.add(row.task)
        if source.tasks is not None and row.task not in by_task:
            continue
        # The same row in two splits would be learned and asked for.
        if row.key in kept:
            duplicates += 1
            continue
        by_task.setdefault(row.task, []).append(len(kept))
        kept[row.key] = row
    if not present:
        raise UserError("there are no rows")
    _check_present(source.tasks or (), present)
    left_out = [(name, _too_few(own, source)) for name, own in by_task.items() if len(own) < source.minimum_examples]
    if left_out and (source.tasks is not None or len(left_out) == len(by_task)):
        raise UserError(
            f"task `{left_out[0][0]}` has {left_out[0][1]}: lower data.minimum_examples, or "
            + ("name other tasks" if source.tasks is not None else "give it more rows; no other task has enough either")
        )
    for name, _ in left_out:
        del by_task[name]
    return _placed(list(kept.values()), by_task, source, tuple(left_out), duplicates)


def _placed(
    rows: list[TextRow],
    by_task: dict[str, list[int]],
    source: LanguageSource,
    left_out: tuple[tuple[str, str], ...],
    duplicates: int,
) -> Selection:
    task, split = np.full(len(rows), -1), np.full(len(rows), -1, np.int8)
    for number, (name, own) in enumerate(by_task.items()):
        positions = np.array(own)
        given = [rows[position].split for position in own]
        codes = _given_split(given) if None not in given else random_split(len(own), source.split, name)
        _check_split(name, codes)
        chosen = capped(codes, source.most, name)
        task[positions[chosen]], split[positions[chosen]] = number, codes[chosen]
    taken = np.flatnonzero(task >= 0)
    return Selection(
        [rows[position] for position in taken], task[taken], split[taken], list(by_task), left_out, duplicates
    )


def random_split(count: int, config: SplitConfig, task: str) -> NDArray[np.int8]:
    """(count,) codes of one task's rows, at least one of each; other tasks change nothing.

    Raises
    ------
    UserError
        There are too few rows for the three splits.
    """
    validation, test = (max(1, round(count * fraction)) for fraction in (config.validation, config.test))
    if count < validation + test + 1:
        raise UserError(
            f"task `{task}` has {count} rows, of which {validation} validate and {test} test: none trains; raise "
            "data.minimum_examples to leave it out, or give it more rows"
        )
    order = _seeded(config.seed, task).permutation(count)
    split = np.full(count, TRAIN, np.int8)
    split[order[:validation]] = VALIDATION
    split[order[validation : validation + test]] = TEST
    return split


def capped(split: NDArray[np.int8], most: CapConfig, task: str) -> NDArray[np.int64]:
    """Positions of the rows of one task that remain, in order: drawn where a split has more than its cap."""
    rng = _seeded(most.seed, task)
    kept = []
    for code, cap in enumerate((most.train, most.validation, most.test)):
        own = np.flatnonzero(split == code)
        kept.append(own if cap is None or len(own) <= cap else rng.permutation(own)[:cap])
    return np.sort(np.concatenate(kept))


def _seeded(seed: int, task: str) -> np.random.Generator:
    return np.random.default_rng([seed, *task.encode()])


def _given_split(names: Sequence[str | None]) -> NDArray[np.int8]:
    return np.array([SPLITS.index(name) for name in names if name is not None], np.int8)


def _check_split(task: str, codes: NDArray[np.int8]) -> None:
    """A task may have nothing to test, but must have something to learn and to stop by."""
    for code in (TRAIN, VALIDATION):
        if not (codes == code).any():
            raise UserError(
                f"task `{task}` has {len(codes)} rows, but none whose split is {SPLITS[code]}: give it some, leave it "
                "out, or leave data.split_column out, which draws the splits"
            )


def _check_present(names: Sequence[str], present: set[str]) -> None:
    for name in names:
        if name not in present:
            near = difflib.get_close_matches(name, sorted(present), n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(sorted(present)[:20])}"
            raise UserError(f"no row is of the task `{name}`, which data.tasks names; {hint}")


def _too_few(own: Sequence[int], source: LanguageSource) -> str:
    return f"{len(own)} different rows; at least {source.minimum_examples} are asked for"
