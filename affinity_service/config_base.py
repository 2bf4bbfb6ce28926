"""What every section of the config shares: unknown keys are refused.

A field marked ``execution`` says where and how fast the work is done, never what comes out, so it stays out of
the fingerprints: changing it does not run a finished stage again.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


def Execution(default: Any, **constraints: Any) -> Any:
    """A field that changes speed or placement only."""
    return Field(default, json_schema_extra={"execution": True}, **constraints)


class StageConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def fingerprint_part(self) -> dict[str, Any]:
        """What decides the stage's result: every field but those marked ``execution``."""
        execution = {
            name
            for name, field in type(self).model_fields.items()
            if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("execution")
        }
        return self.model_dump(mode="json", exclude=execution)
