"""What the routes share: one object per app."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Path, Request

from affinity_service.errors import UserError
from affinity_service.service.allowed import Permissions
from affinity_service.service.auth import Access, TokenStore, reader, token_file, writer
from affinity_service.service.catalogue import Catalogue, Kept
from affinity_service.service.errors import ApiError
from affinity_service.service.jobs import JobRunner
from affinity_service.service.limits import Workers
from affinity_service.service.metrics import Metrics
from affinity_service.service.open_study import OpenStudy
from affinity_service.service.schemas import ErrorBody
from affinity_service.service.settings import ServiceSettings
from affinity_service.service.starting import Starter
from affinity_service.version import provenance

Answer = TypeVar("Answer")
# A count of all studies by status is as old as this at most.
COUNT_SECONDS = 15.0


@dataclass
class Service:
    settings: ServiceSettings
    access: Access
    catalogue: Catalogue
    starter: Starter
    metrics: Metrics
    quick: Workers
    slow: Workers
    # Starting and stopping: whoever may only ask must not be able to keep a run from being cancelled.
    jobs: Workers
    version: str
    # Of studies by status, for the metrics.
    counted: Kept
    streams: int = 0
    downloads: int = 0

    @classmethod
    def of(cls, settings: ServiceSettings, runner: JobRunner) -> Service:
        catalogue = Catalogue(settings.root, runner, settings.open_studies)
        permissions = Permissions(tuple(settings.data_roots), tuple(settings.models), settings.allow_python)
        store = TokenStore(token_file(settings.root, settings.tokens)) if _may_have_tokens(settings) else None
        return cls(
            settings,
            Access(store, settings.require_tokens),
            catalogue,
            Starter(catalogue, permissions, settings.most_config_bytes),
            Metrics(),
            Workers("quick", settings.workers, settings.queue, settings.answer_seconds),
            Workers("slow", settings.slow_workers, settings.slow_queue, settings.answer_seconds),
            Workers("jobs", settings.job_workers, settings.job_queue),
            provenance().version,
            Kept(COUNT_SECONDS),
        )

    async def ask(self, name: str, question: Callable[[OpenStudy], Answer], slow: bool = False) -> Answer:
        """What a study answers, from a thread.

        Raises
        ------
        ApiError
            What is wrong with the question or the study, as the study says it. 503: it takes too long.
        """

        def work() -> Answer:
            study = self.catalogue.opened(name)
            try:
                return question(study)
            except UserError as error:
                raise ApiError(422, study.without_place(str(error)), "refused") from error

        return await (self.slow if slow else self.quick).run(work)

    def close(self) -> None:
        self.quick.close()
        self.slow.close()
        self.jobs.close()


def _may_have_tokens(settings: ServiceSettings) -> bool:
    """On an object store there is no place for them unless one is named."""
    return settings.require_tokens or settings.tokens is not None or "://" not in settings.root


def service_of(request: Request) -> Service:
    found: Service = request.app.state.service
    return found


Own = Annotated[Service, Depends(service_of)]
Reader = Annotated[str, Depends(reader)]
Writer = Annotated[str, Depends(writer)]
StudyName = Annotated[str, Path(description="the study", min_length=1, max_length=200, examples=["yeast"])]


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Descriptions of the errors that a route answers, beside those of all routes."""
    always = (400, 401, 403, 408, 422, 500, 503)
    return {status: {"model": ErrorBody} for status in sorted({*always, *statuses})}
