"""`react`, which decides what an event does to a tally.

    request ──► pending ──► in_progress ──► an ending: completed, failed, timeout, cancelled or rejected
                        first outcome      last outcome, deadline or cancel

`react(tally, event, now)` is pure: no I/O, no clock, no randomness. It returns the next tally, and the effects that
the caller carries out, in order, once the tally is stored. A duplicate, a late outcome or an illegal move changes
nothing: the same tally comes back, with a note that says why.
"""

from dataclasses import dataclass
from typing import assert_never

from parley.broker.core.choice import choose, shown, synthesis_of
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
    Requested,
    SendEnding,
    StopAgents,
)
from parley.broker.core.frozen_models import changed
from parley.broker.core.judging_orders import is_whole_ranking
from parley.broker.core.messages import ErrorType
from parley.broker.core.phase_changes import (
    closed,
    closing,
    first_phase,
    has_use_of_limit,
    needs,
    next_step,
    opened,
    with_phase,
)
from parley.broker.core.phase_plan import COMPARING, PhaseKind, Select
from parley.broker.core.states_and_moves import Cause, State, move
from parley.broker.core.tally import ClosedBy, Decision, Outcome, Tally
from parley.broker.core.timestamps import format_timestamp

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
            return _alarm(tally, now)
        case CancelRequested():
            if _is_of_an_earlier_one(tally, event):
                return Reaction(tally, note="the cancel is older than this deliberation")
            error = f"cancelled: {event.reason}" if event.reason else "cancelled by request"
            stopped = closed(tally, ClosedBy.CANCEL, now)
            return _end(stopped, Cause.CANCEL, State.CANCELLED, now, error, by=event.seq)
        case _:
            assert_never(event)


# ── a request: record it, or refuse it ────────────────────────────────────────────────────────────────────────────


def _requested(tally: Tally | None, event: Requested, now: float) -> Reaction:
    if tally is not None:
        return _requested_again(tally, event)
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
        phases=(first_phase(event),),
        metadata=dict(event.metadata),
        reply_to=event.reply_to,
        traceparent=event.traceparent,
        question=event.question,
        select=event.select,
        plan=event.plan,
        agree=event.agree,
        max_calls=event.max_calls,
        synthesize=event.synthesize,
    )
    if now < event.deadline:
        return Reaction(new, needs(new))
    state = move(None, Cause.REQUESTED, State.TIMEOUT)
    verdict = Decision(error=_too_late(new, "before any agent could start"), decided_at=now)
    ended = changed(new, state=state, verdict=verdict)
    return Reaction(ended, _ending_effects(ended))


def _requested_again(tally: Tally, event: Requested) -> Reaction:
    """A redelivery finishes what the first delivery began. Another asker of the same question gets the same ending."""
    same = tally.request_seq == event.seq
    if tally.ended and (same or event.reply_to is None or asks_another(tally, event)):
        return _already_ended(tally, event)
    if same:
        return Reaction(tally, needs(tally), note="redelivered request: carried on")
    if event.reply_to is None or asks_another(tally, event):
        return Reaction(tally, note="a deliberation of this task_id exists")
    if tally.ending_seq is not None:
        return Reaction(tally, (SendEnding(tally.ending_seq, event.reply_to),), note="already ended")
    if event.reply_to in tally.inboxes:
        return Reaction(tally, note="this asker is known")
    inboxes = (*tally.more_reply_to, event.reply_to)[-MAX_MORE_INBOXES:]
    return Reaction(changed(tally, more_reply_to=inboxes))


def asks_another(tally: Tally, event: Requested) -> bool:
    """Whether this request has the `task_id` of another question. An invalid request is no valid one's question."""
    if tally.request_seq == event.seq:
        return False
    known = tally.question is not None and event.question is not None
    return tally.state is State.REJECTED or (known and tally.question != event.question)


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
    phase, limit = tally.phase, tally.limit
    if event.seq == phase.opened_by:
        return Reaction(tally, needs(tally), note="it opened the current phase: carried on")
    if now >= tally.deadline + OVERDUE_SECONDS or (
        now >= limit + OVERDUE_SECONDS and has_use_of_limit(tally, now)
    ):
        return _alarm(tally, now, by=event.seq)
    note = _why_not_counted(tally, event, now)
    if note:
        return Reaction(tally, note=note)
    counted = with_phase(tally, phase.counting(event.agent_id, _outcome(tally, event)))
    effects: tuple[Effect, ...] = ()
    if now >= limit:
        # It is stored after the limit, at which too little was there, and the alarm has still to come.
        counted, effects = _with_moved_limit(counted)
    by = closing(counted, now)
    if by is not None:
        return _close(counted, Cause.REPORTED, by, now, event.seq)
    state = move(tally.state, Cause.REPORTED, State.IN_PROGRESS)
    if state is not tally.state:
        counted = changed(counted, state=state)
    return Reaction(counted, effects)


def _why_not_counted(tally: Tally, event: Reported, now: float) -> str:
    phase = tally.phase
    if now < tally.accepted_at - OLD_OUTCOME_SECONDS:
        return "older than this deliberation"
    if event.round != phase.number:
        return f"round {event.round} is not the current round"
    if event.phase is not phase.kind:
        return f"the phase {event.phase} is not the current one"
    if event.agent_id not in phase.agents:
        return "no such agent in this deliberation"
    if event.agent_id in phase.outcomes:
        return "this agent has reported before"
    if event.error_type is ErrorType.DEADLINE_EXCEEDED:
        # A worker's clock must not decide between `failed` and `timeout`.
        return "ran out of time: the deadline decides"
    if now >= tally.deadline:
        return "late: the deadline decides"
    if now >= tally.limit and has_use_of_limit(tally, now):
        return "late: the phase's limit decides"
    return ""


def _outcome(tally: Tally, event: Reported) -> Outcome:
    """What is counted: of a judge only a ballot that ranks what it was shown is one."""
    succeeded = event.error_type is None
    if tally.phase.kind in COMPARING:
        seen = shown(tally, tally.phase)[event.agent_id]
        succeeded = succeeded and is_whole_ranking(event.said or "", len(seen))
    return Outcome(succeeded=succeeded, seq=event.seq, said=event.said if succeeded else None)


def _alarm(tally: Tally, now: float, by: int | None = None) -> Reaction:
    """The limit of the current phase has come, which is the deadline if nothing follows."""
    if now < tally.limit:
        effects = needs(tally) if tally.later_phases else (ArmDeadline(tally.limit),)
        return Reaction(tally, effects, note="early: the deadline is still to come")
    if now < tally.deadline:
        if has_use_of_limit(tally, now):
            return _close(tally, Cause.LIMIT, ClosedBy.LIMIT, now, by)
        return Reaction(*_with_moved_limit(tally))
    if tally.answers.successes >= tally.min_responses:
        return _complete(tally, Cause.DEADLINE, ClosedBy.DEADLINE, now, by)
    error = _too_late(
        tally, f"with {len(tally.answers.outcomes)} of {len(tally.answers.agents)} agents heard"
    )
    return _end(closed(tally, ClosedBy.DEADLINE, now), Cause.DEADLINE, State.TIMEOUT, now, error, by)


def _with_moved_limit(tally: Tally) -> tuple[Tally, tuple[Effect, ...]]:
    """An answer is worth more than a ranking: with too little at its limit, a phase may last until the deadline."""
    moved = with_phase(tally, changed(tally.phase, limit=tally.deadline))
    # Who opened the phase may have died before its work was requested.
    return moved, needs(moved) if moved.later_phases else (ArmDeadline(tally.deadline),)


# ── a phase is closed: the next one, or the end ───────────────────────────────────────────────────────────────────


def _close(tally: Tally, cause: Cause, by: ClosedBy, now: float, seq: int | None) -> Reaction:
    answers = tally.answers
    if answers.successes < tally.min_responses:
        error = f"{answers.successes} of {len(answers.agents)} agents answered, {tally.min_responses} needed"
        return _end(closed(tally, by, now), cause, State.FAILED, now, error, by=seq)
    step = next_step(tally, now)
    if step is None:
        return _complete(tally, cause, by, now, seq)
    last = closed(tally, by, now)
    if step.kind is PhaseKind.EDIT:
        last = changed(last, choice=choose(last))
    following = changed(opened(last, now, seq), state=move(tally.state, cause, State.IN_PROGRESS))
    return Reaction(following, needs(following))


def _complete(tally: Tally, cause: Cause, by: ClosedBy, now: float, seq: int | None) -> Reaction:
    """The choice is made here, once, and stored with the verdict; or was made before an editor was asked."""
    last = closed(tally, by, now)
    if last.select is not Select.NONE:
        last = changed(last, choice=last.choice or choose(last), synthesis=synthesis_of(last))
    return _end(last, cause, State.COMPLETED, now, by=seq)


# ── the ending: decide it, publish it, mark it ────────────────────────────────────────────────────────────────────


def _end(old: Tally, cause: Cause, to: State, now: float, error: str = "", by: int | None = None) -> Reaction:
    # Servers' clocks differ, and what was answered to an earlier asker of the name may be the last that was needed.
    verdict = Decision(error=error, decided_at=max(now, old.accepted_at), by=by)
    ended = changed(old, state=move(old.state, cause, to), verdict=verdict)
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
    return Reaction(changed(tally, ending_seq=event.seq))


def _too_late(tally: Tally, how: str) -> str:
    seconds = tally.deadline - tally.accepted_at
    return f"deadline of {seconds:g} s passed at {format_timestamp(tally.deadline)} {how}"
