"""Settings of torch that fits change for a while, from several threads."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest
import torch

from affinity_service.fitting.products import full_precision, little_work, one_thread


@pytest.fixture(autouse=True)
def settings():
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(2)
    torch.set_float32_matmul_precision("high")
    yield
    torch.set_num_threads(before[0])
    torch.set_float32_matmul_precision(before[1])


def overlapping(block, look):
    """What two threads see inside blocks of which the first to begin ends first, what each sees afterwards, and what
    threads begun inside and afterwards see."""
    inside, left = threading.Event(), threading.Event()
    seen: dict[str, object] = {}

    def late():
        seen["late"] = look()

    def second():
        with block():
            inside.set()
            left.wait(10)
            seen["second"] = look()
        seen["second after"] = look()

    thread = threading.Thread(target=second)
    with block():
        thread.start()
        inside.wait(10)
        other = threading.Thread(target=late)
        other.start()
        other.join()
        seen["first"] = look()
    seen["between"] = look()
    left.set()
    thread.join()
    seen["first after"] = look()
    new = threading.Thread(target=lambda: seen.update(new=look()))
    new.start()
    new.join()
    return seen


def test_overlapping_blocks_leave_every_thread_its_number():
    found = overlapping(one_thread, torch.get_num_threads)
    assert (found["first"], found["second"]) == (1, 1)
    assert {found[name] for name in ("late", "between", "first after", "second after", "new")} == {2}


def test_one_thread_may_stand_in_another():
    with one_thread():
        with one_thread():
            pass
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_little_work_of_several_threads_is_done_one_after_the_other():
    at_work, most, done = 0, 0, []

    def work(number: int) -> None:
        nonlocal at_work, most
        with little_work():
            at_work += 1
            most = max(most, at_work)
            time.sleep(0.01)
            done.append((number, torch.get_num_threads()))
            at_work -= 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert sorted(done) == [(number, 1) for number in range(5)]
    with contextlib.suppress(ValueError), little_work():
        raise ValueError("whoever fails gives way to others")
    work(5)


def test_overlapping_blocks_of_full_precision_end_with_the_last():
    found = overlapping(full_precision, torch.get_float32_matmul_precision)
    assert {found[name] for name in ("first", "between", "second")} == {"highest"}
    assert {found[name] for name in ("first after", "new")} == {"high"}
