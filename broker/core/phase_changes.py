"""When a phase of a deliberation closes, what opens then, and what that needs from outside. Pure.

One write closes a phase and opens the next. Who may have opened a phase asks for its work again: all of it may come
twice.
"""

from collections.abc import Iterator

from parley.broker.core.choice import EDITOR, choose, is_settled, judge_id, left_over, pool
from parley.broker.core.events_and_effects import ArmDeadline, Effect, RequestAgents, Requested, StopAgents
from parley.broker.core.frozen_models import changed
from parley.broker.core.messages import agent_id
from parley.broker.core.phase_plan import (
    CHOOSING,
    COMPARING,
    LEAST_SECONDS,
    OF_MEMBERS,
    PhaseKind,
    Select,
    Step,
    affordable,
    first_limit,
    heats,
    least_seconds,
    limit,
    most_candidates,
    payable,
)
from parley.broker.core.tally import ClosedBy, Phase, Tally

# Nobody ranks its own answer, and each is to compare two.
LEAST_RANKED = 3


def first_phase(event: Requested) -> Phase:
    agents = tuple(agent_id(event.role, place) for place in range(1, event.num_agents + 1))
    if event.is_plain:
        return Phase(number=1, agents=agents)
    return Phase(number=1, agents=agents, opened_at=event.at, limit=_first_limit(event))


def _first_limit(event: Requested) -> float | None:
    """None where no phase could follow: then the answers have all the time."""
    begun = event.plan[:1]
    steps = affordable(begun, event.plan[1:], event.max_calls)
    return first_limit((*begun, *steps), event.at, event.deadline) if steps else None


def has_enough(tally: Tally) -> bool:
    """Whether the current phase has enough to close at its limit: two answers to choose from (three for members that
    rank the others', one for a vote), or a ballot. Once a winner is chosen, whatever there is."""
    phase = tally.phase
    if phase.kind is PhaseKind.ANSWER:
        least = {Select.VOTE: 1, Select.RANK: LEAST_RANKED}.get(tally.select, 2)
        return phase.successes >= tally.min_responses and len(pool(tally)) >= min(least, len(phase.agents))
    return phase.successes > 0 or phase.kind not in CHOOSING


def has_use_of_limit(tally: Tally, now: float) -> bool:
    """Whether there is a reason to close the current phase at its limit: what it has, and what follows. Without, it lasts
    until the deadline."""
    decides = tally.phase.kind is not PhaseKind.ANSWER or tally.select is Select.VOTE
    return (decides or next_step(tally, now) is not None) and has_enough(tally)


def closing(tally: Tally, now: float) -> ClosedBy | None:
    """Why the current phase closes by what it has counted; None if it goes on."""
    phase = tally.phase
    if not phase.missing:
        return ClosedBy.ALL
    if phase.kind is PhaseKind.ANSWER and phase.successes >= tally.min_responses:
        if tally.finish_early and (not _may_follow(tally, now) or has_enough(tally)):
            return ClosedBy.ENOUGH
        if tally.agree is not None and phase.most_alike >= tally.agree:
            return ClosedBy.AGREE
    return ClosedBy.LIMIT if tally.limit_has_moved and has_use_of_limit(tally, now) else None


def closed(tally: Tally, by: ClosedBy, now: float) -> Tally:
    """With the current phase closed. A deliberation that chooses nothing has no use for that."""
    if tally.is_plain or not tally.phases:
        return tally
    return with_phase(tally, changed(tally.phase, closed_at=now, closed_by=by))


def _may_follow(tally: Tally, now: float) -> bool:
    """Whether there is time, and are calls left, for a phase after the current one, whatever has been answered."""
    if tally.deadline - now < LEAST_SECONDS:
        return False
    return bool(affordable(tally.plan[: len(tally.all_phases)], tally.steps_left, tally.max_calls))


def next_step(tally: Tally, now: float) -> Step | None:
    """What can be opened after the current phase: there is time for it, a use of it, and calls are left."""
    if not tally.plan:
        return None
    steps = next_steps(tally, now)
    return steps[0] if steps else None


def next_steps(tally: Tally, now: float) -> tuple[Step, ...]:
    """What can follow the current phase, as it is planned now."""
    left = tally.deadline - now
    return next((steps for steps in _payable(tally) if left >= least_seconds(steps)), ())


def is_payable(tally: Tally) -> bool:
    """Whether the caller pays for a phase after the current one that is of use."""
    return any(_payable(tally))


def _payable(tally: Tally) -> Iterator[tuple[Step, ...]]:
    """What is of use and paid for: with all revisions; then, for want of time, with one less, and so on."""
    begun = tally.plan[: len(tally.all_phases)]
    for revisions in range(_revisions_of_use(tally), -1, -1):
        if steps := payable(begun, steps_of_use(tally, revisions), tally.max_calls):
            yield steps


def steps_of_use(tally: Tally, revisions: int | None = None) -> tuple[Step, ...]:
    """What the plan has after the current phase, by what there is to compare now: heats only where more than eight
    answers are left, and nothing where one is; no editor where nobody was chosen. `revisions`: so many; None: all that
    are of use."""
    left = tally.steps_left
    if not left:
        return ()
    if left[0].kind is PhaseKind.CONFIRM:
        return left if tally.phase.successes else ()
    among = left_over(tally)
    if len(among) < 2:
        return ()
    if left[0].kind is PhaseKind.EDIT:
        chosen = tally.choice or choose(tally)
        return left if chosen is not None and chosen.winner is not None else ()
    members = tally.answers.successes
    if revisions is None:
        revisions = _revisions_of_use(tally)
    rest = tuple(step for step in left if step.kind not in (PhaseKind.REVISE, PhaseKind.HEAT))
    if rest and rest[0].kind is PhaseKind.RANK:
        if len(among) < LEAST_RANKED:
            return ()
        rest = (Step(kind=PhaseKind.RANK, agents=members), *rest[1:])
    if rest and rest[0].kind is PhaseKind.JUDGE:
        candidates = most_candidates(members, tally.rounds) if revisions else len(among)
        rest = (*(Step(kind=PhaseKind.HEAT, agents=number) for number in heats(candidates)), *rest)
    return (*(Step(kind=PhaseKind.REVISE, agents=members) for _ in range(revisions)), *rest)


def _revisions_of_use(tally: Tally) -> int:
    """How many more rounds may change an answer. After one that changed nothing the same prompts would come again."""
    planned = sum(step.kind is PhaseKind.REVISE for step in tally.steps_left)
    return planned if planned and not is_settled(tally) else 0


def opened(tally: Tally, now: float, by: int | None) -> Tally:
    """With one phase more: the first of `next_steps`. The plan is what has been opened, and what follows; also what the
    caller does not pay for, so that the ending can say that it was left out."""
    steps = next_steps(tally, now)
    kind = steps[0].kind
    phase = Phase(
        number=tally.phase.number + (kind is PhaseKind.REVISE),
        agents=_agents_of(tally, steps[0]),
        kind=kind,
        opened_at=now,
        limit=limit(steps, now, tally.deadline),
        opened_by=by,
    )
    begun = tally.plan[: len(tally.all_phases)]
    follow = steps_of_use(tally, sum(step.kind is PhaseKind.REVISE for step in steps))
    return changed(tally, plan=(*begun, *follow), later_phases=(*tally.later_phases, phase))


def _agents_of(tally: Tally, step: Step) -> tuple[str, ...]:
    if step.kind is PhaseKind.EDIT:
        return (EDITOR,)
    if step.kind in OF_MEMBERS:
        outcomes = tally.answers.outcomes
        return tuple(
            agent for agent in tally.answers.agents if agent in outcomes and outcomes[agent].succeeded
        )
    before = sum(len(phase.agents) for phase in tally.later_phases if phase.kind in COMPARING)
    return tuple(judge_id(before + number) for number in range(1, step.agents + 1))


def needs(tally: Tally) -> tuple[Effect, ...]:
    """What the current phase needs: its alarm, its agents' work, and the end of what the phase before still does."""
    phase = tally.phase
    effects: tuple[Effect, ...] = (
        ArmDeadline(tally.limit), RequestAgents(phase.number, phase.missing, phase.kind),
    )  # fmt: skip
    before = tally.all_phases[-2] if tally.later_phases else None
    # Workers know a phase by its round and kind, so of two heats the first one's calls are left to end by themselves.
    is_another = before is not None and (before.number, before.kind) != (phase.number, phase.kind)
    if before is not None and before.missing and is_another:
        return *effects, StopAgents("its phase is closed", before.number, before.kind)
    return effects


def with_phase(tally: Tally, phase: Phase) -> Tally:
    """With the current phase replaced."""
    if tally.later_phases:
        return changed(tally, later_phases=(*tally.later_phases[:-1], phase))
    return changed(tally, phases=(phase,))
