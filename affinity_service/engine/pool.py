"""Work spread over Ray actors and tasks: a bounded number in flight, a bounded number of retries on lost processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, OutOfMemoryError, RayTaskError, WorkerCrashedError

Item = TypeVar("Item")

# A lost actor or task is started again a few times: a node may die, but a shard that kills its process each time must
# not do so for ever. An error raised by the code itself is not retried.
RETRIES = 5
TASK_RETRIES = {"max_retries": RETRIES}
_ENDED = (
    f"a worker process ended {RETRIES + 1} times at the same piece of work; most often it ran out of memory: lower "
    "gradients.batch_rows, fits.tile, validation.tile or the workers of the stage (fits.workers, "
    "group_models.workers, …) and run again; finished pieces are kept"
)


def task(function: Any, options: Mapping[str, Any]) -> Any:
    """A remote function with options. The process of one that has GPUs ends with it: what it holds of a GPU's memory
    would lie beside the next piece of work, for Ray counts that GPU as free. Made once for many calls: Ray sends every
    function that is made to the cluster."""
    if options.get("num_gpus"):
        # `max_calls` is for the decorator alone.
        function = ray.remote(max_calls=1)(function._function)
    return function.options(**options)


class ActorPool:
    """Actors that hold work only while they live.

    Ray's own restarts leave a lost actor's piece waiting for that actor; where its node is gone and there is no room
    for it elsewhere it would wait for ever. Here the piece goes to whoever is free, and what replaces the actor joins
    once there is a place for it.

    ``start()`` makes an actor.
    """

    def __init__(self, start: Callable[[], Any], size: int) -> None:
        self._start = start
        self._starting: dict[ray.ObjectRef, Any] = {}
        self._idle: list[Any] = []
        self._lost_starts = 0
        for _ in range(size):
            self._add()

    def _add(self) -> None:
        actor = self._start()
        self._starting[actor.__ray_ready__.remote()] = actor

    def map_unordered(self, submit: Callable[[Any, Item], ray.ObjectRef], items: Sequence[Item]) -> Iterator[Any]:
        """Results in the order they finish; ``submit(actor, item)`` starts the work, one piece per actor at a time.

        Raises
        ------
        Exception
            What the work raised, as it was there.
        RuntimeError
            The process of the same piece was lost too often.
        """
        waiting = list(range(len(items)))[::-1]
        running: dict[ray.ObjectRef, tuple[Any, int]] = {}
        lost: Counter[int] = Counter()
        while waiting or running:
            while waiting and self._idle:
                actor, index = self._idle.pop(), waiting.pop()
                running[submit(actor, items[index])] = actor, index
            (done, *_), _ = ray.wait([*running, *self._starting])
            if done in self._starting:
                self._welcome(done)
                continue
            actor, index = running.pop(done)
            try:
                value = ray.get(done)
            except (ActorDiedError, ActorUnavailableError, OutOfMemoryError) as error:
                lost[index] += 1
                if lost[index] > RETRIES:
                    raise RuntimeError(_ENDED) from error
                waiting.append(index)
                self._replace(actor)
            except RayTaskError as error:
                raise _cause(error) from error
            else:
                self._idle.append(actor)
                yield value

    def _welcome(self, ready: ray.ObjectRef) -> None:
        """An actor has been started, or was lost on the way."""
        actor = self._starting.pop(ready)
        try:
            ray.get(ready)
        except (ActorDiedError, ActorUnavailableError, OutOfMemoryError) as error:
            self._lost_starts += 1
            if self._lost_starts > RETRIES:
                raise RuntimeError(_ENDED) from error
            self._replace(actor)
        except RayTaskError as error:
            raise _cause(error) from error
        else:
            self._idle.append(actor)

    def _replace(self, actor: Any) -> None:
        # It may only have been out of reach: two must not do the same work.
        ray.kill(actor)
        self._add()

    def end(self) -> None:
        """End the actors; none may be at work."""
        for actor in [*self._idle, *self._starting.values()]:
            ray.kill(actor)


def map_unordered(
    submit: Callable[[Any, Item], ray.ObjectRef],
    workers: Sequence[Any],
    items: Sequence[Item],
    depth: int = 1,
) -> Iterator[Any]:
    """Results of Ray tasks in the order they finish; each of the workers' places holds at most `depth` at a time.

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
        raise _cause(error) from error
    except (ActorDiedError, WorkerCrashedError, OutOfMemoryError) as error:
        raise RuntimeError(_ENDED) from error


def _cause(error: RayTaskError) -> Exception:
    return error.cause if isinstance(error.cause, Exception) else error
