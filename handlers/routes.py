"""Which subject leads to which handler. The only place with FastStream decorators, and the source of the AsyncAPI document."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from faststream.message import StreamMessage
from faststream.nats import NatsBroker, NatsResponse
from nats.aio.msg import Msg

from broker import topology
from broker.connection import JSON_HEADER
from broker.messages import (
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
from handlers.aggregate import Aggregate
from handlers.cancel import Cancel
from handlers.delivery import Batch
from handlers.dispatch import Dispatch
from handlers.expire import Expire
from handlers.flow import FlowSubscriber, Room, subscribe
from handlers.intake import Intake
from handlers.query import Query


class Part(StrEnum):
    """What a process may run of the service. `aggregate` folds outcomes, expires and cancels: all that can end one."""

    INTAKE = "intake"
    DISPATCH = "dispatch"
    AGGREGATE = "aggregate"
    QUERY = "query"


# Messages one fetch may bring, and how many may be in hand. A request in hand holds its whole prompt (up to 1 MiB).
REQUESTS_AT_ONCE, REQUESTS_IN_HAND = 64, 128
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


def declare(broker: NatsBroker, handlers: Handlers, *, room: Room | None = None, job_limit: int = 1) -> list[FlowSubscriber]:
    """Put the handlers on their subjects. `room`: the pool's free slots, `job_limit`: all its slots."""
    flows: list[FlowSubscriber] = []

    if (intake := handlers.intake) is not None:
        requests = subscribe(
            broker,
            topology.INTAKE,
            batch=REQUESTS_AT_ONCE,
            limit=REQUESTS_IN_HAND,
            title="deliberation.requested",
            description="Please deliberate. Published by any client.",
        )

        @requests
        async def take_in(deliveries: Batch[DeliberationRequested]) -> None:
            await intake(deliveries)

        flows.append(requests)

    if (dispatch := handlers.dispatch) is not None:
        work = subscribe(
            broker,
            topology.DISPATCH,
            batch=JOBS_AT_ONCE,
            limit=job_limit,
            room=room,
            title="agent.requested",
            description="One agent's work, from the work queue into a free slot of the pool.",
        )

        @work
        async def hand_out(deliveries: Batch[AgentRequested]) -> None:
            await dispatch(deliveries)

        @broker.subscriber(
            topology.AGENT_CANCEL,
            decoder=_raw,
            title="agent.cancel",
            description="Broadcast: drop this task's calls and queued work now.",
        )
        async def drop(body: AgentCancel) -> None:
            dispatch.cancel(_bytes(body))

        flows.append(work)

    if (aggregate := handlers.aggregate) is not None:
        outcomes = subscribe(
            broker,
            topology.AGGREGATE,
            batch=OUTCOMES_AT_ONCE,
            limit=OUTCOMES_IN_HAND,
            title="agent.response",
            description="One agent's outcome: agent.response.completed or agent.response.failed.",
        )

        @outcomes
        async def fold(deliveries: Batch[AgentOutcome]) -> None:
            await aggregate(deliveries)

        flows.append(outcomes)

    if (expire := handlers.expire) is not None:
        deadlines = subscribe(
            broker,
            topology.EXPIRY,
            batch=DEADLINES_AT_ONCE,
            limit=DEADLINES_IN_HAND,
            title="deliberation.deadline",
            description="Produced by the NATS scheduler when a deliberation's time is up.",
        )

        @deadlines
        async def end(deliveries: Batch[DeliberationDeadline]) -> None:
            await expire(deliveries)

        flows.append(deadlines)

    if (cancel := handlers.cancel) is not None:
        cancels = subscribe(
            broker,
            topology.CANCELLER,
            batch=CANCELS_AT_ONCE,
            limit=CANCELS_IN_HAND,
            title="deliberation.cancel",
            description="Stop this one. Published by any client.",
        )

        @cancels
        async def stop(deliveries: Batch[DeliberationCancel]) -> None:
            await cancel(deliveries)

        flows.append(cancels)

    if (query := handlers.query) is not None:

        @broker.subscriber(
            topology.GET,
            queue="query",
            decoder=_raw,
            title="deliberation.get",
            description="Request-reply: status and result by task_id.",
        )
        async def tell(body: DeliberationGet) -> NatsResponse:
            status: DeliberationStatus = await query(_bytes(body))
            return NatsResponse(status.encode(), headers=dict(JSON_HEADER))

    _document_publishers(broker)
    return flows


def _bytes(body: Any) -> bytes:
    """Annotated as the payload for the document; the decoder left it as it came."""
    return bytes(body)


def _document_publishers(broker: NatsBroker) -> None:
    """What we publish, for the AsyncAPI document. The publishing itself is `broker.connection`'s, with PubAck and Msg-Id."""
    for subject, schema, description in (
        (topology.COMPLETED, DeliberationCompleted, "One of the two endings. Read `degraded` first."),
        (topology.FAILED, DeliberationFailed, "The other ending: failed, timeout, cancelled or rejected."),
        (topology.AGENT_REQUESTED, AgentRequested, "One agent's work."),
        (topology.AGENT_COMPLETED, AgentCompleted, "One agent's outcome: it answered. Published by the workers."),
        (topology.AGENT_FAILED, AgentFailed, "One agent's outcome: it did not. Published by the workers."),
        (topology.AGENT_CANCEL, AgentCancel, "Core NATS broadcast: workers drop this task's calls now."),
    ):
        broker.publisher(subject, title=f"{subject}:publish", description=description, schema=schema)


