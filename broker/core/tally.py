"""A deliberation's running account, and the one function that decides what happens to it.

`react(tally, event, now)` is pure: no I/O, no clock, no randomness. It returns the next tally and the effects somebody
else must carry out, in order, after the tally is stored. A duplicate, a late answer or an illegal move gives back
the same tally, no effects, and a note saying why.

The tally counts; it does not hold answers. An outcome is remembered by its place in the AGENT_RESPONSES stream, so that a
tally of 256 agents stays a few KiB whatever they wrote, and every compare-and-set stays cheap.

A deliberation has phases, one per round. Agents of a phase report; when the last phase is settled, the deliberation ends.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, assert_never

from pydantic import BaseModel, ConfigDict, Field

from parley.broker.core.lifecycle import ENDINGS, Cause, State, move
from parley.broker.core.messages import ErrorType, agent_id
from parley.broker.core.timestamps import format_timestamp

# ── the account ───────────────────────────────────────────────────────────────────────────────────────────────────


class FrozenModel(BaseModel):
    model_config = ConfigDict(frozen=True)


class Outcome(FrozenModel):
    """One agent has reported: how, and where its words are (sequence in AGENT_RESPONSES)."""

    succeeded: bool
    seq: int


class Phase(FrozenModel):
    """One round: its agents, in order, and who has reported."""

    number: int
    agents: tuple[str, ...]
    outcomes: Mapping[str, Outcome] = Field(default_factory=dict)

    @property
    def successes(self) -> int:
        return sum(outcome.succeeded for outcome in self.outcomes.values())

    @property
    def missing(self) -> tuple[str, ...]:
        return tuple(agent for agent in self.agents if agent not in self.outcomes)


class Decision(FrozenModel):
    """How it ended and when that was decided. `error` is empty only for a completed deliberation.

    `by`: the place in its stream of the outcome or the cancel that decided it; None for a deadline and what tallies of older versions say.
    """

    error: str = ""
    decided_at: float
    by: int | None = None


class Tally(FrozenModel):
    """What the KV bucket `deliberations` holds under `task_id`.

    Instants are seconds since the epoch, on the NATS server's clock. `verdict` is the decision; `ending_seq` is the
    ending's place in DELIBERATIONS and doubles as the mark that it was published.
    """

    task_id: str
    state: State
    request_seq: int
    role: str = ""
    min_responses: int = 1
    finish_early: bool = False
    rounds: int = 1
    accepted_at: float
    deadline: float
    phases: tuple[Phase, ...] = ()
    verdict: Decision | None = None
    ending_seq: int | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
    reply_to: str | None = None
    traceparent: str | None = None

    @property
    def phase(self) -> Phase:
        """The current one. A deliberation that ended before it began has an empty phase 0."""
        return self.phases[-1] if self.phases else Phase(number=0, agents=())

    @property
    def ended(self) -> bool:
        return self.state in ENDINGS

    @property
    def ending_unpublished(self) -> bool:
        """Decided, but not known to be published: whoever meets it publishes it (again)."""
        return self.ended and self.ending_seq is None

    @property
    def outcomes_needed(self) -> int:
        """How many more outcomes it takes at the least to end it. At least 1."""
        phase = self.phase
        fewest = len(phase.agents) - len(phase.outcomes)
        if self.finish_early:
            fewest = min(fewest, self.min_responses - phase.successes)
        return max(1, fewest)


# ── what can happen ───────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Requested:
    """A valid request, at its place `seq` in the stream since `at`. `num_agents` ≥ 1, `deadline` absolute."""

    task_id: str
    seq: int
    at: float
    deadline: float
    role: str
    num_agents: int
    min_responses: int = 1
    finish_early: bool = False
    rounds: int = 1
    metadata: Mapping[str, str] = field(default_factory=dict)
    reply_to: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that cannot be run. `cause` REFUSED: the sender's mistake. ABANDONED: ours, after every retry."""

    task_id: str
    seq: int
    at: float
    error: str
    cause: Literal[Cause.REFUSED, Cause.ABANDONED] = Cause.REFUSED
    reply_to: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Reported:
    """An agent's outcome, stored at `seq` in AGENT_RESPONSES. `error_type` None means it succeeded."""

    agent_id: str
    round: int
    seq: int
    error_type: ErrorType | None = None


@dataclass(frozen=True, slots=True)
class DeadlineReached:
    pass


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """`seq`: its place in DELIBERATIONS."""

    reason: str | None = None
    seq: int | None = None


@dataclass(frozen=True, slots=True)
class EndingPublished:
    """The ending is stored at `seq` in DELIBERATIONS."""

    seq: int


Event = Requested | Refused | Reported | DeadlineReached | CancelRequested | EndingPublished


# ── what must be done ─────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class ArmDeadline:
    at: float


@dataclass(frozen=True, slots=True)
class RequestAgents:
    """Publish one `agent.requested` for each of these agents of this round."""

    round: int
    agents: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PublishEnding:
    pass


@dataclass(frozen=True, slots=True)
class StopAgents:
    """Tell the workers that nobody waits for this deliberation any more."""

    reason: str


Effect = ArmDeadline | RequestAgents | PublishEnding | StopAgents


@dataclass(frozen=True, slots=True)
class Reaction:
    """`note` says why nothing changed; it is empty when something did."""

    tally: Tally | None
    effects: tuple[Effect, ...] = ()
    note: str = ""


# ── the decision ──────────────────────────────────────────────────────────────────────────────────────────────────


def react(tally: Tally | None, event: Event, now: float) -> Reaction:
    """What `event`, seen at `now` (seconds since the epoch), does to `tally` (None: not recorded)."""
    match event:
        case Requested():
            return _requested(tally, event, now)
        case Refused():
            return _refused(tally, event, now)
        case EndingPublished():
            return _published(tally, event)
        case Reported() | DeadlineReached() | CancelRequested():
            if tally is None:
                return Reaction(None, note="no such deliberation")
            if tally.ended:
                return _already_ended(tally, event)
            match event:
                case Reported():
                    return _reported(tally, event, now)
                case DeadlineReached():
                    return _deadline(tally, now)
                case CancelRequested():
                    error = f"cancelled: {event.reason}" if event.reason else "cancelled by request"
                    return _end(tally, Cause.CANCEL, State.CANCELLED, now, error, by=event.seq)
                case _:
                    assert_never(event)
        case _:
            assert_never(event)


def _requested(tally: Tally | None, event: Requested, now: float) -> Reaction:
    if tally is not None:
        return _seen_before(tally, event)
    new = Tally(
        task_id=event.task_id,
        state=State.PENDING,
        request_seq=event.seq,
        role=event.role,
        min_responses=event.min_responses,
        finish_early=event.finish_early,
        rounds=event.rounds,
        accepted_at=event.at,
        deadline=event.deadline,
        phases=(_phase(1, event),),
        metadata=dict(event.metadata),
        reply_to=event.reply_to,
        traceparent=event.traceparent,
    )
    if now >= event.deadline:
        state = move(None, Cause.REQUESTED, State.TIMEOUT)
        verdict = Decision(error=_too_late(new, "before any agent could start"), decided_at=now)
        ended = new.model_copy(update={"state": state, "verdict": verdict})
        return Reaction(ended, _after(ended))
    move(None, Cause.REQUESTED, State.PENDING)
    return Reaction(new, _start(new))


def _phase(number: int, event: Requested) -> Phase:
    agents = tuple(agent_id(event.role, place) for place in range(1, event.num_agents + 1))
    return Phase(number=number, agents=agents)


def _start(tally: Tally) -> tuple[Effect, ...]:
    return ArmDeadline(tally.deadline), RequestAgents(tally.phase.number, tally.phase.missing)


def _seen_before(tally: Tally, event: Requested) -> Reaction:
    """The same message again finishes what its first delivery began; another message of that name does nothing."""
    if tally.ended:
        return _already_ended(tally, event)
    if tally.request_seq == event.seq:
        return Reaction(tally, _start(tally), note="redelivered request: carried on")
    return Reaction(tally, note="a deliberation of this task_id exists")


def _refused(tally: Tally | None, event: Refused, now: float) -> Reaction:
    if tally is not None and tally.ended:
        return _already_ended(tally, event)
    if tally is not None and tally.request_seq != event.seq:
        return Reaction(tally, note="a deliberation of this task_id exists")
    if tally is not None:
        # Recorded, and only then found impossible to carry out.
        return _end(tally, Cause.ABANDONED, State.FAILED, now, event.error)
    state = State.REJECTED if event.cause is Cause.REFUSED else State.FAILED
    new = Tally(
        task_id=event.task_id,
        state=move(None, event.cause, state),
        request_seq=event.seq,
        accepted_at=event.at,
        deadline=event.at,
        verdict=Decision(error=event.error, decided_at=now),
        reply_to=event.reply_to,
        traceparent=event.traceparent,
    )
    return Reaction(new, (PublishEnding(),))


def _reported(tally: Tally, event: Reported, now: float) -> Reaction:
    phase = tally.phase
    if event.round != phase.number:
        return Reaction(tally, note=f"round {event.round} is not the current round")
    if event.agent_id not in phase.agents:
        return Reaction(tally, note="no such agent in this deliberation")
    if event.agent_id in phase.outcomes:
        return Reaction(tally, note="this agent has reported before")
    if event.error_type is ErrorType.DEADLINE_EXCEEDED:
        # Only the deadline ends by deadline: a worker's clock must not decide between `failed` and `timeout`.
        return Reaction(tally, note="ran out of time: the deadline decides")
    if now >= tally.deadline:
        return Reaction(tally, note="late: the deadline decides")
    outcome = Outcome(succeeded=event.error_type is None, seq=event.seq)
    phase = phase.model_copy(update={"outcomes": {**phase.outcomes, event.agent_id: outcome}})
    counted = tally.model_copy(update={"phases": (*tally.phases[:-1], phase)})
    enough = phase.successes >= tally.min_responses
    if not phase.missing:
        error = "" if enough else _too_few(counted)
        return _end(
            counted, Cause.REPORTED, State.COMPLETED if enough else State.FAILED, now, error, by=event.seq
        )
    if tally.finish_early and enough:
        return _end(counted, Cause.REPORTED, State.COMPLETED, now, by=event.seq)
    state = move(tally.state, Cause.REPORTED, State.IN_PROGRESS)
    return Reaction(counted.model_copy(update={"state": state}))


def _deadline(tally: Tally, now: float) -> Reaction:
    if now < tally.deadline:
        # A timer that fired early, or was forged. Armed anew rather than awaited: what fires then has a time of its own.
        return Reaction(tally, (ArmDeadline(tally.deadline),), note="early: the deadline is still to come")
    if tally.phase.successes >= tally.min_responses:
        return _end(tally, Cause.DEADLINE, State.COMPLETED, now)
    reported = len(tally.phase.outcomes)
    error = _too_late(tally, f"with {reported} of {len(tally.phase.agents)} agents heard")
    return _end(tally, Cause.DEADLINE, State.TIMEOUT, now, error)


def _end(
    tally: Tally, cause: Cause, to: State, now: float, error: str = "", by: int | None = None
) -> Reaction:
    verdict = Decision(error=error, decided_at=now, by=by)
    ended = tally.model_copy(update={"state": move(tally.state, cause, to), "verdict": verdict})
    return Reaction(ended, _after(ended))


def _after(ended: Tally) -> tuple[Effect, ...]:
    """What follows an ending, and follows again where it may not have been done to its end."""
    if not ended.phase.missing or ended.verdict is None:
        return (PublishEnding(),)
    return PublishEnding(), StopAgents(ended.verdict.error or "finished early")


def _already_ended(tally: Tally, event: Event) -> Reaction:
    """What may have decided the ending publishes it, should it come again. What comes by leaves that to it: the ending is most likely
    on its way just now, and core NATS would carry a second copy to everybody."""
    if not tally.ending_unpublished:
        return Reaction(tally, note="already ended")
    if not _may_have_ended(tally, event):
        return Reaction(tally, note="already ended: who decided it publishes it")
    return Reaction(tally, _after(tally), note="ended, but not known to be published: published again")


def _may_have_ended(tally: Tally, event: Event) -> bool:
    """Whether the tally's ending can be this very message's doing. The deadline, which comes last, answers for all."""
    match event:
        case Requested() | Refused():
            return event.seq == tally.request_seq
        case Reported():
            return tally.state is not State.CANCELLED and _decided_by(tally, event.seq)
        case CancelRequested():
            return tally.state is State.CANCELLED and _decided_by(tally, event.seq)
        case _:
            return True


def _decided_by(tally: Tally, seq: int | None) -> bool:
    return tally.verdict is not None and tally.verdict.by == seq


def _published(tally: Tally | None, event: EndingPublished) -> Reaction:
    if tally is None or not tally.ended:
        return Reaction(tally, note="nothing to mark")
    if tally.ending_seq is not None:
        return Reaction(tally, note="already marked")
    return Reaction(tally.model_copy(update={"ending_seq": event.seq}))


def _too_late(tally: Tally, how: str) -> str:
    waited = tally.deadline - tally.accepted_at
    return f"deadline of {waited:g} s passed at {format_timestamp(tally.deadline)} {how}"


def _too_few(tally: Tally) -> str:
    phase = tally.phase
    return f"{phase.successes} of {len(phase.agents)} agents answered, {tally.min_responses} needed"
