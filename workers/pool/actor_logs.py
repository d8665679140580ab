"""Actors' log lines: written in an actor's process as lines of JSON, which Ray carries to its driver, and logged again
there, in the dispatcher's own form, with their own time and level.

What an actor's process writes besides (a crash, a library's `print`) is logged as it is. Nothing is dropped, and
nothing is counted instead of repeated.
"""

import asyncio
import json
import logging
import sys
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from parley.workers.pool.worker_config import WorkerConfig
from parley.workers.pool.worker_process import WorkerActor

log = logging.getLogger("parley.workers")

# The loggers whose levels an actor takes over from its dispatcher: the root's and ours.
LOGGERS = ("", "parley")
# The first and the last line of an actor.
BEGUN, ENDED = "begun", "ended"
# How long the last lines of closed actors are waited for. Ray looks into its files every 0.1 s.
LAST_LINES_SECONDS = 2.0


def levels() -> dict[str, int]:
    """The levels that are in force here, by logger."""
    return {name: logging.getLogger(name).getEffectiveLevel() for name in LOGGERS}


class LoggingActor(WorkerActor):
    """A `WorkerActor` in a process of its own, whose log goes to its dispatcher."""

    def __init__(self, config: WorkerConfig, name: str, log_levels: Mapping[str, int]) -> None:
        # Ray carries what comes out here to the driver.
        self._output = sys.stderr
        for stream in (sys.stdout, self._output):
            _mark(name, BEGUN, stream)
        handler = logging.StreamHandler(self._output)
        handler.setFormatter(_AsJson(name))
        logging.getLogger().addHandler(handler)
        for logger, level in log_levels.items():
            logging.getLogger(logger).setLevel(level)
        super().__init__(config, name)

    async def close(self, unconfirmed: Sequence[str] = ()) -> None:
        """As WorkerActor's, and says in the log that it was the last."""
        await super().close(unconfirmed)
        _mark(self._name, ENDED, self._output)


def _mark(name: str, mark: str, stream: TextIO) -> None:
    print(json.dumps({"actor": name, "mark": mark}), file=stream, flush=True)


class _AsJson(logging.Formatter):
    """A record as one line, from which `_read` makes it again."""

    def __init__(self, actor: str) -> None:
        super().__init__()
        self._actor = actor

    def format(self, record: logging.LogRecord) -> str:
        traceback = self.formatException(record.exc_info) if record.exc_info else None
        fields = {
            "actor": self._actor,
            "time": record.created,
            "level": record.levelno,
            "logger": record.name,
        }
        return json.dumps({**fields, "message": record.getMessage(), "traceback": traceback})


class ActorLogs:
    """The dispatcher's end. `handle` takes what Ray says of one process's output; it runs in a thread of Ray's."""

    def __init__(self) -> None:
        # By pid and address, the name of the actor that began there. What a process wrote before is Ray's business: that
        # our code cannot be imported, say, which comes back as an error too.
        self._names: dict[tuple[object, object], str] = {}
        # The names of the actors whose last line has come.
        self._ended: set[str] = set()
        # Guards it, and tells of each new one.
        self._changed = threading.Condition()

    def handle(self, data: Mapping[str, Any]) -> None:
        if not data.get("job"):  # of Ray's own processes, for all drivers of the cluster
            return
        process = (data.get("pid"), data.get("ip"))
        for line in data.get("lines", ()):
            read = _read(str(line))
            if isinstance(read, logging.LogRecord):
                logger = logging.getLogger(read.name)
                if logger.isEnabledFor(read.levelno):
                    logger.handle(read)
            elif isinstance(read, _Mark):
                self._take(read, process)
            elif line.strip():
                self._pass_on(line, process)

    def _pass_on(self, line: str, process: tuple[object, object]) -> None:
        name = self._names.get(process)
        if name is not None:
            log.warning("%s wrote: %s", name, line)
        else:
            log.debug("process %s on %s wrote: %s", *process, line)

    def _take(self, mark: "_Mark", process: tuple[object, object]) -> None:
        if mark.text == BEGUN:
            self._names[process] = mark.actor
            return
        self._names.pop(process, None)
        with self._changed:
            self._ended.add(mark.actor)
            self._changed.notify_all()

    async def wait_ended(self, names: Collection[str]) -> None:
        """Wait until the last lines of these closed actors have come, for `LAST_LINES_SECONDS` at most."""
        await asyncio.to_thread(self._wait_ended, names)

    def _wait_ended(self, names: Collection[str]) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: self._have_ended(names), LAST_LINES_SECONDS):
                log.debug("the last log lines of some actors did not come")

    def _have_ended(self, names: Collection[str]) -> bool:
        return self._ended.issuperset(names)


@dataclass(frozen=True, slots=True)
class _Mark:
    """`text`: BEGUN or ENDED."""

    actor: str
    text: str


def _read(line: str) -> logging.LogRecord | _Mark | None:
    """What one of our actors logged, or that it has begun or ended; None for a line that is neither."""
    if not line.startswith('{"actor": '):
        return None
    try:
        fields = json.loads(line)
        if "mark" in fields:
            return _Mark(str(fields["actor"]), str(fields["mark"]))
        created, level = float(fields["time"]), int(fields["level"])
        record = {
            "name": str(fields["logger"]),
            "levelno": level,
            "levelname": logging.getLevelName(level),
            "created": created,
            "msecs": created % 1 * 1000,
            "msg": f"{fields['actor']}: {fields['message']}",
            "exc_text": fields["traceback"],
        }
    except (ValueError, KeyError, TypeError):
        return None
    return logging.makeLogRecord(record)
