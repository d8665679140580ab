"""What happens in a deliberation, as those see it who wait for it. Pure. Part of the client.

Each event is worked out from the tally alone, and its `id` says what was told up to it. So anybody can go on after an
event that somebody else told: no event is told twice then, and none is missed.
"""

import base64
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from parley.broker.core.choice import in_round
from parley.broker.core.messages import AgentResult, DeliberationCompleted, DeliberationFailed
from parley.broker.core.phase_plan import COMPARING, PhaseKind
from parley.broker.core.tally import Outcome, Phase, Tally
from parley.broker.core.timestamps import format_timestamp

# What an id begins with: the form that it has. After the ending nothing comes.
_FORM, _ENDED = "1", "1-end"
# Bounds of an id that a client sends: 256 agents in each of some 20 phases take 900 letters.
MAX_ID_CHARACTERS = 4_096


class _Event(BaseModel, frozen=True):
    task_id: str = Field(description="The deliberation.")
    id: str = Field(description="What was told up to this event; `after` goes on behind it.")


class PhaseOpened(_Event, frozen=True):
    """Agents, or judges, are asked. The first one says that the service has taken the request in."""

    type: Literal["phase"] = "phase"
    phase: str = Field(
        description="What they do: `answer`, `revise`, `heat`, `judge`, `rank`, `edit` or `confirm`."
    )
    round: int = Field(description="In which round of answers; from 1.")
    agents: tuple[str, ...] = Field(description="Who is asked.")
    limit: str = Field(description="When the phase closes with what it has, RFC 3339.")


class _Report(_Event, frozen=True):
    phase: str = Field(description="The phase in which it was asked.")
    round: int = Field(description="The round of answers; from 1.")
    agent_id: str = Field(description="Who reported.")


class AgentAnswered(_Report, frozen=True):
    """An agent has answered, or an editor has written."""

    type: Literal["answer"] = "answer"
    kept: bool = Field(description="In a round of revision: it keeps an answer that it was shown.")
    result: AgentResult | None = Field(
        None, description="The answer, as the ending has it; None where its words cannot be had now."
    )


class BallotCast(_Report, frozen=True):
    """A judge, or a member that ranks the others' answers, has voted. Its ranking is in the ending."""

    type: Literal["ballot"] = "ballot"


class AgentFailedToAnswer(_Report, frozen=True):
    """An agent or a judge has failed. Why is in the ending."""

    type: Literal["failure"] = "failure"


class Ended(_Event, frozen=True):
    """The last event."""

    type: Literal["ending"] = "ending"
    ending: DeliberationCompleted | DeliberationFailed = Field(description="The ending, with its results.")


JobEvent = Annotated[
    PhaseOpened | AgentAnswered | BallotCast | AgentFailedToAnswer | Ended, Field(discriminator="type")
]


class Told:
    """Which phases were told as opened, and which agents of each as having reported."""

    def __init__(self, bits: Sequence[int] = (), *, ended: bool = False) -> None:
        # One number a phase: bit n stands for its agent n.
        self._bits = list(bits)
        self.ended = ended

    @classmethod
    def read(cls, event_id: str) -> "Told":
        """What an event's id says. Raises ValueError for what is none."""
        if event_id == _ENDED:
            return cls(ended=True)
        form, *parts = event_id.split(".")
        if form != _FORM or len(event_id) > MAX_ID_CHARACTERS:
            raise ValueError("no id of an event")
        try:
            return cls(
                [int.from_bytes(base64.b64decode(_padded(part), b"-_", validate=True)) for part in parts]
            )
        except ValueError as error:
            raise ValueError("no id of an event") from error

    @property
    def event_id(self) -> str:
        if self.ended:
            return _ENDED
        return ".".join([_FORM, *map(_letters, self._bits)])

    def has_opened(self, place: int) -> bool:
        return place < len(self._bits)

    def has_reported(self, place: int, agent: int) -> bool:
        return bool(self._bits[place] >> agent & 1)

    def open(self) -> None:
        self._bits.append(0)

    def report(self, place: int, agent: int) -> None:
        self._bits[place] |= 1 << agent

    def end(self) -> None:
        self.ended = True


def _padded(letters: str) -> str:
    return letters + "=" * (-len(letters) % 4)


def _letters(bits: int) -> str:
    raw = bits.to_bytes((bits.bit_length() + 7) // 8)
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def news(
    tally: Tally, told: Told
) -> Iterator[PhaseOpened | AgentAnswered | BallotCast | AgentFailedToAnswer]:
    """What `told` does not hold yet, in the order in which it happened. Notes each event in `told` as it is taken."""
    for place, phase in enumerate(tally.all_phases):
        if not told.has_opened(place):
            told.open()
            yield PhaseOpened(
                task_id=tally.task_id, id=told.event_id, phase=phase.kind.value, round=phase.number, agents=phase.agents,
                limit=format_timestamp(tally.deadline if phase.limit is None else phase.limit),
            )  # fmt: skip
        numbers = {agent: number for number, agent in enumerate(phase.agents)}
        for agent, outcome in sorted(phase.outcomes.items(), key=lambda item: item[1].seq):
            if not told.has_reported(place, numbers[agent]):
                told.report(place, numbers[agent])
                yield _reported(tally.task_id, told.event_id, phase, agent, outcome)


def _reported(
    task_id: str, event_id: str, phase: Phase, agent: str, outcome: Outcome
) -> AgentAnswered | BallotCast | AgentFailedToAnswer:
    kind: type[AgentFailedToAnswer | BallotCast] = AgentFailedToAnswer
    if outcome.succeeded:
        if phase.kind not in COMPARING:
            return AgentAnswered(
                task_id=task_id, id=event_id, phase=phase.kind.value, round=phase.number, agent_id=agent,
                kept=outcome.kept is not None,
            )  # fmt: skip
        kind = BallotCast
    return kind(task_id=task_id, id=event_id, phase=phase.kind.value, round=phase.number, agent_id=agent)


def name_of_answer(event: AgentAnswered) -> str | None:
    """Under which name its words can be asked for. None: it has no words of its own there."""
    if event.kept or event.phase == PhaseKind.EDIT:
        return None
    return in_round(event.agent_id, event.round if event.phase == PhaseKind.REVISE else 1)


def ended(ending: DeliberationCompleted | DeliberationFailed, told: Told) -> Ended:
    told.end()
    return Ended(task_id=ending.task_id, id=told.event_id, ending=ending)
