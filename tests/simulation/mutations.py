"""Rules broken on purpose, each with the invariant that must notice, or the simulation would prove nothing."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from parley.broker.core import reactions
from parley.broker.core.events_and_effects import (
    ArmDeadline,
    CancelRequested,
    DeadlineReached,
    EndingPublished,
    Event,
    RequestAgents,
    Requested,
)
from parley.broker.core.messages import DeliberationRequested
from parley.broker.core.observer import Observer
from parley.broker.core.reactions import Reaction
from parley.broker.core.states_and_moves import STATUS_WORDS, State
from parley.broker.core.tally import Decision, Tally
from parley.broker.jetstream import tally_store
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.tally_store import FoldResult, TallyStore
from parley.handlers.effects import EffectRunner
from parley.handlers.ending_publisher import EndingPublisher
from parley.handlers.intake import Intake
from parley.handlers.pull_window import PullWindow
from parley.handlers.settle import AnyDelivery, Runner, Settler
from parley.workers.worker import Worker
from tests.simulation.conditions.condition import Condition
from tests.simulation.invariants import Invariant

_react = reactions.react
_apply_events = EffectRunner.apply
_store = JetStream.publish
_arm = EffectRunner.arm
_store_ending = EndingPublisher._store
_publish_ending = EndingPublisher.publish
_carry_out = Worker._carry_out
_to_request = PullWindow.to_request
_apply = TallyStore.apply


@dataclass(frozen=True, slots=True)
class Mutation:
    """`broken`: what is done wrong. `trips`: the invariant that must notice it.

    `blind`: invariants that are not checked, because they would notice first. `condition`: of the histories that it is
    looked for in.
    """

    broken: str
    trips: Invariant
    breaking: Callable[[], AbstractContextManager[Any]]
    blind: frozenset[Invariant] = frozenset()
    condition: type[Condition] = Condition

    @property
    def name(self) -> str:
        return self.broken.replace(" ", "_").replace(",", "").replace("'", "")


# ── the tally ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _never_marks(before: Tally | None, event: Event, now: float) -> Reaction:
    if isinstance(event, EndingPublished):
        return Reaction(before, note="not marked")
    return _react(before, event, now)


def _cancels_the_ended(before: Tally | None, event: Event, now: float) -> Reaction:
    if (
        isinstance(event, CancelRequested)
        and before is not None
        and before.ended
        and before.ending_seq is None
    ):
        return Reaction(
            before.model_copy(
                update={"state": State.CANCELLED, "verdict": Decision(error="cancelled", decided_at=now)}
            )
        )
    return _react(before, event, now)


def _does_not_arm_anew(before: Tally | None, event: Event, now: float) -> Reaction:
    reaction = _react(before, event, now)
    if isinstance(event, DeadlineReached) and any(
        isinstance(effect, ArmDeadline) for effect in reaction.effects
    ):
        return Reaction(reaction.tally, note="early")
    return reaction


def _reacting(
    react: Callable[[Tally | None, Event, float], Reaction],
) -> Callable[[], AbstractContextManager[Any]]:
    return lambda: patch.object(tally_store, "react", react)


# ── the order of steps ────────────────────────────────────────────────────────────────────────────────────────────


async def _acks_first(self: Runner, delivery: AnyDelivery) -> None:
    await delivery.ack()
    try:
        await self._handle(delivery)
    except Exception as error:
        await self._settler.failed(delivery, error)


async def _fans_out_first(
    self: EffectRunner,
    task_id: str,
    events: Sequence[tuple[Event, float]],
    request: DeliberationRequested | None = None,
    **seen: bool,
) -> FoldResult:
    for event, now in events:
        if isinstance(event, Requested) and request is not None:
            reaction = _react(None, event, now)
            assert reaction.tally is not None
            for effect in reaction.effects:
                if isinstance(effect, RequestAgents):
                    await self._run(effect, reaction.tally, request)
    return await _apply_events(self, task_id, events, request, **seen)


async def _worker_acks_first(self: Worker, key: str, traceparent: str | None) -> None:
    await self._settle(key, b"+ACK")
    await _carry_out(self, key, traceparent)


async def _marks_first(self: EndingPublisher, decided: Tally) -> None:
    await self._tallies.mark_published(decided.task_id, 1)
    await _publish_ending(self, decided)


async def _publishes_before_deciding(
    self: TallyStore, task_id: str, events: Sequence[tuple[Event, float]], *, new: bool = False, **seen: bool
) -> FoldResult:
    before = await self.read(task_id)
    for event, now in events:
        decided = _react(before, event, now).tally if before is not None else None
        if decided is not None and decided.ended and before is not None and not before.ended:
            publisher = EndingPublisher(self._jetstream, self, Observer(), claim_check_bytes=1_000_000)
            body = f'{{"task_id":"{task_id}","status":"timeout"}}'.encode()
            await _store_ending(publisher, decided, "deliberation.failed", body)
    return await _apply(self, task_id, events, new=new, **seen)


# ── what is left out ──────────────────────────────────────────────────────────────────────────────────────────────


async def _writes_blindly(
    self: JetStream, subject: str, body: bytes, *, msg_id: str | None = None, headers: Any = None
) -> Any:
    kept = {
        key: value for key, value in (headers or {}).items() if key != "Nats-Expected-Last-Subject-Sequence"
    }
    return await _store(self, subject, body, msg_id=msg_id, headers=kept)


async def _stores_without_msg_id(self: EndingPublisher, decided: Tally, subject: str, body: bytes) -> int:
    return (await self._jetstream.publish(subject, body)).seq


async def _stores_twice(self: EndingPublisher, decided: Tally, subject: str, body: bytes) -> int:
    await _store_ending(self, decided, subject, body)
    return await _store_ending(self, decided, subject, body)


async def _forgets_the_deadline(self: EffectRunner, running: Tally, at: float) -> None:
    await asyncio.sleep(0)


async def _arms_late(self: EffectRunner, running: Tally, at: float) -> None:
    await _arm(self, running, at + 30.0)


async def _arms_for_next_day(self: EffectRunner, running: Tally, at: float) -> None:
    await _arm(self, running, at + 86_400.0)


async def _refuses_in_silence(self: Intake, delivery: Any, error: str, cause: Any) -> None:
    await asyncio.sleep(0)


async def _sends_no_inbox(self: JetStream, subject: str, body: bytes, headers: Any = None) -> None:
    await asyncio.sleep(0)


async def _dead_letters_nothing(self: Settler, delivery: AnyDelivery, reason: str) -> None:
    await delivery.nak(1.0)


async def _looks_for_nothing(self: EndingPublisher, tally: Tally) -> None:
    return None


async def _trips_over_itself(self: JetStream, subject: str, body: bytes, headers: Any = None) -> None:
    raise KeyError(subject)


# ── the pull window ───────────────────────────────────────────────────────────────────────────────────────────────


def _asks_for_one_too_many(self: PullWindow[Any], outside: int | None = None) -> int:
    wanted = _to_request(self, outside)
    return wanted + 1 if wanted else 0


def _counts_on_lost_requests(self: PullWindow[Any]) -> None:
    pass


def _gives_up_no_request(self: PullWindow[Any], now: float, late: float = 0.0) -> None:
    pass


def _frees_no_room(self: PullWindow[Any], count: int, size: int = 0) -> None:
    pass


def _method(owner: type, name: str, broken: Callable[..., Any]) -> Callable[[], AbstractContextManager[Any]]:
    return lambda: patch.object(owner, name, broken)


def _both(
    one: Callable[[], AbstractContextManager[Any]], other: Callable[[], AbstractContextManager[Any]]
) -> Callable[[], AbstractContextManager[Any]]:
    @contextmanager
    def broken() -> Iterator[None]:
        with one(), other():
            yield

    return broken


def _rule(
    rule: str,
    trips: Invariant,
    owner: type,
    name: str,
    broken: Any,
    blind: frozenset[Invariant] = frozenset(),
) -> Mutation:
    """One method is replaced by `broken`."""
    return Mutation(rule, trips, _method(owner, name, broken), blind)


_UNSEEN = frozenset({Invariant.EFFECTS_FIRST, Invariant.NOT_LOST})

MUTATIONS = (
    Mutation("never marks an ending published", Invariant.EFFECTS_FIRST, _reacting(_never_marks)),
    Mutation(
        "never marks, and looks for nothing when Msg-Ids are forgotten",
        Invariant.ONE_ENDING,
        _both(_reacting(_never_marks), _method(EndingPublisher, "_find", _looks_for_nothing)),
        _UNSEEN,
    ),
    Mutation("never marks, and comes to rest so", Invariant.AN_ENDING, _reacting(_never_marks), _UNSEEN),
    _rule(
        "the ending has no Msg-Id", Invariant.ONE_ENDING, EndingPublisher, "_store", _stores_without_msg_id
    ),
    _rule("the deadline is armed half a minute late", Invariant.IN_TIME, EffectRunner, "arm", _arms_late),
    _rule("publishes before it decides", Invariant.AGREES, TallyStore, "apply", _publishes_before_deciding),
    Mutation("cancels what has ended", Invariant.ABSORBS, _reacting(_cancels_the_ended)),
    _rule("acknowledges first", Invariant.NOT_LOST, Runner, "run", _acks_first),
    _rule("acknowledges first, and dies", Invariant.IN_TIME, Runner, "run", _acks_first, _UNSEEN),
    _rule(
        "the worker acknowledges before it stores",
        Invariant.EFFECTS_FIRST,
        Worker,
        "_carry_out",
        _worker_acks_first,
    ),
    _rule("forgets the deadline", Invariant.EFFECTS_FIRST, EffectRunner, "arm", _forgets_the_deadline),
    Mutation("an early deadline is not armed anew", Invariant.EFFECTS_FIRST, _reacting(_does_not_arm_anew)),
    _rule("writes without comparing", Invariant.COUNTED_ONCE, JetStream, "publish", _writes_blindly),
    _rule(
        "forgets the deadline, and nobody answers",
        Invariant.AN_ENDING,
        EffectRunner,
        "arm",
        _forgets_the_deadline,
        _UNSEEN,
    ),
    _rule(
        "the deadline is armed for the next day",
        Invariant.COMES_TO_REST,
        EffectRunner,
        "arm",
        _arms_for_next_day,
    ),
    _rule(
        "what cannot be read is given back for ever",
        Invariant.COMES_TO_REST,
        Settler,
        "_dead_letter",
        _dead_letters_nothing,
    ),
    _rule("marks first, then publishes", Invariant.MARK_KEPT, EndingPublisher, "publish", _marks_first),
    _rule("stores the ending twice", Invariant.HEARD_ONCE, EndingPublisher, "_store", _stores_twice),
    _rule("sends nothing to the inbox", Invariant.HEARD, JetStream, "broadcast", _sends_no_inbox),
    _rule("fans out before it records", Invariant.RECORD_FIRST, EffectRunner, "apply", _fans_out_first),
    _rule("refuses in silence", Invariant.NOT_LOST, Intake, "_refuse", _refuses_in_silence),
    _rule("a handler has a bug", Invariant.NO_BUG, JetStream, "broadcast", _trips_over_itself),
    Mutation(
        "tells a wrong status",
        Invariant.STATUS_TRUE,
        lambda: patch.dict(STATUS_WORDS, {State.COMPLETED: "FAILED"}),
    ),
    _rule(
        "asks for one message more than there is room for",
        Invariant.ROOM_ASKED,
        PullWindow,
        "to_request",
        _asks_for_one_too_many,
    ),
    _rule(
        "counts on requests that a lost connection took with it",
        Invariant.ROOM_ASKED,
        PullWindow,
        "lose_connection",
        _counts_on_lost_requests,
    ),
    _rule(
        "never gives up a request that was lost",
        Invariant.COMES_TO_REST,
        PullWindow,
        "expire",
        _gives_up_no_request,
    ),
    _rule(
        "frees no room once a message is handled",
        Invariant.COMES_TO_REST,
        PullWindow,
        "settle",
        _frees_no_room,
    ),
)
