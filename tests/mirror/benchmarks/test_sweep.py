"""A sweep of what is no system at all: who is measured, and what happens to one that fails or cannot be started."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import pytest

from benchmarks import sweep
from benchmarks.medians import agent_costs, arrivals, medians
from benchmarks.points import Point
from benchmarks.sweep import Sweep, report
from benchmarks.turn import Turn


class Quick:
    def __init__(self, fails_from: int = 100) -> None:
        self._fails_from = fails_from

    async def deliberate(self, agents: int) -> None:
        if agents >= self._fails_from:
            raise RuntimeError("one answer is missing")
        await asyncio.sleep(0.001)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    @asynccontextmanager
    async def turn(name: str) -> AsyncIterator[Turn]:
        if name == "absent":
            raise ModuleNotFoundError(name="celery")
        yield Turn(Quick(fails_from=8 if name == "frail" else 100), Quick())

    monkeypatch.setattr(sweep, "turn", turn)
    monkeypatch.setattr(sweep, "cpu_seconds", lambda _, spent=count(): 0.01 * next(spent))
    return []


def swept(names: list[str], said: list[str]) -> Sweep:
    points = [Point(1, 3), Point(24, 8), Point(64, 3), Point(3, 64)]
    return Sweep(names, points, seconds=0.01, open_seconds=1.01, say=said.append)


async def test_every_system_is_measured_at_every_point(said: list[str]) -> None:
    found = await swept(["bare", "quick"], said).run(0)
    assert [(row["system"], row["concurrency"]) for row in found["points"]] == [
        (name, concurrency) for name in ("bare", "quick") for concurrency in (1, 24, 64, 3)
    ]
    assert found["open"] == []


async def test_one_that_cannot_be_started_is_skipped_once_and_for_all(said: list[str]) -> None:
    sweeping = swept(["absent", "bare"], said)
    for number in range(2):
        found = await sweeping.run(number)
        assert {row["system"] for row in found["points"]} == {"bare"}
    assert [text for text in said if "skipped" in text] == sweeping.skipped
    assert len(sweeping.skipped) == 1


async def test_one_that_fails_keeps_what_it_has_and_the_others_go_on(said: list[str]) -> None:
    sweeping = swept(["frail", "bare"], said)
    found = await sweeping.run(0)
    assert [row["concurrency"] for row in found["points"] if row["system"] == "frail"] == [1]
    assert len([row for row in found["points"] if row["system"] == "bare"]) == 4
    assert sweeping.failures == ["run 1, frail: RuntimeError one answer is missing"]


async def test_parley_and_the_bare_loop_meet_the_same_arrivals(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "schedule", lambda *_, **__: [0.0, 1.0, 1.005])
    found = await swept(["parley"], said).run(0)
    best = max(row["deliberations_per_second"] for row in found["points"] if row["agents"] == 3)
    assert [row["share"] for row in found["open"]] == list(sweep.SHARES)
    for row in found["open"]:
        for name in ("parley", "bare"):
            assert (row[name]["rate"], row[name]["deliberations"]) == (row["share"] * best, 2)


async def test_a_report_has_a_line_for_every_median(said: list[str]) -> None:
    runs: list[dict[str, Any]] = [await swept(["bare"], said).run(0)]
    found = {
        "medians": medians(runs),
        "arrivals": arrivals(runs),
        "cost_of_an_agent": agent_costs(runs),
    }
    lines = report(found).splitlines()
    assert [line.split()[:3] for line in lines[1:5]] == [
        ["bare", "1", "3"],
        ["bare", "24", "8"],
        ["bare", "64", "3"],
        ["bare", "3", "64"],
    ]
    assert lines[-1].startswith("bare: an agent of 64 costs ")
