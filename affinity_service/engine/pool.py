"""Work spread over Ray actors and tasks: a bounded number in flight, retries without end on lost processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import ray
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayTaskError, WorkerCrashedError

Item = TypeVar("Item")

# A lost actor or task is started again a few times: a node may die, but a shard that kills its process each time must
# not do so for ever. An error raised by the code itself is not retried.
RETRIES = 5
ACTOR_RETRIES = {"max_restarts": RETRIES, "max_task_retries": RETRIES}
TASK_RETRIES = {"max_retries": RETRIES}


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
    """The value behind a reference; the cause itself where the remote code raised.

    Raises
    ------
    RuntimeError
        The process of the work was lost too often.
    """
    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, Exception):
            raise error.cause from error
        raise
    except (ActorDiedError, WorkerCrashedError, OutOfMemoryError) as error:
        raise RuntimeError(
            f"a worker process ended {RETRIES + 1} times at the same piece of work; most often it ran out of memory: "
            "lower gradients.batch_rows, fits.tile, validation.tile or the workers of the stage and run again; "
            "finished pieces are kept"
        ) from error
