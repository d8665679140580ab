"""What a person sees while a deliberation runs."""

import pytest

from parley.broker.core.phase_plan import PhaseKind
from parley.broker.core.tally import Outcome, Phase
from parley.live_picture import Progress
from tests.mirror.parley.test_display import Screen, tally


def test_progress_first_says_that_it_waits() -> None:
    screen = Screen()
    screen.console.print(Progress("t-1"))
    assert "t-1: waiting to be taken in" in screen.text


def test_progress_shows_each_agent_as_the_tally_has_it() -> None:
    progress, screen = Progress("t-1"), Screen()
    progress.tally = tally()
    screen.console.print(progress)
    assert "t-1: 2 of 3 agents have reported" in screen.text
    lines = [line.split() for line in screen.text.splitlines()[1:]]
    assert lines == [
        ["agent-dev-001", "answered"],
        ["agent-dev-002", "failed"],
        ["agent-dev-003", "thinking"],
    ]


@pytest.mark.parametrize(("height", "lines"), [(100, 22), (12, 10), (3, 3)])
def test_progress_of_a_great_many_agents_stays_on_the_screen(height: int, lines: int) -> None:
    progress, screen = Progress("t-1"), Screen()
    screen.console.height = height
    agents = tuple(f"agent-dev-{n:03d}" for n in range(1, 101))
    progress.tally = tally(phases=(Phase(number=1, agents=agents),))
    screen.console.print(progress)
    assert len(screen.text.splitlines()) == lines
    assert f"and {102 - lines} more" in screen.text


def test_progress_says_what_is_away() -> None:
    progress, screen = Progress("t-1"), Screen()
    progress.tally, progress.trouble = tally(), "NATS is gone"
    screen.console.print(progress)
    assert screen.text.splitlines()[-1].strip() == "NATS is gone"


def test_judges_vote_where_the_agents_were() -> None:
    progress, screen = Progress("t-1"), Screen()
    answers = tally().phase.model_copy(update={"closed_at": 1.0})
    panel = Phase(
        number=1, agents=("judge-001", "judge-002"), kind=PhaseKind.JUDGE,
        outcomes={"judge-001": Outcome(succeeded=True, seq=9, said="AB")},
    )  # fmt: skip
    progress.tally = tally(phases=(answers,), later_phases=(panel,))
    screen.console.print(progress)
    assert "t-1: 1 of 2 judges have voted" in screen.text
    lines = [line.split(maxsplit=1) for line in screen.text.splitlines()[1:]]
    assert lines[2:] == [["agent-dev-003", "not waited for"], ["judge-001", "voted"], ["judge-002", "voting"]]


def test_who_works_now_is_shown_before_those_who_have() -> None:
    progress, screen = Progress("t-1"), Screen()
    agents = tuple(f"agent-dev-{n:03d}" for n in range(1, 13))
    done = {agent: Outcome(succeeded=True, seq=seq) for seq, agent in enumerate(agents, 1)}
    answers = Phase(number=1, agents=agents, outcomes=done, closed_at=1.0)
    revising = Phase(number=2, agents=agents, kind=PhaseKind.REVISE)
    progress.tally = tally(phases=(answers,), later_phases=(revising,))
    screen.console.print(progress)
    lines = [line.split(maxsplit=1) for line in screen.text.splitlines()[1:]]
    assert lines[:8] == [[agent, "answered"] for agent in agents[4:]]
    assert lines[8:] == [*([f"{agent}/2", "revising"] for agent in agents), ["and", "4 more"]]
