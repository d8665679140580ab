"""The phases that a deliberation is planned to have, and how they share its time. Pure.

A deliberation that chooses nothing, or by counting what its agents said, has one phase and no plan: its agents have
all the time there is.
"""

from collections.abc import Sequence
from enum import StrEnum

from pydantic import BaseModel

# With less time than this before the deadline no phase is opened any more.
LEAST_SECONDS = 2.0
# What no phase is given, of the time that is left: for the ending, and for what is on its way.
RESERVE_SECONDS, RESERVE_SHARE = 1.0, 0.05


class Select(StrEnum):
    """How a winner is chosen."""

    NONE = "none"
    VOTE = "vote"
    JUDGE = "judge"


class PhaseKind(StrEnum):
    """What the agents of a phase do: answer the question, or rank the answers."""

    ANSWER = "answer"
    JUDGE = "judge"


# Each phase's part of the time. Of a deadline of three median answers these give 99 % a winner (planted times).
WEIGHTS: dict[PhaseKind, int] = {PhaseKind.ANSWER: 4, PhaseKind.JUDGE: 2}


class Step(BaseModel, frozen=True):
    """One phase of a plan. `agents`: how many it asks."""

    kind: PhaseKind
    agents: int


def plan(select: Select, num_agents: int, judges: int) -> tuple[Step, ...]:
    """The phases in order, the first included; none where there is only one. A single answer needs no judge."""
    if select is not Select.JUDGE or num_agents == 1:
        return ()
    return Step(kind=PhaseKind.ANSWER, agents=num_agents), Step(kind=PhaseKind.JUDGE, agents=judges)


def is_over(calls: int, max_calls: int | None) -> bool:
    """Whether so many agents and judges are more than the caller allows, if it says."""
    return max_calls is not None and calls > max_calls


def share(steps: Sequence[Step]) -> float:
    """The part of the time, 0 to 1, that the first of these steps has when no other has begun."""
    return WEIGHTS[steps[0].kind] / sum(WEIGHTS[step.kind] for step in steps)


def limit(steps: Sequence[Step], now: float, deadline: float) -> float:
    """When the first of these steps, opened now, closes with what it has. What it does not use the next ones have."""
    left = deadline - now
    return now + (left - min(RESERVE_SECONDS, RESERVE_SHARE * left)) * share(steps)


def first_limit(steps: Sequence[Step], now: float, deadline: float) -> float | None:
    """As `limit`; None where what it left would be too little for another phase: then the first one has all the time."""
    until = limit(steps, now, deadline)
    return until if deadline - until >= LEAST_SECONDS else None
