"""`deliberation.requested`: records a deliberation, then arms its deadline and requests its agents.

Once it is recorded, a deliberation ends, by its deadline at the latest. A request that cannot be run ends as
`rejected`, with the reason, and is dead-lettered.

A request with the `task_id` of a deliberation that exists is a second asker of it, and hears its ending too. If it
asks something else it is rejected, under the name of its own place in the stream.
"""

import re
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from parley.broker.core.errors import Forgotten, InvalidMessage, PayloadTooLarge
from parley.broker.core.events_and_effects import Refused, Requested
from parley.broker.core.headers_and_ids import REPLY_TO, find_header, own_name
from parley.broker.core.messages import MAX_REQUEST_BYTES, OWN_NAME, TASK_ID_PATTERN, DeliberationRequested
from parley.broker.core.observer import Observer
from parley.broker.core.reactions import asks_another
from parley.broker.core.reply_subjects import DEFAULT_PREFIXES, may_send_ending
from parley.broker.core.states_and_moves import Cause
from parley.broker.core.tally import Tally
from parley.handlers.deliberation_log import log_accepted
from parley.handlers.delivery import ACK, DeadLetter, Delivery, Retry, Settlement
from parley.handlers.effects import EffectRunner, Past

_TASK_ID = re.compile(TASK_ID_PATTERN)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What this deployment allows. `timeout_seconds`: where a request names none. `reply_prefixes`: of allowed
    inboxes."""

    max_agents: int
    timeout_seconds: float
    reply_prefixes: tuple[str, ...] = DEFAULT_PREFIXES


class Intake:
    def __init__(self, effects: EffectRunner, observer: Observer, bounds: Bounds) -> None:
        self._effects = effects
        self._observer = observer
        self._bounds = bounds

    async def handle(self, delivery: Delivery[DeliberationRequested]) -> Settlement:
        try:
            request = delivery.payload(DeliberationRequested)
            await self._check_name(request.task_id, delivery.seq)
            event = self._event(delivery, request)
            self._effects.check_room(event)
            past = await self._past(delivery, event.task_id, event.reply_to)
            if past.ending_seq is not None:
                return ACK
            moment = [(event, self._effects.now())]
            result = await self._effects.apply(event.task_id, moment, request, is_recorded=past.is_recorded)
            _check_question(result.tally, event)
        except Forgotten:
            return Retry(0.0)  # this process stood still: it may have ended meanwhile
        except (InvalidMessage, PayloadTooLarge) as error:
            await self._refuse(delivery, str(error), Cause.REFUSED)
            return DeadLetter(str(error))
        if result.before is None:
            self._observer.deliberation_accepted(event.role)
            log_accepted(event)
        return ACK

    async def give_up(self, delivery: Delivery[DeliberationRequested], reason: str) -> None:
        """End a deliberation whose request failed at every delivery."""
        await self.abandon(delivery, f"the service could not take this request in: {reason}")

    async def abandon(self, delivery: Delivery[Any], error: str) -> None:
        """End the deliberation of a request as failed."""
        await self._refuse(delivery, error, Cause.ABANDONED)

    def deadline_of(self, delivery: Delivery[Any]) -> float:
        """When this request's time is up; at once for one that cannot be run."""
        try:
            return self._event(delivery, delivery.payload(DeliberationRequested)).deadline
        except InvalidMessage:
            return delivery.at

    async def _check_name(self, task_id: str | None, seq: int) -> None:
        """Names of the form `d-N` belong to the service: a client may use one only to repeat a request that has it.

        Raises InvalidMessage for any other.
        """
        if task_id is None or not OWN_NAME.fullmatch(task_id) or task_id == own_name(seq):
            return
        if await self._effects.read(task_id) is None:
            raise InvalidMessage([f"task_id: {task_id} is a name the service gives; choose another, or none"])

    def _event(self, delivery: Delivery[DeliberationRequested], request: DeliberationRequested) -> Requested:
        """The request as an event. Raises InvalidMessage for what only this deployment forbids."""
        if request.num_agents > self._bounds.max_agents:
            raise InvalidMessage(
                [
                    f"num_agents: {request.num_agents} is more than this service allows, {self._bounds.max_agents}"
                ]
            )
        timeout = request.asked_timeout_seconds or self._bounds.timeout_seconds
        return Requested(
            task_id=request.task_id or own_name(delivery.seq),
            seq=delivery.seq,
            at=delivery.at,
            deadline=delivery.at + timeout,
            role=request.role,
            num_agents=request.num_agents,
            min_responses=request.min_responses,
            finish_early=request.finish_early,
            rounds=request.rounds,
            metadata=request.metadata,
            reply_to=self._reply_to(delivery),
            traceparent=delivery.traceparent,
            question=request.question,
            select=request.select,
            plan=request.plan,
            agree=request.agree,
            max_calls=request.max_calls,
            synthesize=request.synthesize,
        )

    async def _refuse(
        self,
        delivery: Delivery[DeliberationRequested],
        error: str,
        cause: Literal[Cause.REFUSED, Cause.ABANDONED],
    ) -> None:
        task_id = readable_task_id(delivery.data) or own_name(delivery.seq)
        try:
            reply_to = self._reply_to(delivery)
        except InvalidMessage:
            reply_to = None  # the inbox itself is wrong: the ending is only in the stream
        event = Refused(
            task_id=task_id,
            seq=delivery.seq,
            at=delivery.at,
            error=error,
            cause=cause,
            reply_to=reply_to,
            traceparent=delivery.traceparent,
        )
        if not await self._end(delivery, event):
            # The name is another deliberation's. The sender hears under the name of its message's own place.
            await self._end(delivery, replace(event, task_id=own_name(delivery.seq)))

    async def _end(self, delivery: Delivery[DeliberationRequested], event: Refused) -> bool:
        """End a request. False if its name is that of another deliberation."""
        if (await self._past(delivery, event.task_id, event.reply_to)).ending_seq is not None:
            return True
        result = await self._effects.apply(event.task_id, [(event, self._effects.now())])
        return result.tally is not None and result.tally.request_seq == delivery.seq

    async def _past(
        self, delivery: Delivery[DeliberationRequested], task_id: str, reply_to: str | None
    ) -> Past:
        """What there is of this request, which must not run again: intake may have been away for long. An ending that
        is found is sent to `reply_to`."""
        past = await self._effects.past_of(task_id, delivery.seq, delivery.at, delivery.count)
        if past.ending_seq is not None and reply_to is not None:
            await self._effects.send_ending(task_id, past.ending_seq, reply_to)
        return past

    def _reply_to(self, delivery: Delivery[DeliberationRequested]) -> str | None:
        reply_to = find_header(delivery.headers, REPLY_TO)
        if not reply_to:
            return None
        if not may_send_ending(reply_to, self._bounds.reply_prefixes):
            prefixes = ", ".join(self._bounds.reply_prefixes)
            raise InvalidMessage([f"header {REPLY_TO}: must be a subject that begins with {prefixes}"])
        return reply_to


def _check_question(tally: Tally | None, event: Requested) -> None:
    """Raises InvalidMessage for a request that asks something else than the deliberation of its name."""
    if tally is not None and asks_another(tally, event):
        raise InvalidMessage([f"task_id: {event.task_id} is another question's; choose another, or none"])


class _Named(BaseModel, strict=True, extra="ignore"):
    """A request of which only the name is read: no other field costs anything."""

    task_id: str


def readable_task_id(body: bytes) -> str | None:
    """The `task_id` of an invalid request, or None if it cannot be used either."""
    if len(body) > MAX_REQUEST_BYTES:
        return None
    try:
        task_id = _Named.model_validate_json(body).task_id
    except ValidationError:
        return None
    usable = _TASK_ID.fullmatch(task_id) and not OWN_NAME.fullmatch(task_id)
    return task_id if usable else None
