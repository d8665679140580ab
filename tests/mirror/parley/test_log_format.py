"""Log lines as text and as JSON."""

import json
import logging
import sys
import time

import pytest

from parley.log_format import LogFormat, formatter


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.getLogger("parley.tests").makeRecord(
        "parley.tests", logging.INFO, "file.py", 1, message, (), None, extra=extra
    )
    made.created, made.msecs = 1_767_225_600.25, 250.0  # 2026-01-01, midnight in UTC
    return made


@pytest.mark.parametrize("message", ["plain", 'with "quotes" and a\nline feed', "ß ☃"])
def test_a_line_of_json_is_one_object(message: str) -> None:
    line = formatter("json").format(record(message, task_id="d-1", agents=3))
    assert len(line.splitlines()) == 1
    assert json.loads(line) == {
        "time": "2026-01-01T00:00:00.250Z", "level": "INFO", "logger": "parley.tests", "message": message,
        "task_id": "d-1", "agents": 3,
    }  # fmt: skip


def test_what_json_cannot_hold_is_its_text() -> None:
    assert json.loads(formatter("json").format(record("x", kind=Exception)))["kind"] == "<class 'Exception'>"


def test_an_error_has_its_traceback_in_one_field() -> None:
    try:
        raise ValueError("no luck")  # noqa: TRY301 - it is what is shown
    except ValueError:
        failed = record("failed")
        failed.exc_info = sys.exc_info()
    line = formatter("json").format(failed)
    assert len(line.splitlines()) == 1
    assert "ValueError: no luck" in json.loads(line)["error"]


def test_an_error_of_another_process_has_its_traceback_too() -> None:
    failed = record("failed")
    failed.exc_text = "Traceback …\nValueError: no luck"
    assert json.loads(formatter("json").format(failed))["error"] == failed.exc_text
    assert formatter("text").format(failed).endswith(failed.exc_text)


def test_a_private_stamp_of_a_library_is_left_out() -> None:
    stamped = record("x")
    stamped.__dict__["_ray_timestamp_ns"] = 1
    assert "_ray_timestamp_ns" not in formatter("json").format(stamped)


def test_no_extra_field_replaces_one_of_the_line() -> None:
    assert json.loads(formatter("json").format(record("x", time="never", level="none")))["level"] == "INFO"


def test_text_has_the_local_time_with_milliseconds() -> None:
    local = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(1_767_225_600))
    shape = formatter("text")
    for _ in range(2):
        assert shape.format(record("hello")) == f"{local},250 INFO parley.tests hello"


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_the_time_of_each_line_is_its_own(log_format: LogFormat) -> None:
    shape, later = formatter(log_format), record("x")
    later.created += 1
    assert shape.format(record("x")) != shape.format(later)
