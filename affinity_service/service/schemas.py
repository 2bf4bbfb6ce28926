"""Bodies of requests and answers, with the examples that the description of the interface shows."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field, model_validator

TaskName = Annotated[str, Field(min_length=1, max_length=500)]
# More tasks than any suite that was measured has.
MOST_TASKS = 5000
# No body has so many keys of its own.
MOST_KEYS = 50


def shows(**example: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [example]})


class Body(BaseModel):
    """What is sent: keys that are not known are errors.

    A body within its bound can hold hundreds of thousands of mistakes, and to word them all would keep every other
    request waiting: lists end at the first one, and of too many keys none is looked at.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _few_keys(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) > MOST_KEYS:
            raise ValueError(f"found {len(value)} keys; expected {', '.join(cls.model_fields)}")
        return value


def asks(**example: Any) -> ConfigDict:
    return ConfigDict(extra="forbid", allow_inf_nan=False, json_schema_extra={"examples": [example]})


class ErrorDetail(BaseModel):
    code: str
    message: str
    hint: str | None = None
    field: str | None = None


class ErrorBody(BaseModel):
    model_config = shows(error={"code": "not_found", "message": "no study `yeast`"})
    error: ErrorDetail


class Health(BaseModel):
    model_config = shows(status="ok")
    status: Literal["ok"]


class WhoAmI(BaseModel):
    model_config = shows(scope="local", version="0.1.0", can_submit=True)
    scope: Literal["read", "write", "local"]
    version: str
    can_submit: bool


Status = Literal["queued", "running", "finished", "failed", "cancelled", "unfinished"]
_SUMMARY = {
    "name": "yeast",
    "status": "running",
    "stage": "gradients",
    "tasks": 13,
    "created": "2026-01-31T12:00:00Z",
    "updated": "2026-01-31T12:00:41Z",
    "job": "yeast-1a2b3c4d",
    "message": None,
}


class Summary(BaseModel):
    model_config = shows(**_SUMMARY)
    name: str
    status: Status
    stage: str | None
    tasks: int | None
    created: str | None
    updated: str | None
    job: str | None
    message: str | None


class StageState(BaseModel):
    name: str
    state: Literal["done", "running", "waiting"]
    seconds: float | None
    done: int | None
    total: int | None
    text: str | None


_STAGES = [
    {"name": "base_model", "state": "done", "seconds": 21.4, "done": None, "total": None, "text": None},
    {"name": "gradients", "state": "running", "seconds": 3.2, "done": 4, "total": 9, "text": "shards"},
]


class Detail(Summary):
    model_config = shows(
        **_SUMMARY, stages=_STAGES, groups=False, fidelity=False, report=False, can_predict=False,
        why_not_predict="the affinities are not computed yet", unit="nats",
    )  # fmt: skip
    stages: list[StageState]
    groups: bool
    fidelity: bool
    report: bool
    can_predict: bool
    why_not_predict: str | None
    unit: str


class Studies(BaseModel):
    model_config = shows(studies=[_SUMMARY], next=None)
    studies: list[Summary]
    next: str | None


class NewStudy(Body):
    model_config = asks(name="yeast", config={"data": {"source": "yeast"}, "groups": {"k": 4}}, until="report")
    name: str | None = Field(None, description="the config's own name when absent", max_length=200)
    config: dict[str, Any] | str = Field(description="an object, or YAML text")
    until: str = Field("report", description="the last stage to run", max_length=50)


class Tasks(BaseModel):
    model_config = shows(tasks=[{"name": "Class1", "kind": "binary", "train": 1451, "train_positives": 460}], next=None)
    tasks: list[dict[str, Any]]
    next: str | None


class Affinity(BaseModel):
    model_config = shows(
        tasks=["a", "b"], affinity=[[-0.42, -0.40], [-0.55, -0.56]],
        standard_error=[[0.01, 0.004], [0.004, 0.01]], subsets=[[1, 12], [12, 1]], unit="nats",
        direction="higher is better; rows receive, columns give", centred=False,
    )  # fmt: skip
    tasks: list[str]
    affinity: list[list[float]]
    standard_error: list[list[float]]
    subsets: list[list[int]]
    unit: str
    direction: str
    centred: bool


class PredictBody(Body):
    model_config = asks(tasks=["Class1", "Class4"])
    tasks: Annotated[list[TaskName], FailFast()] = Field(min_length=1, max_length=MOST_TASKS)


class Prediction(BaseModel):
    task: str
    predicted_loss: float
    standard_error: float
    alone: float
    gain: float = Field(description="alone − predicted_loss, positive where company helps")


class Predictions(BaseModel):
    model_config = shows(
        unit="nats",
        predictions=[
            {"task": "Class1", "predicted_loss": 0.49, "standard_error": 0.01, "alone": 0.5, "gain": 0.01},
        ],
    )
    unit: str
    predictions: list[Prediction]


class PartnersBody(Body):
    model_config = asks(task="Class1", size=3)
    task: TaskName
    size: int = Field(3, ge=1, le=100)


class Partner(BaseModel):
    partner: str
    predicted_loss: float
    gain: float


class Partners(BaseModel):
    model_config = shows(
        task="Class1", alone=0.5, partners=[{"partner": "Class4", "predicted_loss": 0.49, "gain": 0.01}]
    )
    task: str
    alone: float
    partners: list[Partner]


NameSet = Annotated[list[TaskName], FailFast(), Field(min_length=1, max_length=MOST_TASKS)]
NameSets = Annotated[list[NameSet], FailFast(), Field(max_length=MOST_TASKS)]


class GroupsBody(Body):
    model_config = asks(k=4, method="sdp", must_link=[["Class1", "Class2"]])
    k: Annotated[int, Field(ge=1, le=MOST_TASKS)] | Literal["auto"] = "auto"
    method: Literal["sdp", "spectral", "agglomerative", "random", "direct"] = "sdp"
    seed: int = Field(0, ge=0, lt=1 << 32)
    min_size: int = Field(1, ge=1, le=MOST_TASKS)
    max_size: int | None = Field(None, ge=1, le=MOST_TASKS)
    must_link: NameSets = []
    cannot_link: NameSets = []


class Groups(BaseModel):
    model_config = shows(method="sdp", k=2, groups=[["a", "c"], ["b"]], objective=0.021, bound=0.022)
    method: str
    k: int
    groups: list[list[str]]
    objective: float | None
    bound: float | None


class NetworksBody(Body):
    model_config = asks(budget=3, method="direct")
    budget: int = Field(ge=1, le=MOST_TASKS)
    method: Literal["direct", "pairs"] = "direct"


class Networks(BaseModel):
    model_config = shows(
        networks=[["a", "b"], ["b", "c"]], served_by={"a": 0, "b": 0, "c": 1}, loss=0.47, bound=0.46, evaluated=40,
        settled=True,
    )  # fmt: skip
    networks: list[list[str]]
    served_by: dict[str, int]
    loss: float | None
    bound: float | None
    evaluated: int
    settled: bool


class ModelFile(BaseModel):
    path: str
    bytes: int


class Models(BaseModel):
    model_config = shows(models=[{"path": "base_model/model.safetensors", "bytes": 123456}])
    models: list[ModelFile]
