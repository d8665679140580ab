"""What is said of a peer that cannot be measured: one line, with what would change it."""

import shutil
from pathlib import Path

import pytest

from benchmarks.peers.redis_server import redis_server
from benchmarks.peers.skipped import LIBRARIES, REDIS, Skipped, line


def test_a_missing_library_is_named_with_what_installs_it() -> None:
    error = ModuleNotFoundError("No module named 'celery'", name="celery")
    assert line("celery", error) == f"celery is skipped: celery is not installed; try: {LIBRARIES}"


def test_a_missing_server_is_named_with_what_installs_it() -> None:
    error = Skipped("redis-server is not installed", REDIS)
    assert line("dramatiq", error) == f"dramatiq is skipped: redis-server is not installed; try: {REDIS}"


def test_whatever_else_went_wrong_is_one_line_too() -> None:
    told = line("taskiq", RuntimeError("its worker exited with 1:\n  Traceback\n" + 500 * "x"))
    assert told.startswith(
        "taskiq is skipped: it did not start (RuntimeError: its worker exited with 1: Traceback xxx"
    )
    assert "\n" not in told
    assert len(told) < 400
    assert line("taskiq", TimeoutError()).startswith("taskiq is skipped: it did not start (TimeoutError)")


async def test_without_a_redis_server_nothing_is_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(Skipped, match="redis-server is not installed"):
        async with redis_server(tmp_path):
            pytest.fail("there is none")
