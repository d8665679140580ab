"""What a request would do, phase by phase, before anything is asked. Pure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from parley.broker.core.messages import DeliberationRequested
from parley.broker.core.phase_plan import PhaseKind, Step, affordable, first_limit, plan, share


@dataclass(frozen=True, slots=True)
class PlannedPhase:
    """`calls`: agents or judges that it asks. `share`: of the time, 0 to 1; None: what the phases before leave.
    `left_out`: why it will not be; empty if it will."""

    phase: str
    calls: int
    share: float | None
    left_out: str = ""


def phases_of(request: DeliberationRequested) -> list[PlannedPhase]:
    alone = PlannedPhase(PhaseKind.ANSWER.value, request.num_agents, 1.0)
    # Of a single answer the panel is looked at, too, to say why it is left out.
    agents = max(2, request.num_agents)
    planned = plan(
        request.select, agents, request.judges, synthesize=request.synthesize, rounds=request.rounds
    )
    if not planned:
        return [alone]
    begun, follow = planned[:1], planned[1:]
    steps = begun if request.num_agents == 1 else begun + affordable(begun, follow, request.max_calls)
    dropped = _dropped(planned, steps)
    left_out = [PlannedPhase(step.kind.value, 0, 0.0, _why_left_out(request, planned)) for step in dropped]
    if len(steps) == 1:
        return [alone, *left_out]
    seconds = request.asked_timeout_seconds
    if seconds is not None and first_limit(steps, 0.0, seconds) is None:
        return [alone, *(PlannedPhase(step.kind.value, step.agents, None) for step in steps[1:]), *left_out]
    found, left = [], 1.0
    for place, step in enumerate(steps):
        part = left * share(steps[place:])
        found.append(PlannedPhase(step.kind.value, step.agents, part))
        left -= part
    return [*found, *left_out]


def _dropped(planned: Sequence[Step], kept: Sequence[Step]) -> list[Step]:
    """What is planned and not kept. Heats that are not needed are none of it."""
    left = Counter(step.kind for step in kept)
    if left[PhaseKind.JUDGE]:
        left[PhaseKind.HEAT] = len(planned)
    found = []
    for step in planned:
        left[step.kind] -= 1
        if left[step.kind] < 0:
            found.append(step)
    return found


def _why_left_out(request: DeliberationRequested, steps: Sequence[Step]) -> str:
    if request.num_agents == 1:
        return "there is only one answer"
    calls = sum(step.agents for step in steps)
    return f"{calls} calls would be more than max_calls, {request.max_calls}"
