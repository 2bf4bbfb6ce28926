"""The affinity matrix, as JSON, CSV or Arrow."""

from __future__ import annotations

import io
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.csv as pa_csv
from fastapi import APIRouter, Header, Query
from starlette.responses import Response

from affinity_service.grouping import centre_rows
from affinity_service.service.context import Own, Reader, StudyName, answers
from affinity_service.service.errors import JSON, ApiError
from affinity_service.service.open_study import OpenStudy
from affinity_service.service.schemas import Affinity
from affinity_service.tasks.units import loss_unit

router = APIRouter(prefix="/v1/studies/{name}", tags=["affinity"])
TYPES = {"json": "application/json", "csv": "text/csv", "arrow": "application/vnd.apache.arrow.stream"}
Layout = Literal["long", "wide"]
DIRECTION = "higher is better; rows receive, columns give"
COLUMNS = ["receiver", "source", "affinity", "standard_error", "subsets", "pair_estimate"]
# As JSON, so many tasks are 60 MB.
MOST_AS_JSON = 1000


@router.get(
    "/affinity",
    response_class=Response,
    responses={
        **answers(404, 406, 409),
        200: {
            "model": Affinity,
            "content": {kind: {"schema": {"type": "string"}} for kind in list(TYPES.values())[1:]},
        },
    },
)
async def get_affinity(
    service: Own,
    _: Reader,
    name: StudyName,
    form: Annotated[Literal["json", "csv", "arrow"] | None, Query(alias="format")] = None,
    layout: Annotated[
        Literal["long", "wide"], Query(description="of Arrow: a row a pair, or a column a source")
    ] = "long",
    centred: Annotated[bool, Query(description="of JSON: each row minus its mean over partners")] = False,
    accept: Annotated[str | None, Header()] = None,
) -> Response:
    """Rows receive, columns give; the diagonal is the task alone."""
    wanted = form or _accepted(accept)
    if wanted == "json":
        content = await service.ask(name, lambda study: _json(study, centred))
    elif wanted == "csv":
        content = await service.ask(name, _csv)
    else:
        content = await service.ask(name, lambda study: _arrow(study, layout))
    return Response(content, media_type=TYPES[wanted])


def _accepted(accept: str | None) -> str:
    """The first of our types that the header names; JSON where it takes anything."""
    for part in (accept or "*/*").lower().split(","):
        kind = part.partition(";")[0].strip()
        for form, own in TYPES.items():
            if kind in (own, "*/*", f"{own.partition('/')[0]}/*"):
                return form
    raise ApiError(406, f"expected one of {', '.join(TYPES.values())}", "not_acceptable", field="Accept")


def _json(study: OpenStudy, centred: bool) -> bytes:
    if len(study.tasks) > MOST_AS_JSON:
        raise ApiError(
            422, f"{len(study.tasks)} tasks are too many for JSON", "too_large", "use format=arrow or csv", "format"
        )
    matrix = study.matrix()
    values = centre_rows(matrix.affinity) if centred else matrix.affinity
    errors = matrix.contrast_error() if centred else matrix.standard_error
    content: dict[str, Any] = {
        "tasks": list(matrix.names),
        "affinity": values.tolist(),
        "standard_error": errors.tolist(),
        "subsets": matrix.subsets.tolist(),
        "unit": loss_unit(task.kind for task in study.suite_tasks),
        "direction": DIRECTION,
        "centred": centred,
    }
    return bytes(JSON(content).body)


def _csv(study: OpenStudy) -> bytes:
    stream = io.BytesIO()
    pa_csv.write_csv(study.matrix().to_table().select(COLUMNS), stream)
    return stream.getvalue()


def _arrow(study: OpenStudy, layout: str) -> bytes:
    """An IPC stream; compressed buffers, which every reader of the format knows, as names repeat."""
    matrix = study.matrix()
    if layout == "long":
        table = matrix.to_table().select(COLUMNS)
    else:
        columns = [pa.array(matrix.names, pa.string()), *(pa.array(column) for column in matrix.affinity.T)]
        table = pa.Table.from_arrays(columns, names=["receiver", *matrix.names])
    stream = io.BytesIO()
    with pa.ipc.new_stream(stream, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(table)
    return stream.getvalue()
