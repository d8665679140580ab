"""When a phase of a deliberation closes, what opens then, and what that needs from outside. Pure.

One write closes a phase and opens the next. Who may have opened a phase asks for its work again: all of it may come
twice.
"""

from parley.broker.core.choice import EDITOR, choose, judge_id, left_over, pool
from parley.broker.core.events_and_effects import ArmDeadline, Effect, RequestAgents, Requested, StopAgents
from parley.broker.core.frozen_models import changed
from parley.broker.core.messages import agent_id
from parley.broker.core.phase_plan import (
    CHOOSING,
    COMPARING,
    LEAST_SECONDS,
    PhaseKind,
    Select,
    Step,
    first_limit,
    heats,
    limit,
    paid_for,
)
from parley.broker.core.tally import ClosedBy, Phase, Tally

# Nobody ranks its own answer, and each is to compare two.
LEAST_RANKED = 3


def first_phase(event: Requested) -> Phase:
    agents = tuple(agent_id(event.role, place) for place in range(1, event.num_agents + 1))
    if event.select is Select.NONE:
        return Phase(number=1, agents=agents)
    return Phase(number=1, agents=agents, opened_at=event.at, limit=_first_limit(event))


def _first_limit(event: Requested) -> float | None:
    """None where no phase could follow: then the answers have all the time."""
    steps = event.plan[: paid_for(event.plan, event.max_calls)]
    return first_limit(steps, event.at, event.deadline) if len(steps) > 1 else None


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
    if tally.select is Select.NONE or not tally.phases:
        return tally
    return with_phase(tally, changed(tally.phase, closed_at=now, closed_by=by))


def _may_follow(tally: Tally, now: float) -> bool:
    """Whether there is time, and are calls left, for a phase after the current one, whatever has been answered."""
    if tally.deadline - now < LEAST_SECONDS:
        return False
    return len(tally.plan[: paid_for(tally.plan, tally.max_calls)]) > len(tally.all_phases)


def next_step(tally: Tally, now: float) -> Step | None:
    """What can be opened after the current phase: there is time for it, a use of it, and calls are left."""
    steps = payable(tally)
    if not steps:
        return None
    needs_another = steps[0].kind in (PhaseKind.HEAT, PhaseKind.EDIT)
    least = 2 * LEAST_SECONDS if needs_another else LEAST_SECONDS
    return steps[0] if tally.deadline - now >= least else None


def payable(tally: Tally) -> tuple[Step, ...]:
    """Of the steps of use, those that the caller pays for."""
    steps = steps_of_use(tally)
    begun = tally.plan[: len(tally.all_phases)]
    return steps[: paid_for((*begun, *steps), tally.max_calls) - len(begun)] if steps else ()


def steps_of_use(tally: Tally) -> tuple[Step, ...]:
    """What the plan has after the current phase, by what there is to compare now: heats only where more than eight
    answers are left, and nothing where one is; no editor where nobody was chosen."""
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
    groups = () if tally.select is Select.RANK else heats(len(among))
    rest = tuple(step for step in left if step.kind is not PhaseKind.HEAT)
    if rest[0].kind is PhaseKind.RANK:
        if len(among) < LEAST_RANKED:
            return ()
        rest = (Step(kind=PhaseKind.RANK, agents=tally.answers.successes), *rest[1:])
    return (*(Step(kind=PhaseKind.HEAT, agents=number) for number in groups), *rest)


def opened(tally: Tally, now: float, by: int | None) -> Tally:
    """With one phase more: the first of `steps_of_use`. The plan is what has been opened, and what follows."""
    steps = steps_of_use(tally)
    own_time = payable(tally)
    phase = Phase(
        number=tally.phase.number,
        agents=_agents_of(tally, steps[0]),
        kind=steps[0].kind,
        opened_at=now,
        limit=limit(own_time, now, tally.deadline),
        opened_by=by,
    )
    begun = tally.plan[: len(tally.all_phases)]
    return changed(tally, plan=(*begun, *steps), later_phases=(*tally.later_phases, phase))


def _agents_of(tally: Tally, step: Step) -> tuple[str, ...]:
    if step.kind is PhaseKind.EDIT:
        return (EDITOR,)
    if step.kind is PhaseKind.RANK:
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
    if before is not None and before.missing and before.kind is not phase.kind:
        return *effects, StopAgents("its phase is closed", before.number, before.kind)
    return effects


def with_phase(tally: Tally, phase: Phase) -> Tally:
    """With the current phase replaced."""
    if tally.later_phases:
        return changed(tally, later_phases=(*tally.later_phases[:-1], phase))
    return changed(tally, phases=(phase,))
