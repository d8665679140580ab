"""The tally of one deliberation, and `react`, which decides what an event does to it.

    request ──► pending ──► in_progress ──► an ending: completed, failed, timeout, cancelled or rejected
                        first outcome      last outcome, deadline or cancel

`react(tally, event, now)` is pure: no I/O, no clock, no randomness. It returns the next tally, and the effects that
the caller carries out, in order, once the tally is stored. A duplicate, a late outcome or an illegal move changes
nothing: the same tally comes back, with a note that says why.

A tally counts outcomes and does not hold them. It keeps each one's sequence in the stream AGENT_RESPONSES, so that a
tally of 256 agents stays at a few KiB.

A deliberation has phases, one a round. It ends when the last phase is settled.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never

from pydantic import BaseModel, Field

from parley.broker.core.events_and_effects import (
    ArmDeadline,
    CancelRequested,
    DeadlineReached,
    Effect,
    EndingPublished,
    Event,
    PublishEnding,
    Refused,
    Reported,
    RequestAgents,
    Requested,
    SendEnding,
    StopAgents,
)
from parley.broker.core.messages import ErrorType, agent_id
from parley.broker.core.states_and_moves import ENDINGS, Cause, State, move
from parley.broker.core.timestamps import format_timestamp

__all__ = [
    "CANCEL_AHEAD_SECONDS", "MAX_MORE_INBOXES", "OVERDUE_SECONDS", "ArmDeadline", "CancelRequested", "DeadlineReached", "Decision", "Effect", "EndingPublished",
    "Event", "Outcome", "Phase", "PublishEnding", "Reaction", "Refused", "Reported", "RequestAgents", "Requested",
    "SendEnding", "StopAgents", "Tally", "asks_another", "react",
]  # fmt: skip

# Inboxes of later askers that a tally keeps, besides the first asker's: 4 KiB. One more pushes out the oldest: its
# asker has asked again, or finds the ending by `deliberation.get`.
MAX_MORE_INBOXES = 16
# A cancel also stops a request that was stored up to this many seconds after it.
CANCEL_AHEAD_SECONDS = 60.0
# An outcome that was stored longer than this before its request is that of an earlier deliberation of the name. Servers
# of a cluster, whose clocks may differ by less, store the two.
OLD_OUTCOME_SECONDS = 60.0
# An outcome stored this long after the deadline shows that the deadline was lost: it comes within a second.
OVERDUE_SECONDS = 2.0

# ── the tally, as the KV bucket `deliberations` holds it. Clients read it there, so its field names stay ──────────


class Outcome(BaseModel, frozen=True):
    """One agent has reported. `seq`: where its outcome is in AGENT_RESPONSES."""

    succeeded: bool
    seq: int


class Phase(BaseModel, frozen=True):
    """One round: its agents, in order, and the outcomes counted so far, by agent."""

    number: int
    agents: tuple[str, ...]
    outcomes: Mapping[str, Outcome] = Field(default_factory=dict)

    @property
    def successes(self) -> int:
        return sum(outcome.succeeded for outcome in self.outcomes.values())

    @property
    def missing(self) -> tuple[str, ...]:
        """The agents that have not reported."""
        return tuple(agent for agent in self.agents if agent not in self.outcomes)


class Decision(BaseModel, frozen=True):
    """How the deliberation ended, and when that was decided: not before it was asked for. `error` is empty if it
    completed.

    `by`: the sequence of the outcome (in AGENT_RESPONSES) or the cancel (in REQUESTS) that decided it; else None.
    """

    error: str = ""
    decided_at: float
    by: int | None = None


class Tally(BaseModel, frozen=True):
    """The value under the key `task_id`. Instants are seconds since the epoch, on the NATS server's clock.

    `verdict`: the decision, None while the deliberation runs. `ending_seq`: where the ending is in DELIBERATIONS; it
    is set once the ending is stored, and so marks it as published. `more_reply_to`: inboxes of those who asked the same
    later. `question`: the digest of what was asked; None in tallies of version 0.1.0, and of an invalid request.
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
    more_reply_to: tuple[str, ...] = ()
    question: str | None = None

    @property
    def inboxes(self) -> tuple[str, ...]:
        """Where the ending is to be sent."""
        return self.more_reply_to if self.reply_to is None else (self.reply_to, *self.more_reply_to)

    @property
    def phase(self) -> Phase:
        """The current phase. A deliberation that was refused has an empty phase 0."""
        return self.phases[-1] if self.phases else Phase(number=0, agents=())

    @property
    def ended(self) -> bool:
        return self.state in ENDINGS

    @property
    def ending_unpublished(self) -> bool:
        """Ended, but not marked as published."""
        return self.ended and self.ending_seq is None

    @property
    def stopped(self) -> tuple[str, ...]:
        """The agents that were not waited for because the caller asked for that: `finish_early`."""
        return self.phase.missing if self.finish_early and self.state is State.COMPLETED else ()

    @property
    def missing(self) -> tuple[str, ...]:
        """The agents that have not reported and were waited for."""
        return () if self.stopped else self.phase.missing

    @property
    def outcomes_needed(self) -> int:
        """How many more outcomes could end the deliberation, if all of them succeed. At least 1."""
        phase = self.phase
        needed = len(phase.agents) - len(phase.outcomes)
        if self.finish_early:
            needed = min(needed, self.min_responses - phase.successes)
        return max(1, needed)


# ── reactions ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Reaction:
    """`note` says why nothing changed. It is empty when something changed."""

    tally: Tally | None
    effects: tuple[Effect, ...] = ()
    note: str = ""


# ── react ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def react(tally: Tally | None, event: Event, now: float) -> Reaction:
    """What `event`, seen at `now` (seconds since the epoch), does to `tally` (None: not recorded)."""
    match event:
        case Requested():
            return _requested(tally, event, now)
        case Refused():
            return _refused(tally, event, now)
        case EndingPublished():
            return _published(tally, event)
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
            if _is_of_an_earlier_one(tally, event):
                return Reaction(tally, note="the cancel is older than this deliberation")
            error = f"cancelled: {event.reason}" if event.reason else "cancelled by request"
            return _end(tally, Cause.CANCEL, State.CANCELLED, now, error, by=event.seq)
        case _:
            assert_never(event)


# ── a request: record it, or refuse it ────────────────────────────────────────────────────────────────────────────


def _requested(tally: Tally | None, event: Requested, now: float) -> Reaction:
    if tally is not None:
        return _requested_again(tally, event)
    agents = tuple(agent_id(event.role, place) for place in range(1, event.num_agents + 1))
    new = Tally(
        task_id=event.task_id,
        state=move(None, Cause.REQUESTED, State.PENDING),
        request_seq=event.seq,
        role=event.role,
        min_responses=event.min_responses,
        finish_early=event.finish_early,
        rounds=event.rounds,
        accepted_at=event.at,
        deadline=event.deadline,
        phases=(Phase(number=1, agents=agents),),
        metadata=dict(event.metadata),
        reply_to=event.reply_to,
        traceparent=event.traceparent,
        question=event.question,
    )
    if now < event.deadline:
        return Reaction(new, _start_effects(new))
    state = move(None, Cause.REQUESTED, State.TIMEOUT)
    verdict = Decision(error=_too_late(new, "before any agent could start"), decided_at=now)
    ended = new.model_copy(update={"state": state, "verdict": verdict})
    return Reaction(ended, _ending_effects(ended))


def _requested_again(tally: Tally, event: Requested) -> Reaction:
    """A redelivery finishes what the first delivery began. Another asker of the same question gets the same ending."""
    same = tally.request_seq == event.seq
    if tally.ended and (same or event.reply_to is None or asks_another(tally, event)):
        return _already_ended(tally, event)
    if same:
        return Reaction(tally, _start_effects(tally), note="redelivered request: carried on")
    if event.reply_to is None or asks_another(tally, event):
        return Reaction(tally, note="a deliberation of this task_id exists")
    if tally.ending_seq is not None:
        return Reaction(tally, (SendEnding(tally.ending_seq, event.reply_to),), note="already ended")
    if event.reply_to in tally.inboxes:
        return Reaction(tally, note="this asker is known")
    inboxes = (*tally.more_reply_to, event.reply_to)[-MAX_MORE_INBOXES:]
    return Reaction(tally.model_copy(update={"more_reply_to": inboxes}))


def asks_another(tally: Tally, event: Requested) -> bool:
    """Whether this request has the `task_id` of another question. An invalid request is no valid one's question."""
    if tally.request_seq == event.seq:
        return False
    known = tally.question is not None and event.question is not None
    return tally.state is State.REJECTED or (known and tally.question != event.question)


def _start_effects(tally: Tally) -> tuple[Effect, ...]:
    return ArmDeadline(tally.deadline), RequestAgents(tally.phase.number, tally.phase.missing)


def _refused(tally: Tally | None, event: Refused, now: float) -> Reaction:
    if tally is not None and tally.ended:
        return _already_ended(tally, event)
    if tally is not None and tally.request_seq != event.seq:
        return Reaction(tally, note="a deliberation of this task_id exists")
    if tally is not None:
        # It was recorded, and its effects could not be carried out.
        return _end(tally, Cause.ABANDONED, State.FAILED, now, event.error)
    state = State.REJECTED if event.cause is Cause.REFUSED else State.FAILED
    new = Tally(
        task_id=event.task_id,
        state=move(None, event.cause, state),
        request_seq=event.seq,
        accepted_at=event.at,
        deadline=event.at,
        verdict=Decision(error=event.error, decided_at=max(now, event.at)),
        reply_to=event.reply_to,
        traceparent=event.traceparent,
    )
    return Reaction(new, _ending_effects(new))


def _is_of_an_earlier_one(tally: Tally, event: CancelRequested) -> bool:
    """Whether a cancel was meant for an earlier deliberation of this task_id: it was stored long before the request."""
    if event.seq is None or event.at is None or event.seq > tally.request_seq:
        return False
    return tally.accepted_at - event.at > CANCEL_AHEAD_SECONDS


# ── while it runs: outcomes, and the deadline ─────────────────────────────────────────────────────────────────────


def _reported(tally: Tally, event: Reported, now: float) -> Reaction:
    if now >= tally.deadline + OVERDUE_SECONDS:
        return _deadline(tally, now, by=event.seq)
    phase = tally.phase
    if now < tally.accepted_at - OLD_OUTCOME_SECONDS:
        return Reaction(tally, note="older than this deliberation")
    if event.round != phase.number:
        return Reaction(tally, note=f"round {event.round} is not the current round")
    if event.agent_id not in phase.agents:
        return Reaction(tally, note="no such agent in this deliberation")
    if event.agent_id in phase.outcomes:
        return Reaction(tally, note="this agent has reported before")
    if event.error_type is ErrorType.DEADLINE_EXCEEDED:
        # A worker's clock must not decide between `failed` and `timeout`.
        return Reaction(tally, note="ran out of time: the deadline decides")
    if now >= tally.deadline:
        return Reaction(tally, note="late: the deadline decides")
    outcome = Outcome(succeeded=event.error_type is None, seq=event.seq)
    phase = phase.model_copy(update={"outcomes": {**phase.outcomes, event.agent_id: outcome}})
    counted = tally.model_copy(update={"phases": (*tally.phases[:-1], phase)})
    enough = phase.successes >= tally.min_responses
    if enough and (tally.finish_early or not phase.missing):
        return _end(counted, Cause.REPORTED, State.COMPLETED, now, by=event.seq)
    if not phase.missing:
        error = f"{phase.successes} of {len(phase.agents)} agents answered, {tally.min_responses} needed"
        return _end(counted, Cause.REPORTED, State.FAILED, now, error, by=event.seq)
    state = move(tally.state, Cause.REPORTED, State.IN_PROGRESS)
    return Reaction(counted.model_copy(update={"state": state}))


def _deadline(tally: Tally, now: float, by: int | None = None) -> Reaction:
    if now < tally.deadline:
        return Reaction(tally, (ArmDeadline(tally.deadline),), note="early: the deadline is still to come")
    if tally.phase.successes >= tally.min_responses:
        return _end(tally, Cause.DEADLINE, State.COMPLETED, now, by=by)
    error = _too_late(tally, f"with {len(tally.phase.outcomes)} of {len(tally.phase.agents)} agents heard")
    return _end(tally, Cause.DEADLINE, State.TIMEOUT, now, error, by)


# ── the ending: decide it, publish it, mark it ────────────────────────────────────────────────────────────────────


def _end(old: Tally, cause: Cause, to: State, now: float, error: str = "", by: int | None = None) -> Reaction:
    # Servers' clocks differ, and what was answered to an earlier asker of the name may be the last that was needed.
    verdict = Decision(error=error, decided_at=max(now, old.accepted_at), by=by)
    ended = old.model_copy(update={"state": move(old.state, cause, to), "verdict": verdict})
    return Reaction(ended, _ending_effects(ended))


def _ending_effects(ended: Tally) -> tuple[Effect, ...]:
    if not ended.phase.missing or ended.verdict is None:
        return (PublishEnding(),)
    return PublishEnding(), StopAgents(ended.verdict.error or "finished early")


def _already_ended(tally: Tally, event: Event) -> Reaction:
    """Only the message that decided the ending, or the deadline, publishes it again. Any other message is ignored:
    the publisher is probably mid-way, and core NATS subscribers would see a duplicate."""
    if not tally.ending_unpublished:
        return Reaction(tally, note="already ended")
    if not _may_have_decided(tally, event):
        return Reaction(tally, note="already ended: the message that decided it publishes the ending")
    return Reaction(tally, _ending_effects(tally), note="ended, not marked as published: published again")


def _may_have_decided(tally: Tally, event: Event) -> bool:
    """Whether this message may have decided the ending. The deadline, which comes last, may always publish it again."""
    decided_by = tally.verdict.by if tally.verdict is not None else None
    match event:
        case Requested() | Refused():
            return event.seq == tally.request_seq
        case Reported():
            return tally.state is not State.CANCELLED and event.seq == decided_by
        case CancelRequested():
            return tally.state is State.CANCELLED and event.seq == decided_by
        case _:
            return True


def _published(tally: Tally | None, event: EndingPublished) -> Reaction:
    if tally is None or not tally.ended:
        return Reaction(tally, note="nothing to mark")
    if tally.ending_seq is not None:
        return Reaction(tally, note="already marked")
    return Reaction(tally.model_copy(update={"ending_seq": event.seq}))


def _too_late(tally: Tally, how: str) -> str:
    seconds = tally.deadline - tally.accepted_at
    return f"deadline of {seconds:g} s passed at {format_timestamp(tally.deadline)} {how}"
