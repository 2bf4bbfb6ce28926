"""Questions that a study answers without training: predictions, partners, groups, networks."""

from __future__ import annotations

import math
import time
from typing import Any

from fastapi import APIRouter

from affinity_service.errors import UserError
from affinity_service.service.context import Own, Reader, StudyName, answers
from affinity_service.service.errors import ApiError, not_found
from affinity_service.service.grouping_limits import check_groupable, check_links
from affinity_service.service.names import owns
from affinity_service.service.open_study import OpenStudy
from affinity_service.service.schemas import (
    Groups,
    GroupsBody,
    Networks,
    NetworksBody,
    Partners,
    PartnersBody,
    PredictBody,
    Predictions,
)

router = APIRouter(prefix="/v1/studies/{name}", tags=["questions"])
GROUPS = "groups.json"


@router.post("/predict", response_model=Predictions, responses=answers(404, 409, 413, 415))
async def predict(service: Own, _: Reader, name: StudyName, body: PredictBody) -> dict[str, Any]:
    """Each task's loss if a model were trained with exactly these."""
    begin = time.perf_counter()
    try:
        return await service.ask(name, lambda study: _predict(study, body.tasks))
    finally:
        service.metrics.predict.observe(time.perf_counter() - begin)


def _predict(study: OpenStudy, tasks: list[str]) -> dict[str, Any]:
    _check_predicts(study)

    def answer() -> dict[str, Any]:
        table = study.predict(tasks)
        rows = table.drop(columns="example_error").assign(gain=table["alone"] - table["predicted_loss"])
        return {"unit": table.attrs["unit"], "predictions": rows.to_dict("records")}

    return study.answered(("predict", *tasks), answer)


def _check_predicts(study: OpenStudy) -> None:
    why = study.why_not_predict()
    if why is not None:
        raise ApiError(409, f"this study predicts no losses: {why}", "cannot_predict")


@router.post("/partners", response_model=Partners, responses=answers(404, 409, 413, 415))
async def partners(service: Own, _: Reader, name: StudyName, body: PartnersBody) -> dict[str, Any]:
    """The tasks that help one most, each the best beside those before it."""

    def work(study: OpenStudy) -> dict[str, Any]:
        _check_predicts(study)

        def answer() -> dict[str, Any]:
            table = study.best_partners(body.task, body.size)
            return {"task": body.task, "alone": float(table.attrs["alone"]), "partners": table.to_dict("records")}

        return study.answered(("partners", body.task, body.size), answer)

    return await service.ask(name, work, slow=True)


@router.get("/groups", response_model=Groups, responses=answers(404, 409))
async def stored_groups(service: Own, _: Reader, name: StudyName) -> dict[str, Any]:
    """The groups that the study stored."""

    def work(study: OpenStudy) -> dict[str, Any]:
        if not owns(study.folder, GROUPS):
            raise not_found("the study has no groups yet", "no_groups")
        try:
            study.require("groups")
        except UserError as error:
            # A study that runs again with another config holds the old ones until it comes to them.
            raise ApiError(409, "the groups are not made yet, or belong to an earlier config", "not_ready") from error
        stored = study.folder.read_json(GROUPS)
        return {key: _finite(stored.get(key)) for key in ("method", "k", "groups", "objective", "bound")}

    return await service.ask(name, work)


@router.post("/groups", response_model=Groups, responses=answers(404, 409, 413, 415))
async def compute_groups(service: Own, _: Reader, name: StudyName, body: GroupsBody) -> dict[str, Any]:
    """Groups by these wishes; nothing is stored.

    422 `too_large` for a study of more tasks, or wishes for more links, than this service groups; 503 `deadline` where
    it takes longer than this service works on an answer.
    """

    def work(study: OpenStudy) -> dict[str, Any]:
        check_groupable(service.settings, len(study.tasks))
        check_links(service.settings, body, len(study.tasks))
        if body.method == "direct":
            _check_predicts(study)
        found = study.group(
            k=body.k,
            method=body.method,
            seed=body.seed,
            min_size=body.min_size,
            max_size=body.max_size,
            must_link=body.must_link,
            cannot_link=body.cannot_link,
        )
        return {
            "method": found.method,
            "k": len(found.tasks),
            "groups": found.tasks,
            "objective": _finite(found.objective),
            "bound": _finite(found.bound),
        }

    return await service.ask(name, work, slow=True)


@router.post("/networks", response_model=Networks, responses=answers(404, 409, 413, 415))
async def networks(service: Own, _: Reader, name: StudyName, body: NetworksBody) -> dict[str, Any]:
    """So many networks at most, each task served by the best of its own.

    422 `too_large` for a study of more tasks than this service groups; 503 `deadline` where it takes longer than this
    service works on an answer.
    """

    def work(study: OpenStudy) -> dict[str, Any]:
        check_groupable(service.settings, len(study.tasks))
        if body.method == "direct":
            _check_predicts(study)
        found = study.networks(body.budget, body.method)
        return {
            "networks": found.tasks,
            "served_by": found.served_by,
            "loss": _finite(found.loss),
            "bound": _finite(found.bound),
            "evaluated": int(found.evaluated),
            "settled": bool(found.settled),
        }

    return await service.ask(name, work, slow=True)


def _finite(value: Any) -> Any:
    """JSON knows neither NaN nor infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
