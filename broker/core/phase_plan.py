"""The phases that a deliberation is planned to have, and how they share its time. Pure.

    answer ──► heat … ──► judge, or rank ──► edit ──► confirm

A deliberation that chooses nothing, or by counting what its agents said, has one phase and no plan: its agents have
all the time there is.
"""

from collections.abc import Sequence
from enum import StrEnum

from pydantic import BaseModel

from parley.broker.core.judging_orders import MAX_SHOWN

# With less time than this before the deadline no phase is opened any more.
LEAST_SECONDS = 2.0
# What no phase is given, of the time that is left: for the ending, and for what is on its way.
RESERVE_SECONDS, RESERVE_SHARE = 1.0, 0.05


class Select(StrEnum):
    """How a winner is chosen."""

    NONE = "none"
    VOTE = "vote"
    JUDGE = "judge"
    RANK = "rank"


class PhaseKind(StrEnum):
    """What the agents of a phase do. ANSWER: answer the question. HEAT: judges rank some of the answers each, so that
    eight at most are left. JUDGE: judges rank these. RANK: who answered ranks the answers of the others. EDIT: one writes
    an answer from the best. CONFIRM: judges compare it with the winner."""

    ANSWER = "answer"
    HEAT = "heat"
    JUDGE = "judge"
    RANK = "rank"
    EDIT = "edit"
    CONFIRM = "confirm"


# Whose agents compare answers: each gives a ballot. And of these, whose ballots choose among the agents' answers.
COMPARING = frozenset({PhaseKind.HEAT, PhaseKind.JUDGE, PhaseKind.RANK, PhaseKind.CONFIRM})
CHOOSING = COMPARING - {PhaseKind.CONFIRM}
# Each phase's part of the time. Of a deadline of three median answers these give 99 % a winner (planted times).
WEIGHTS: dict[PhaseKind, int] = {
    PhaseKind.ANSWER: 4, PhaseKind.HEAT: 2, PhaseKind.JUDGE: 2, PhaseKind.RANK: 2, PhaseKind.EDIT: 3, PhaseKind.CONFIRM: 1,
}  # fmt: skip


class Step(BaseModel, frozen=True):
    """One phase of a plan. `agents`: how many it asks."""

    kind: PhaseKind
    agents: int


def plan(select: Select, num_agents: int, judges: int, *, synthesize: bool = False) -> tuple[Step, ...]:
    """The phases in order, the first included; none where there is only one. A single answer needs no judge."""
    if select is Select.NONE or num_agents == 1:
        return ()
    steps = [Step(kind=PhaseKind.ANSWER, agents=num_agents)]
    if select is Select.JUDGE:
        steps += [Step(kind=PhaseKind.HEAT, agents=groups) for groups in heats(num_agents)]
        steps.append(Step(kind=PhaseKind.JUDGE, agents=judges))
    elif select is Select.RANK:
        steps.append(Step(kind=PhaseKind.RANK, agents=num_agents))
    if synthesize:
        # An even number: half of them see the editor's text first.
        confirming = judges + judges % 2
        steps += [Step(kind=PhaseKind.EDIT, agents=1), Step(kind=PhaseKind.CONFIRM, agents=confirming)]
    return tuple(steps) if len(steps) > 1 else ()


def heats(candidates: int) -> tuple[int, ...]:
    """How many groups of at most eight answers each round of heats has, until eight are left: 2 for 16, 32 and 4 for
    256."""
    found = []
    while candidates > MAX_SHOWN:
        groups = -(-candidates // MAX_SHOWN)
        found.append(groups)
        candidates = groups * going_on(groups)
    return tuple(found)


def going_on(groups: int) -> int:
    """How many answers of each group go on, so that eight are left if so few groups can leave eight."""
    return max(1, MAX_SHOWN // groups)


def paid_for(steps: Sequence[Step], max_calls: int | None) -> int:
    """How many of these steps, from the first on, the caller pays for: so many that the last one decides something. A
    heat without its panel would be wasted, as would an editor whose text nobody confirms."""
    calls, taken = 0, 1
    for number, step in enumerate(steps, 1):
        calls += step.agents
        if is_over(calls, max_calls):
            break
        if step.kind not in (PhaseKind.HEAT, PhaseKind.EDIT):
            taken = number
    return taken


def is_over(calls: int, max_calls: int | None) -> bool:
    """Whether so many agents and judges are more than the caller allows, if it says."""
    return max_calls is not None and calls > max_calls


def share(steps: Sequence[Step]) -> float:
    """The part of the time, 0 to 1, that the first of these steps has when no other has begun."""
    return WEIGHTS[steps[0].kind] / sum(WEIGHTS[step.kind] for step in steps)


def limit(steps: Sequence[Step], now: float, deadline: float) -> float:
    """When the first of these steps, opened now, closes with what it has. What it does not use the next ones have."""
    left = deadline - now
    until = now + (left - min(RESERVE_SECONDS, RESERVE_SHARE * left)) * share(steps)
    if steps[0].kind in (PhaseKind.HEAT, PhaseKind.EDIT):  # of no use without what follows
        until = max(now, min(until, deadline - LEAST_SECONDS))
    return until


def first_limit(steps: Sequence[Step], now: float, deadline: float) -> float | None:
    """As `limit`; None where what it left would be too little for another phase: then the first one has all the time."""
    until = limit(steps, now, deadline)
    return until if deadline - until >= LEAST_SECONDS else None
