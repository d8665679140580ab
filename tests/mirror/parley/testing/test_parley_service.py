"""The fixture, as a program's own tests use it. These tests have no event loop."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

import parley
from parley.testing import Asked, RunningService


def test_the_agents_say_what_the_test_wants(parley_service: RunningService) -> None:
    parley_service.model.answer("one", "two")
    ending = parley_service.client.deliberate("Why?", agents=3)
    assert isinstance(ending, parley.DeliberationCompleted)
    assert sorted(result.proposal.content for result in ending.results) == ["one", "two", "two"]
    assert len(parley_service.model.asked) == 3
    assert "Why?" in parley_service.model.asked[0].question


def test_each_test_finds_it_as_new(parley_service: RunningService) -> None:
    assert parley_service.model.asked == []
    ending = parley_service.client.deliberate("x", agents=1)
    assert "simulated" in ending.results[0].proposal.content


def test_an_answer_may_depend_on_the_question(parley_service: RunningService) -> None:
    def by(asked: Asked) -> str:
        return "yes" if "cats" in asked.question else "no"

    parley_service.model.answer_with(by)
    assert parley_service.client.deliberate("cats?", agents=1).results[0].proposal.content == "yes"
    assert parley_service.client.deliberate("dogs?", agents=1).results[0].proposal.content == "no"


def test_judges_choose_without_a_script(parley_service: RunningService) -> None:
    parley_service.model.answer("a", "b", "c")
    ending = parley_service.client.deliberate("x", agents=3, select="judge")
    assert isinstance(ending, parley.DeliberationCompleted)
    assert ending.answer in ("a", "b", "c")
    assert sum(asked.is_of_judge for asked in parley_service.model.asked) == 3


def test_faults_come_as_they_are_asked_for(parley_service: RunningService) -> None:
    parley_service.model.fail("503", "ok")
    assert not parley_service.client.deliberate("x", agents=1).failed_agents  # it was asked again
    parley_service.model.fail_always("400")
    assert parley_service.client.deliberate("x", agents=2).status == "failed"
    for fail in (parley_service.model.fail, parley_service.model.fail_always):
        with pytest.raises(ValueError, match="no such fault: 418"):
            fail("418")


def test_a_deadline_comes_when_the_clock_is_turned(parley_service: RunningService) -> None:
    parley_service.model.take(600)
    job = parley_service.client.submit("x", agents=1, timeout_seconds=300)
    later = parley_service.client.submit("x", agents=1, timeout_seconds=3_600)
    began = time.monotonic()
    parley_service.turn_clock(301)
    assert job.ending(timeout=1).status == "timeout"
    assert time.monotonic() - began < 10
    assert later.status().status in ("PENDING", "IN_PROGRESS")


def test_nothing_of_the_test_before_runs(parley_service: RunningService) -> None:
    assert [tally.task_id for tally in parley_service.client.tallies() if not tally.ended] == []


async def test_an_asynchronous_program_asks_it_too(parley_service: RunningService) -> None:
    parley_service.model.answer("42")
    async with parley.connect(parley_service.url) as client:
        assert (await client.deliberate("x", agents=1)).results[0].proposal.content == "42"


def test_a_project_of_its_own_has_the_fixture_within_three_seconds(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(
        "def test_mine(parley_service):\n"
        "    parley_service.model.answer('42')\n"
        "    assert parley_service.client.deliberate('x', agents=1).results[0].proposal.content == '42'\n"
    )
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:asyncio", "-W", "error", "--durations=3", "--durations-min=0", str(tmp_path)],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "1 passed" in ran.stdout, ran.stdout + ran.stderr
    setup = next(line for line in ran.stdout.splitlines() if " setup " in line)
    assert float(setup.partition("s")[0]) < 3.0 * 2  # a machine that others use, too
