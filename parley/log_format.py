"""How log lines look: as text, or as one JSON object a line (`PARLEY_LOG_FORMAT=json`)."""

import json
import logging
import time
import traceback
from typing import Literal

LogFormat = Literal["text", "json"]
# What every record has; anything else was given by `extra` and becomes a field of the JSON object.
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def formatter(log_format: LogFormat) -> logging.Formatter:
    return _Json() if log_format == "json" else _Text("%(asctime)s %(levelname)s %(name)s %(message)s")


class _Text(logging.Formatter):
    """Formats the local time of a second once: two lines a deliberation would otherwise cost twice as much."""

    def __init__(self, shape: str) -> None:
        super().__init__(shape)
        # The second formatted last, since the epoch, and its text.
        self._second = -1
        self._shown = ""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802 - logging's method
        second = int(record.created)
        if second != self._second:
            self._second = second
            self._shown = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
        return f"{self._shown},{int(record.msecs):03d}"


class _Json(logging.Formatter):
    """`time` (RFC 3339, UTC), `level`, `logger`, `message`, `error` (a traceback), and what `extra` gave."""

    def format(self, record: logging.LogRecord) -> str:
        second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields: dict[str, object] = {
            "time": f"{second}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields.update(
            (name, value)
            for name, value in record.__dict__.items()
            # Ray stamps each record with a private field.
            if name not in _STANDARD | set(fields) and not name.startswith("_")
        )
        if record.exc_info and record.exc_info[0] is not None:
            fields["error"] = "".join(traceback.format_exception(*record.exc_info))
        elif record.exc_text:  # of an actor, in another process
            fields["error"] = record.exc_text
        return json.dumps(fields, default=str)
