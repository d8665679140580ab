"""What an actor logs is logged by its dispatcher: with its time and level, and once for each time it was logged."""

import asyncio
import io
import json
import logging
import sys
import time
from collections.abc import Iterator

import pytest

from parley.workers.model.call_policy import CallTimeouts, RetryPolicy
from parley.workers.pool import actor_logs
from parley.workers.pool.actor_logs import ActorLogs, LoggingActor
from parley.workers.pool.worker_config import WorkerConfig

CONFIG = WorkerConfig("nats://127.0.0.1:1", (), "m", CallTimeouts(), RetryPolicy(), False, 1, 30.0, 1.0)
NAME = "parley-host-1-1.1"


class Written(io.StringIO):
    """What `actor` has written."""

    actor: LoggingActor

    @property
    def lines(self) -> list[str]:
        """Without the mark at the beginning."""
        return self.getvalue().splitlines()[1:]


@pytest.fixture
def actors_end(monkeypatch: pytest.MonkeyPatch) -> Iterator[Written]:
    """An actor in this process, and what it writes. Loggers are as they were afterwards."""
    written, root = Written(), logging.getLogger()
    monkeypatch.setattr(sys, "stderr", written)
    before = {name: logging.getLogger(name).level for name in ("", "parley")}
    handlers = list(root.handlers)
    written.actor = LoggingActor(CONFIG, NAME, {"": logging.WARNING, "parley": logging.INFO})
    yield written
    root.handlers[:] = handlers
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


def output(*lines: str, job: str | None = "01000000") -> dict[str, object]:
    """As Ray brings it."""
    return {"lines": list(lines), "job": job, "pid": 7, "ip": "10.0.0.1", "is_err": True}


def test_a_record_is_one_line_and_comes_back_with_its_time_and_level(
    actors_end: Written, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("parley.workers").warning("two\nlines, %d%%", 5)
    try:
        _ = dict[str, str]()["absent"]
    except KeyError:
        logging.getLogger("asyncio").exception("bug")
    logging.getLogger("parley.workers").debug("too low")
    logging.getLogger("nats").info("too low")
    first, second = actors_end.lines
    caplog.clear()
    ActorLogs().handle(output(first, second))
    warned, failed = caplog.records
    assert (warned.name, warned.levelname) == ("parley.workers", "WARNING")
    assert warned.getMessage() == f"{NAME}: two\nlines, 5%"
    assert abs(warned.created - time.time()) < 5
    assert warned.created == json.loads(first)["time"]
    assert (failed.name, failed.levelname, failed.getMessage()) == ("asyncio", "ERROR", f"{NAME}: bug")
    assert "KeyError: 'absent'" in (failed.exc_text or "")
    assert logging.Formatter().format(failed).count("Traceback") == 1


def test_a_level_that_is_not_asked_for_here_is_not_shown(
    actors_end: Written, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("parley.workers").info("quiet")
    caplog.clear()
    with caplog.at_level(logging.WARNING, "parley"):
        ActorLogs().handle(output(*actors_end.lines))
    assert caplog.records == []


JUNK = {
    "a crash": "Fatal Python error: Segmentation fault",
    "JSON of a library": '{"level": "info"}',
    "nearly ours": '{"actor": "x", "time": "never"}',
    "cut off": '{"actor": "x", "time": 1.0, "lev',
    "no object": '{"actor": ',
}


@pytest.mark.parametrize("line", JUNK.values(), ids=JUNK)
def test_what_else_the_process_wrote_is_not_lost(line: str, caplog: pytest.LogCaptureFixture) -> None:
    logs = ActorLogs()
    with caplog.at_level(logging.INFO):
        logs.handle(output(line))
        assert caplog.records == [], "the process was none of ours yet: Ray raises what is wrong with it"
        logs.handle(output(json.dumps({"actor": NAME, "mark": "begun"}), line, "", line))
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2, "repeated, and each is told"
    assert all(record.getMessage() == f"{NAME} wrote: {line}" for record in caplog.records)


def test_what_rays_own_processes_write_is_not_ours(caplog: pytest.LogCaptureFixture) -> None:
    ActorLogs().handle(output("a node joined", job=None))
    assert caplog.records == []


async def test_the_last_lines_of_closed_actors_are_waited_for(
    actors_end: Written, caplog: pytest.LogCaptureFixture
) -> None:
    logs = ActorLogs()
    await actors_end.actor.close()
    waiting = asyncio.create_task(logs.wait_ended([NAME]))
    await asyncio.sleep(0)
    assert not waiting.done()
    await asyncio.to_thread(logs.handle, output(*actors_end.lines))
    await waiting
    assert logs._have_ended([NAME]), actors_end.lines
    assert caplog.records == [], "it is a mark, and no line for people"


async def test_last_lines_that_do_not_come_are_waited_for_in_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actor_logs, "LAST_LINES_SECONDS", 0.05)
    await ActorLogs().wait_ended(["killed"])
