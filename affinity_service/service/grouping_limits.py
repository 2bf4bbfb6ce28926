"""What may be grouped for a request: the steps between which a deadline is looked at grow with tasks and links."""

from __future__ import annotations

from affinity_service.service.errors import ApiError
from affinity_service.service.schemas import GroupsBody, NameSets
from affinity_service.service.settings import ServiceSettings


def check_groupable(settings: ServiceSettings, tasks: int) -> None:
    """
    Raises
    ------
    ApiError
        422: the study has too many tasks.
    """
    if tasks > settings.most_grouped:
        raise ApiError(
            422,
            f"the study has {tasks} tasks; for a request this service groups {settings.most_grouped} at most",
            "too_large",
            "`affinity group`, `affinity networks` and Python on the study's folder set no limit",
        )


def check_links(settings: ServiceSettings, body: GroupsBody, tasks: int) -> None:
    """Bound the pairs of `must_link`, which are listed, and those of `cannot_link`, each a row per group of an integer
    programme.

    Raises
    ------
    ApiError
        422: there are too many.
    """
    groups = tasks if body.k == "auto" else body.k
    _check("must_link", body.must_link, settings.most_links)
    _check("cannot_link", body.cannot_link, settings.most_links // groups)


def _check(field: str, sets: NameSets, most: int) -> None:
    pairs = sum(len(own) * (len(own) - 1) // 2 for own in sets)
    if pairs > most:
        raise ApiError(
            422,
            f"{field}: found {pairs} pairs of tasks; expected {most} at most",
            "too_large",
            "name fewer or smaller sets; the smaller k, the more tasks can be kept apart",
            field,
        )
