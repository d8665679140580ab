"""One deliberation on a virtual clock, decided by the code that runs: `react` says what is to be done, and it is done
here. Agents and judges are simulated (`Members`). Nothing else is: no shortcut leads around an effect, so a phase whose
alarm is not armed never closes. Pure.
"""

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from parley.broker.core import choice
from parley.broker.core.events_and_effects import (
    ArmDeadline,
    DeadlineReached,
    Effect,
    PublishEnding,
    Reported,
    RequestAgents,
    Requested,
    StopAgents,
)
from parley.broker.core.messages import ErrorType
from parley.broker.core.phase_plan import COMPARING, PhaseKind, Select, plan
from parley.broker.core.reactions import react
from parley.broker.core.tally import Tally

ROLE = "DEV"


@dataclass(frozen=True, slots=True)
class Report:
    """What an agent or a judge reports, `seconds` after it was asked. `said`: as in `Outcome`."""

    said: str | None = None
    error_type: ErrorType | None = None
    seconds: float = 0.0


class Members(Protocol):
    """Who answers, judges and edits. None: never reports."""

    def answer(self, agent: str) -> Report | None: ...

    def judge(self, judge: str, shown: Sequence[str]) -> Report | None:
        """`shown`: the agents whose answers this judge is shown, in its order."""

    def revise(self, agent: str, shown: Sequence[str]) -> Report | None:
        """The agent's answer in the second round. `shown`: as for `judge`."""

    def edit(self, winner: str) -> Report | None:
        """The editor's answer. `winner`: whose answer was chosen, which no editor is told."""


@dataclass(slots=True)
class Deliberation:
    """`run` ends with a tally that is decided, or, if nothing is left that could decide it, with one that is not."""

    members: Members
    tally: Tally | None = None
    # Reports on their way: when, their number, and where they come from.
    reports: list[tuple[float, int, Reported]] = field(default_factory=list)
    # Work that was requested: the same again is dropped by its Msg-Id.
    asked: set[tuple[int, PhaseKind, str]] = field(default_factory=set)
    alarm: float | None = None
    number: int = 0
    published: bool = False

    def run(self, request: Requested) -> Tally:
        first = react(None, request, request.at)
        self._take(first.tally, first.effects, request.at)
        while not self.published and (self.reports or self.alarm is not None):
            now, event = self._next()
            reaction = react(self.tally, event, now)
            self._take(reaction.tally, reaction.effects, now)
        assert self.tally is not None, "a request is always recorded"
        return self.tally

    def _next(self) -> tuple[float, Reported | DeadlineReached]:
        if self.alarm is not None and (not self.reports or self.alarm <= self.reports[0][0]):
            now, self.alarm = self.alarm, None
            return now, DeadlineReached()
        now, _, event = heapq.heappop(self.reports)
        return now, event

    def _take(self, tally: Tally | None, effects: Sequence[Effect], now: float) -> None:
        self.tally = tally
        for effect in effects:
            match effect:
                case ArmDeadline(at):
                    self.alarm = at
                case RequestAgents(number, agents, phase):
                    self._ask(number, agents, phase, now)
                case StopAgents(phase=phase):
                    self.reports = [each for each in self.reports if phase not in (None, each[2].phase)]
                    heapq.heapify(self.reports)
                case PublishEnding():
                    self.published = True
                case _:
                    raise AssertionError(f"{effect} is not asked for here")

    def _ask(self, number: int, agents: Sequence[str], phase: PhaseKind, now: float) -> None:
        assert self.tally is not None, "agents are asked of a tally"
        for agent in agents:
            if (number, phase, agent) in self.asked:
                continue
            self.asked.add((number, phase, agent))
            self.number += 1
            if phase in COMPARING:
                report = self.members.judge(agent, choice.shown(self.tally, self.tally.phase)[agent])
            elif phase is PhaseKind.REVISE:
                report = self.members.revise(agent, choice.shown(self.tally, self.tally.phase)[agent])
            elif phase is PhaseKind.EDIT:
                assert self.tally.choice is not None, "chosen before anybody edits"
                report = self.members.edit(self.tally.choice.winner or "")
            else:
                report = self.members.answer(agent)
            if report is not None:
                event = Reported(agent, number, self.number, report.error_type, phase, report.said)
                heapq.heappush(self.reports, (now + report.seconds, self.number, event))


def deliberate(
    members: Members,
    task_id: str,
    *,
    agents: int,
    judges: int = 3,
    select: Select = Select.JUDGE,
    timeout_seconds: float = 60.0,
    role: str = ROLE,
    synthesize: bool = False,
    rounds: int = 1,
) -> Tally:
    """The decided tally of a deliberation among these members. It is asked for at the instant 0."""
    request = Requested(
        task_id=task_id, seq=1, at=0.0, deadline=timeout_seconds, role=role, num_agents=agents,
        select=select, plan=plan(select, agents, judges, synthesize=synthesize, rounds=rounds),
        synthesize=synthesize, rounds=rounds,
    )  # fmt: skip
    return Deliberation(members).run(request)


@dataclass(frozen=True, slots=True)
class PromptlyReporting:
    """Members that report at once. `rank`: a judge's ballot over what it is shown; None: it never reports. `keys`: what
    is known of each agent's answer, as in `Outcome.said`; without them all answers differ."""

    rank: Callable[[str, Sequence[str]], str | None]
    keys: Mapping[str, str | None] | None = None

    def answer(self, agent: str) -> Report:
        return Report(said=agent if self.keys is None else self.keys[agent])

    def revise(self, agent: str, shown: Sequence[str]) -> Report:
        return Report(said=f"{agent}, of {len(shown)}")

    def edit(self, winner: str) -> Report:
        return Report(said=f"better than {winner}")

    def judge(self, judge: str, shown: Sequence[str]) -> Report | None:
        ranking = self.rank(judge, shown)
        return None if ranking is None else Report(said=ranking)
