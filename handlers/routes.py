"""Which subject leads to which handler. The only place with FastStream decorators, and the source of the AsyncAPI document."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from faststream.message import StreamMessage
from faststream.nats import NatsBroker, NatsResponse
from nats.aio.msg import Msg

from parley.broker.core.messages import (
    AgentCancel,
    AgentCompleted,
    AgentFailed,
    AgentOutcome,
    AgentRequested,
    DeliberationCancel,
    DeliberationCompleted,
    DeliberationDeadline,
    DeliberationFailed,
    DeliberationGet,
    DeliberationRequested,
    DeliberationStatus,
)
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JSON_HEADER
from parley.handlers.aggregate import Aggregate
from parley.handlers.cancel import Cancel
from parley.handlers.delivery import Batch
from parley.handlers.dispatch import Dispatch
from parley.handlers.expire import Expire
from parley.handlers.intake import Intake
from parley.handlers.pull import Room, subscribe
from parley.handlers.query import Query


class Part(StrEnum):
    """What a process may run of the service. `aggregate` folds outcomes, expires and cancels: all that can end one."""

    INTAKE = "intake"
    DISPATCH = "dispatch"
    AGGREGATE = "aggregate"
    QUERY = "query"


# Messages one fetch may bring, and how many may be in hand. A request in hand holds its whole prompt (up to 1 MiB).
REQUESTS_AT_ONCE, REQUESTS_IN_HAND = 32, 64
OUTCOMES_AT_ONCE, OUTCOMES_IN_HAND = 256, 1_024
DEADLINES_AT_ONCE, DEADLINES_IN_HAND = 64, 256
CANCELS_AT_ONCE, CANCELS_IN_HAND = 64, 256
# Also bounded by the pool's free slots.
JOBS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Handlers:
    """The handlers of the parts that run here; None for a part that does not."""

    intake: Intake | None = None
    dispatch: Dispatch | None = None
    aggregate: Aggregate | None = None
    expire: Expire | None = None
    cancel: Cancel | None = None
    query: Query | None = None


async def _raw(message: StreamMessage[Msg]) -> bytes:
    """The decoder of core subjects: a handler reads the bytes itself, and answers also what it cannot read."""
    return message.body


def declare(broker: NatsBroker, handlers: Handlers, *, room: Room | None = None, job_limit: int = 1) -> None:
    """Put the handlers on their subjects. `room`: the pool's free slots, `job_limit`: all its slots."""
    if handlers.intake is not None:
        _requests(broker, handlers.intake)
    if handlers.dispatch is not None:
        _work(broker, handlers.dispatch, room, job_limit)
        _agent_cancels(broker, handlers.dispatch)
    if handlers.aggregate is not None:
        _outcomes(broker, handlers.aggregate)
    if handlers.expire is not None:
        _deadlines(broker, handlers.expire)
    if handlers.cancel is not None:
        _cancels(broker, handlers.cancel)
    if handlers.query is not None:
        _questions(broker, handlers.query)
    _document_publishers(broker)


def _requests(broker: NatsBroker, intake: Intake) -> None:
    @subscribe(
        broker,
        topology.INTAKE,
        batch=REQUESTS_AT_ONCE,
        limit=REQUESTS_IN_HAND,
        title=topology.REQUESTED,
        description="Please deliberate. Published by any client.",
    )
    async def take_in(deliveries: Batch[DeliberationRequested]) -> None:
        await intake(deliveries)


def _work(broker: NatsBroker, dispatch: Dispatch, room: Room | None, job_limit: int) -> None:
    @subscribe(
        broker,
        topology.DISPATCH,
        batch=JOBS_AT_ONCE,
        limit=job_limit,
        room=room,
        title=topology.AGENT_REQUESTED,
        description="One agent's work, from the work queue into a free slot of the pool.",
    )
    async def hand_out(deliveries: Batch[AgentRequested]) -> None:
        await dispatch(deliveries)


def _agent_cancels(broker: NatsBroker, dispatch: Dispatch) -> None:
    @broker.subscriber(
        topology.AGENT_CANCEL,
        decoder=_raw,
        title=topology.AGENT_CANCEL,
        description="Broadcast: drop this task's calls and queued work now.",
    )
    async def drop(body: AgentCancel) -> None:
        dispatch.cancel(_bytes(body))


def _outcomes(broker: NatsBroker, aggregate: Aggregate) -> None:
    @subscribe(
        broker,
        topology.AGGREGATE,
        batch=OUTCOMES_AT_ONCE,
        limit=OUTCOMES_IN_HAND,
        title="agent.response",
        description="One agent's outcome: agent.response.completed or agent.response.failed.",
    )
    async def fold(deliveries: Batch[AgentOutcome]) -> None:
        await aggregate(deliveries)


def _deadlines(broker: NatsBroker, expire: Expire) -> None:
    @subscribe(
        broker,
        topology.EXPIRY,
        batch=DEADLINES_AT_ONCE,
        limit=DEADLINES_IN_HAND,
        title=topology.DEADLINE,
        description="Produced by the NATS scheduler when a deliberation's time is up.",
    )
    async def end(deliveries: Batch[DeliberationDeadline]) -> None:
        await expire(deliveries)


def _cancels(broker: NatsBroker, cancel: Cancel) -> None:
    @subscribe(
        broker,
        topology.CANCELLER,
        batch=CANCELS_AT_ONCE,
        limit=CANCELS_IN_HAND,
        title=topology.CANCEL,
        description="Stop this one. Published by any client.",
    )
    async def stop(deliveries: Batch[DeliberationCancel]) -> None:
        await cancel(deliveries)


def _questions(broker: NatsBroker, query: Query) -> None:
    @broker.subscriber(
        topology.GET,
        queue="query",
        decoder=_raw,
        title=topology.GET,
        description="Request-reply: status and result by task_id.",
    )
    async def tell(body: DeliberationGet) -> NatsResponse:
        status: DeliberationStatus = await query(_bytes(body))
        return NatsResponse(status.encode(), headers=dict(JSON_HEADER))


def _bytes(body: Any) -> bytes:
    """Annotated as the payload for the document; the decoder left it as it came."""
    return bytes(body)


def _document_publishers(broker: NatsBroker) -> None:
    """What we publish, for the AsyncAPI document. The publishing itself is `parley.broker.jetstream.connection`'s, with PubAck and Msg-Id."""
    for subject, schema, description in (
        (topology.COMPLETED, DeliberationCompleted, "One of the two endings. Read `degraded` first."),
        (topology.FAILED, DeliberationFailed, "The other ending: failed, timeout, cancelled or rejected."),
        (topology.AGENT_REQUESTED, AgentRequested, "One agent's work."),
        (
            topology.AGENT_COMPLETED,
            AgentCompleted,
            "One agent's outcome: it answered. Published by the workers.",
        ),
        (topology.AGENT_FAILED, AgentFailed, "One agent's outcome: it did not. Published by the workers."),
        (topology.AGENT_CANCEL, AgentCancel, "Core NATS broadcast: workers drop this task's calls now."),
    ):
        broker.publisher(subject, title=f"{subject}:publish", description=description, schema=schema)
