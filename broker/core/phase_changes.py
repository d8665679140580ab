"""When a phase of a deliberation closes, what opens then, and what that needs from outside. Pure.

One write closes a phase and opens the next. Who may have opened a phase asks for its work again: all of it may come
twice.
"""

from parley.broker.core.choice import candidates, judge_id
from parley.broker.core.events_and_effects import ArmDeadline, Effect, RequestAgents, Requested, StopAgents
from parley.broker.core.frozen_models import changed
from parley.broker.core.messages import agent_id
from parley.broker.core.phase_plan import LEAST_SECONDS, PhaseKind, Select, Step, first_limit, is_over, limit
from parley.broker.core.tally import ClosedBy, Phase, Tally


def first_phase(event: Requested) -> Phase:
    agents = tuple(agent_id(event.role, place) for place in range(1, event.num_agents + 1))
    if event.select is Select.NONE:
        return Phase(number=1, agents=agents)
    return Phase(number=1, agents=agents, opened_at=event.at, limit=_first_limit(event))


def _first_limit(event: Requested) -> float | None:
    """None where no phase could follow: then the answers have all the time."""
    calls = sum(step.agents for step in event.plan)
    if not event.plan or is_over(calls, event.max_calls):
        return None
    return first_limit(event.plan, event.at, event.deadline)


def has_enough(tally: Tally) -> bool:
    """Whether the current phase has enough to close at its limit: two answers to choose from, or a ballot."""
    phase = tally.phase
    if phase.kind is PhaseKind.JUDGE:
        return phase.successes > 0
    return phase.successes >= tally.min_responses and len(candidates(tally)) >= min(2, len(phase.agents))


def has_use_of_limit(tally: Tally, now: float) -> bool:
    """Whether there is a reason to close the current phase at its limit: what it has, and what follows. Without, it lasts
    until the deadline."""
    follows = tally.phase.kind is PhaseKind.JUDGE or next_step(tally, now) is not None
    return follows and has_enough(tally)


def closing(tally: Tally, now: float) -> ClosedBy | None:
    """Why the current phase closes by what it has counted; None if it goes on."""
    phase = tally.phase
    if not phase.missing:
        return ClosedBy.ALL
    if phase.kind is PhaseKind.ANSWER and phase.successes >= tally.min_responses:
        if tally.finish_early and (_planned_step(tally, now) is None or has_enough(tally)):
            return ClosedBy.ENOUGH
        if tally.agree is not None and phase.most_alike >= tally.agree:
            return ClosedBy.AGREE
    return ClosedBy.LIMIT if tally.limit_has_moved and has_use_of_limit(tally, now) else None


def closed(tally: Tally, by: ClosedBy, now: float) -> Tally:
    """With the current phase closed. A deliberation that chooses nothing has no use for that."""
    if tally.select is Select.NONE or not tally.phases:
        return tally
    return with_phase(tally, changed(tally.phase, closed_at=now, closed_by=by))


def next_step(tally: Tally, now: float) -> Step | None:
    """What can be opened after the current phase: there is time for it, two answers to compare, and calls are left."""
    step = _planned_step(tally, now)
    return step if step is not None and len(candidates(tally)) >= 2 else None


def _planned_step(tally: Tally, now: float) -> Step | None:
    """The same, whatever has been answered."""
    if not tally.steps_left or tally.deadline - now < LEAST_SECONDS:
        return None
    step = tally.steps_left[0]
    return None if is_over(tally.calls_with(step), tally.max_calls) else step


def opened(tally: Tally, step: Step, now: float, by: int | None) -> Tally:
    """With one phase more."""
    phase = Phase(
        number=tally.phase.number,
        agents=tuple(judge_id(number) for number in range(1, step.agents + 1)),
        kind=step.kind,
        opened_at=now,
        limit=limit(tally.steps_left, now, tally.deadline),
        opened_by=by,
    )
    return changed(tally, later_phases=(*tally.later_phases, phase))


def needs(tally: Tally) -> tuple[Effect, ...]:
    """What the current phase needs: its alarm, its agents' work, and the end of what the phase before still does."""
    phase = tally.phase
    effects: tuple[Effect, ...] = (
        ArmDeadline(tally.limit), RequestAgents(phase.number, phase.missing, phase.kind),
    )  # fmt: skip
    before = tally.all_phases[-2] if tally.later_phases else None
    if before is not None and before.missing:
        return *effects, StopAgents("its phase is closed", before.number, before.kind)
    return effects


def with_phase(tally: Tally, phase: Phase) -> Tally:
    """With the current phase replaced."""
    if tally.later_phases:
        return changed(tally, later_phases=(*tally.later_phases[:-1], phase))
    return changed(tally, phases=(phase,))
