"""Structured logs over the standard library: one line a record, as text or JSON, and the wording that operators grep for.

log = logging.getLogger("fog.node")
log.info("task started", extra=fields(task="t1", placement=2))

2026-01-31T12:00:00.250Z info node task started task=t1 placement=2
{"time": "2026-01-31T12:00:00.250Z", "level": "info", "component": "node", "message": "task started", "task": "t1", …}
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from typing import Any

from schemas.errors import BadInput

LEVELS = ("debug", "info", "warning", "error")
LINE_MAX = 4_000  # characters of one record's message, and of one field; what users send must not flood a log

# These begin, or are, lines that operators' scripts look for: keep the wording.
DEPLOYMENT_FAILED = "Deployment failed"
MEMORY_EXCEEDED = "Memory allocation exceeded"


def device_failed(node: str) -> str:
    """A node is lost, or its daemon ended."""
    return f"Device {node} failed"


def thermal_throttle(source: str) -> str:
    """Work is slowed for heat, read from the sensor `source`."""
    return f"thermal {source}: throttle"


def fields(**values: object) -> dict[str, object]:
    """The `extra` of a log call: `values` are written as key=value, or as members of the JSON object."""
    return {"fields": values}


def setup(component: str, level: str = "", as_json: bool | None = None) -> None:
    """Send this process's log to stderr. `component` names it (``coordinator``, ``node``).

    Where not given, `level` is FOG_LOG_LEVEL or info, and `as_json` whether FOG_LOG_JSON is set. Raises BadInput.
    """
    chosen = (level or os.environ.get("FOG_LOG_LEVEL", "") or "info").lower()
    if chosen not in LEVELS:
        raise BadInput("log level", f"{chosen!r:.40} is none of {', '.join(LEVELS)}")
    json_wanted = bool(os.environ.get("FOG_LOG_JSON")) if as_json is None else as_json
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(component) if json_wanted else TextFormatter(component))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(chosen.upper())
    logging.raiseExceptions = False  # a reader of stderr that went away must not add tracebacks


class TextFormatter(logging.Formatter):
    """``time level component message key=value…``; a traceback follows on lines of its own."""

    def __init__(self, component: str) -> None:
        super().__init__()
        self._component = component

    def format(self, record: logging.LogRecord) -> str:
        """One record."""
        head = f"{_time(record)} {record.levelname.lower()} {self._component} {_one_line(record.getMessage())}"
        line = " ".join([head, *(f"{key}={_quoted(value)}" for key, value in _fields(record).items())])
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, component, message, the fields, and `traceback` where there is one."""

    def __init__(self, component: str) -> None:
        super().__init__()
        self._component = component

    def format(self, record: logging.LogRecord) -> str:
        """One record."""
        entry: dict[str, Any] = {key: _plain(value) for key, value in _fields(record).items()}
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        head = {"time": _time(record), "level": record.levelname.lower(), "component": self._component}
        return json.dumps(head | {"message": record.getMessage()[:LINE_MAX]} | entry, ensure_ascii=False)


def _time(record: logging.LogRecord) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"


def _fields(record: logging.LogRecord) -> dict[str, object]:
    given = getattr(record, "fields", None)
    return given if isinstance(given, dict) else {}


def _one_line(text: str) -> str:
    # A line break in a value from outside would let it forge a record.
    return text[:LINE_MAX].replace("\r", "\\r").replace("\n", "\\n")


def _quoted(value: object) -> str:
    text = _one_line(str(value))
    return json.dumps(text, ensure_ascii=False) if not text or any(c in text for c in ' "=') else text


def _plain(value: object) -> object:
    return value if value is None or isinstance(value, bool | int | float) else str(value)[:LINE_MAX]
