"""The phases that a deliberation is planned to have, and how they share its time. Pure.

    answer ──► revise … ──► heat … ──► judge, or rank ──► edit ──► confirm

A deliberation of one round that chooses nothing, or by counting what its agents said, has one phase and no plan: its
agents have all the time there is.
"""

from collections.abc import Iterator, Sequence
from enum import StrEnum

from pydantic import BaseModel

from parley.broker.core.judging_orders import MAX_SHOWN

# With less time than this before the deadline no phase is opened any more.
LEAST_SECONDS = 2.0
# What no phase is given, of the time that is left: for the ending, and for what is on its way.
RESERVE_SECONDS, RESERVE_SHARE = 1.0, 0.05
# An alarm may come so much after its time: what follows still has its own.
LATE_SECONDS = 0.25


class Select(StrEnum):
    """How a winner is chosen."""

    NONE = "none"
    VOTE = "vote"
    JUDGE = "judge"
    RANK = "rank"


class PhaseKind(StrEnum):
    """What the agents of a phase do. ANSWER: answer the question. REVISE: who answered reads two other answers beside its
    own, and writes a better one or keeps one. HEAT: judges rank some of the answers each, so that eight at most are left.
    JUDGE: judges rank these. RANK: who answered ranks the answers of the others. EDIT: one writes an answer from the
    best. CONFIRM: judges compare it with the winner."""

    ANSWER = "answer"
    REVISE = "revise"
    HEAT = "heat"
    JUDGE = "judge"
    RANK = "rank"
    EDIT = "edit"
    CONFIRM = "confirm"


# Whose agents compare answers: each gives a ballot. And of these, whose ballots choose among the agents' answers.
COMPARING = frozenset({PhaseKind.HEAT, PhaseKind.JUDGE, PhaseKind.RANK, PhaseKind.CONFIRM})
CHOOSING = COMPARING - {PhaseKind.CONFIRM}
# Whose agents are those who answer, under the numbers that they have then.
OF_MEMBERS = frozenset({PhaseKind.ANSWER, PhaseKind.REVISE, PhaseKind.RANK})
# Of no use without what follows: nobody is chosen by a heat, and an editor's text has to be confirmed.
UNDECIDING = frozenset({PhaseKind.HEAT, PhaseKind.EDIT})
# Each phase's part of the time. Of a deadline of three median answers these give 99 % a winner (planted times).
WEIGHTS: dict[PhaseKind, int] = {
    PhaseKind.ANSWER: 4, PhaseKind.REVISE: 4, PhaseKind.HEAT: 2, PhaseKind.JUDGE: 2, PhaseKind.RANK: 2, PhaseKind.EDIT: 3,
    PhaseKind.CONFIRM: 1,
}  # fmt: skip


class Step(BaseModel, frozen=True):
    """One phase of a plan. `agents`: how many it asks."""

    kind: PhaseKind
    agents: int


def plan(
    select: Select, num_agents: int, judges: int, *, synthesize: bool = False, rounds: int = 1
) -> tuple[Step, ...]:
    """The phases in order, the first included; none where there is only one. A single answer needs no judge, and has no
    others to be revised by."""
    if num_agents == 1 or (rounds == 1 and select is Select.NONE):
        return ()
    steps = [Step(kind=PhaseKind.ANSWER, agents=num_agents)]
    steps += [Step(kind=PhaseKind.REVISE, agents=num_agents) for _ in range(rounds - 1)]
    if select is Select.JUDGE:
        steps += [
            Step(kind=PhaseKind.HEAT, agents=groups) for groups in heats(most_candidates(num_agents, rounds))
        ]
        steps.append(Step(kind=PhaseKind.JUDGE, agents=judges))
    elif select is Select.RANK:
        steps.append(Step(kind=PhaseKind.RANK, agents=num_agents))
    if synthesize:
        # An even number: half of them see the editor's text first.
        confirming = judges + judges % 2
        steps += [Step(kind=PhaseKind.EDIT, agents=1), Step(kind=PhaseKind.CONFIRM, agents=confirming)]
    return tuple(steps) if len(steps) > 1 else ()


def most_candidates(num_agents: int, rounds: int) -> int:
    """How many answers there may be to choose from: of each agent its first one, and its last one if it has revised
    that."""
    return num_agents if rounds == 1 else 2 * num_agents


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
    heat without its panel would be wasted, as would an editor whose text nobody confirms, and another round of answers
    of which none is chosen."""
    calls, taken = 0, 1
    undeciding = undeciding_among(steps)
    for number, step in enumerate(steps, 1):
        calls += step.agents
        if is_over(calls, max_calls):
            break
        if step.kind not in undeciding:
            taken = number
    return taken


def undeciding_among(steps: Sequence[Step]) -> frozenset[PhaseKind]:
    """The kinds that are of no use unless more of these steps follow."""
    is_chosen = any(step.kind in CHOOSING for step in steps)
    return UNDECIDING | {PhaseKind.REVISE} if is_chosen else UNDECIDING


def deciding(steps: Sequence[Step]) -> Sequence[Step]:
    """The first of these, up to one that decides something."""
    undeciding = undeciding_among(steps)
    return steps[: 1 + next((at for at, step in enumerate(steps) if step.kind not in undeciding), 0)]


def least_seconds(steps: Sequence[Step]) -> float:
    """The time without which the first of these steps is not opened: it, and what follows until something is decided."""
    return LEAST_SECONDS * len(deciding(steps))


def with_fewer_revisions(steps: tuple[Step, ...], members: int) -> Iterator[tuple[Step, ...]]:
    """These steps; then with one revision less, and so on until there is none: then of `members` answers, which may need
    fewer heats."""
    yield steps
    revisions = [step for step in steps if step.kind is PhaseKind.REVISE]
    rest = tuple(step for step in steps if step.kind is not PhaseKind.REVISE)
    while revisions:
        revisions.pop()
        if not revisions and any(step.kind is PhaseKind.JUDGE for step in rest):
            groups = (Step(kind=PhaseKind.HEAT, agents=number) for number in heats(members))
            rest = (*groups, *(step for step in rest if step.kind is not PhaseKind.HEAT))
        yield (*revisions, *rest)


def affordable(begun: Sequence[Step], steps: tuple[Step, ...], max_calls: int | None) -> tuple[Step, ...]:
    """Of the steps that are of use after those that have begun, those that the caller pays for; with fewer revisions where
    it does not pay for all of them and for what decides."""
    if not steps:
        return ()
    plans = with_fewer_revisions(steps, begun[0].agents)
    return next(filter(None, (payable(begun, some, max_calls) for some in plans)), ())


def payable(begun: Sequence[Step], steps: tuple[Step, ...], max_calls: int | None) -> tuple[Step, ...]:
    """The first of these steps, after those that have begun, so many as the caller pays for."""
    return steps[: max(0, paid_for((*begun, *steps), max_calls) - len(begun))]


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
    if len(deciding(steps)) > 1:
        until = max(now, min(until, deadline - least_seconds(steps[1:]) - LATE_SECONDS))
    return until


def first_limit(steps: Sequence[Step], now: float, deadline: float) -> float | None:
    """As `limit`; None where what it left would be too little for another phase: then the first one has all the time."""
    # Rounds of revision stand back where there is no time for them.
    for follow in with_fewer_revisions(tuple(steps[1:]), steps[0].agents):
        until = limit((steps[0], *follow), now, deadline)
        if follow and deadline - until >= least_seconds(follow):
            return until
    return None
