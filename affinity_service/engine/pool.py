"""Work spread over Ray actors and tasks: a bounded number in flight, retries without end on lost processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import ray
from ray.exceptions import RayTaskError

Item = TypeVar("Item")

# A lost actor or task is started again as often as it takes; an error raised by the code itself is not retried.
ACTOR_RETRIES = {"max_restarts": -1, "max_task_retries": -1}
TASK_RETRIES = {"max_retries": -1}


def map_unordered(
    submit: Callable[[Any, Item], ray.ObjectRef],
    workers: Sequence[Any],
    items: Sequence[Item],
    depth: int = 1,
) -> Iterator[Any]:
    """Results in the order they finish; each worker holds at most `depth` items at a time.

    ``submit(worker, item)`` starts the work. An exception of the work is raised as what it was there.
    """
    waiting = list(reversed(items))
    running: dict[ray.ObjectRef, Any] = {}
    for _ in range(depth):
        for worker in workers:
            if waiting:
                running[submit(worker, waiting.pop())] = worker
    while running:
        done, _ = ray.wait(list(running))
        worker = running.pop(done[0])
        if waiting:
            running[submit(worker, waiting.pop())] = worker
        yield result(done[0])


def result(reference: ray.ObjectRef) -> Any:
    """The value behind a reference; the cause itself where the remote code raised."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, Exception):
            raise error.cause from error
        raise
