"""`deliberation.requested` in; a recorded deliberation, its deadline and its agents' work out.

The record comes first: from then on the deliberation will end, if only by its deadline. A request that cannot be run ends as
`rejected`, naming what is wrong, and goes whole to DEAD_LETTERS.
"""

import json
import re
import time
from dataclasses import dataclass

from parley.broker.concurrency import gather
from parley.broker.core.errors import InvalidMessage, PayloadTooLarge
from parley.broker.core.lifecycle import Cause
from parley.broker.core.messages import OWN_NAME, TASK_ID_PATTERN, DeliberationRequested
from parley.broker.core.observer import Observer
from parley.broker.core.tally import Refused, Requested
from parley.handlers.delivery import Batch, Delivery
from parley.handlers.effects import EffectRunner
from parley.handlers.settle import Settler

REPLY_HEADER = "Parley-Reply-To"
# NATS subjects may be longer; an inbox never is.
MAX_REPLY_CHARACTERS = 256
_SUBJECT_TOKENS = re.compile(r"[A-Za-z0-9_$=-]+(\.[A-Za-z0-9_$=-]+)*")
_TASK_ID = re.compile(TASK_ID_PATTERN)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What this deployment allows and assumes. `timeout_seconds` is for requests that name none."""

    max_agents: int
    timeout_seconds: float
    reply_prefixes: tuple[str, ...] = ("_INBOX.",)


class Intake:
    def __init__(self, performer: EffectRunner, settler: Settler, observer: Observer, bounds: Bounds) -> None:
        self._performer = performer
        self._settler = settler
        self._observer = observer
        self._bounds = bounds

    async def __call__(self, deliveries: Batch[DeliberationRequested]) -> None:
        await gather(map(self._settle, deliveries))

    async def _settle(self, delivery: Delivery[DeliberationRequested]) -> None:
        async def handle() -> None:
            await self._take_in(delivery)

        async def give_up(reason: str) -> None:
            await self._refuse(
                delivery, f"the service could not take this request in: {reason}", Cause.ABANDONED
            )

        await self._settler.settle(delivery, handle, give_up)

    async def _take_in(self, delivery: Delivery[DeliberationRequested]) -> None:
        try:
            request = delivery.payload(DeliberationRequested)
            await self._check_name(request.task_id, delivery.seq)
            event = self._event(delivery, request)
            applied = await self._performer.apply(event.task_id, [(event, time.time())], request)
        except (InvalidMessage, PayloadTooLarge) as error:
            await self._refuse(delivery, str(error), Cause.REFUSED)
            raise InvalidMessage([str(error)]) from error
        if applied.before is None:
            self._observer.deliberation_accepted(event.role)

    async def _check_name(self, task_id: str | None, seq: int) -> None:
        """Raises InvalidMessage for a name of the service's own that names nothing yet. One that does is that deliberation, asked for again."""
        if task_id is None or not OWN_NAME.fullmatch(task_id) or task_id == own_name(seq):
            return
        if not await self._performer.recorded(task_id):
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
        )

    async def _refuse(self, delivery: Delivery[DeliberationRequested], error: str, cause: "Cause") -> None:
        task_id = readable_task_id(delivery.data) or own_name(delivery.seq)
        try:
            reply_to = self._reply_to(delivery)
        except InvalidMessage:
            reply_to = None  # the inbox itself is what was wrong: the ending is in the stream
        event = Refused(
            task_id=task_id,
            seq=delivery.seq,
            at=delivery.at,
            error=error,
            cause=Cause.REFUSED if cause is Cause.REFUSED else Cause.ABANDONED,
            reply_to=reply_to,
            traceparent=delivery.traceparent,
        )
        await self._performer.apply(task_id, [(event, time.time())])

    def _reply_to(self, delivery: Delivery[DeliberationRequested]) -> str | None:
        reply_to = delivery.headers.get(REPLY_HEADER)
        if not reply_to:
            return None
        allowed = reply_to.startswith(self._bounds.reply_prefixes)
        if not allowed or len(reply_to) > MAX_REPLY_CHARACTERS or not _SUBJECT_TOKENS.fullmatch(reply_to):
            prefixes = ", ".join(self._bounds.reply_prefixes)
            raise InvalidMessage([f"header {REPLY_HEADER}: must be a subject that begins with {prefixes}"])
        return reply_to


def own_name(seq: int) -> str:
    """The name of a deliberation whose request has none: its place in the stream, which the publisher's PubAck tells too."""
    return f"d-{seq}"


def readable_task_id(body: bytes) -> str | None:
    """The `task_id` of a request that is otherwise wrong, if it is a usable one: names of ours are not."""
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError):
        return None
    task_id = payload.get("task_id") if isinstance(payload, dict) else None
    usable = isinstance(task_id, str) and _TASK_ID.fullmatch(task_id) and not OWN_NAME.fullmatch(task_id)
    return task_id if usable else None
