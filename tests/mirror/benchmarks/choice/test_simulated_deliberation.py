"""A simulated deliberation does what `react` asks for, and nothing else."""

from collections.abc import Sequence

import pytest

from benchmarks.choice import simulated_deliberation
from benchmarks.choice.simulated_deliberation import PromptlyReporting, Report, deliberate
from benchmarks.choice.trials import is_late
from parley.broker.core.events_and_effects import ArmDeadline, Event
from parley.broker.core.messages import agent_id
from parley.broker.core.phase_plan import Select
from parley.broker.core.reactions import Reaction, react
from parley.broker.core.tally import ChoiceStatus, ClosedBy, Tally

BEST = agent_id("DEV", 2)


def prefer_the_best(_: str, shown: Sequence[str]) -> str:
    order = sorted(range(len(shown)), key=lambda place: shown[place] != BEST)
    return "".join("ABCDEFGH"[place] for place in order)


class Slow:
    """The first agent answers after 100 s, judges never."""

    def answer(self, agent: str) -> Report:
        return Report(said=agent, seconds=100.0 if agent == agent_id("DEV", 1) else 1.0)

    def judge(self, judge: str, shown: Sequence[str]) -> None:
        return None

    def revise(self, agent: str, shown: Sequence[str]) -> None:
        raise AssertionError(f"{agent} has one round")

    def edit(self, winner: str) -> None:
        raise AssertionError(f"{winner} was never chosen")


def test_judges_elect_what_they_all_prefer() -> None:
    tally = deliberate(PromptlyReporting(prefer_the_best), "t", agents=5)
    assert tally.choice is not None
    assert (tally.choice.winner, tally.choice.status) == (BEST, ChoiceStatus.DECIDED)


def test_votes_are_counted() -> None:
    keys = {agent_id("DEV", number): key for number, key in enumerate(("7", "8", "8"), 1)}
    tally = deliberate(PromptlyReporting(lambda *_: None, keys), "t", agents=3, select=Select.VOTE)
    assert tally.choice is not None
    assert tally.choice.scores[BEST] == "2/3"


def test_phases_close_by_their_alarms() -> None:
    tally = deliberate(Slow(), "t", agents=3, timeout_seconds=60.0)
    assert [phase.closed_by for phase in tally.all_phases] == [ClosedBy.LIMIT, ClosedBy.DEADLINE]
    assert tally.phases[0].missing == (agent_id("DEV", 1),)
    assert tally.verdict is not None
    assert tally.verdict.decided_at == 60.0


def test_without_alarms_it_ends_late(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(tally: Tally | None, event: Event, now: float) -> Reaction:
        reaction = react(tally, event, now)
        effects = tuple(each for each in reaction.effects if not isinstance(each, ArmDeadline))
        return Reaction(reaction.tally, effects)

    monkeypatch.setattr(simulated_deliberation, "react", forgetful)
    assert is_late(deliberate(Slow(), "t", agents=3))
