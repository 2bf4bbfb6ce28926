"""Logs for machines: a JSON object per line, each with the study, the stage and Ray's job that it belongs to.

The keys are those of Ray's own JSON logs, so that lines of the driver, of its workers and of Ray itself go into one
index. Workers write through Ray's formatter (``engine/session.py`` asks for it); study and stage are stamped on.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from typing import TextIO

from affinity_service.errors import UserError

# A variable, so that submitted jobs and workers have it too.
FORMAT = "AFFINITY_LOG_FORMAT"
FORMATS = ("text", "json")
_TEXT = "%(asctime)s %(levelname)s %(message)s"
_KEYS = ("study", "stage", "job_id")
_stamps: dict[str, str] = {}


def wants_json() -> bool:
    """Raises UserError where the variable names no format."""
    return log_format(os.environ.get(FORMAT) or FORMATS[0]) == "json"


def log_format(name: str) -> str:
    if name not in FORMATS:
        raise UserError(f"--log-format, or {FORMAT}: found {name!r}; expected {' or '.join(FORMATS)}")
    return name


def stamp(**values: str) -> None:
    """Put study, stage or job_id on every record of this process from now on, where logs are JSON."""
    assert set(values) <= set(_KEYS), values
    _stamps.update(values)
    if wants_json():
        for handler in (*logging.getLogger().handlers, *logging.getLogger("ray").handlers):
            handler.addFilter(_put_stamps)  # once, however often it is asked


def stamps() -> dict[str, str]:
    """Study and stage that this process works for, to be put on in the processes that help it."""
    return {key: value for key, value in _stamps.items() if key != "job_id"}


def _put_stamps(record: logging.LogRecord) -> bool:
    """What a record says of itself stands."""
    for key, value in _stamps.items():
        record.__dict__.setdefault(key, value)
    return True


class JsonFormatter(logging.Formatter):
    """One line per record whatever is in it."""

    def format(self, record: logging.LogRecord) -> str:
        content = {
            "asctime": self.formatTime(record),
            "levelname": record.levelname,
            "message": record.getMessage(),
            "name": record.name,
            "filename": record.filename,
            "lineno": record.lineno,
            "process": record.process,
            **{key: record.__dict__[key] for key in _KEYS if key in record.__dict__},
            "timestamp_ns": int(record.created * 1e9),
        }
        if record.exc_info:
            content["exc_text"] = self.formatException(record.exc_info)
        return json.dumps(content, ensure_ascii=False)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        return f"{whole}.{int(record.msecs):03d}Z"


def begin_logging(stream: TextIO | None = None) -> None:
    """Set the process's log up, on standard error, in the format that the variable asks for."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if wants_json() else logging.Formatter(_TEXT))
    # An application that has its log set up already keeps it.
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    if wants_json():
        logging.captureWarnings(True)
