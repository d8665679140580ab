"""Which subject leads to which handler: a table, and the source of the AsyncAPI document.

FastStream starts and stops the subscribers, answers `deliberation.get` and `deliberation.service`, receives the broadcast
`agent.cancel`, and makes the AsyncAPI document. It does not fetch, decode, acknowledge, retry or inject: `pull`
fetches, `settle` acknowledges and retries, the handlers decode.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from faststream.message import StreamMessage
from faststream.nats import NatsBroker
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
    ServiceGet,
)
from parley.broker.jetstream import topology
from parley.broker.jetstream.topology import Durable
from parley.handlers.faststream_private import attach
from parley.handlers.pull import FreeSlots, HandleBatch, PullSubscriber


class Part(StrEnum):
    """What a process may run of the service. `aggregate` counts outcomes, expires and cancels: all that can end a
    deliberation."""

    INTAKE = "intake"
    DISPATCH = "dispatch"
    AGGREGATE = "aggregate"
    QUERY = "query"


@dataclass(frozen=True, slots=True)
class Handlers:
    """What the parts that run here do with their messages; None for a part that does not run here.

    `drop` receives the bodies of `agent.cancel`, `query` and `describe` the messages of `deliberation.get`
    and `deliberation.service`, and answer them.
    """

    intake: HandleBatch | None = None
    dispatch: HandleBatch | None = None
    aggregate: HandleBatch | None = None
    expire: HandleBatch | None = None
    cancel: HandleBatch | None = None
    drop: Callable[[bytes], None] | None = None
    query: Callable[[Msg], Awaitable[None]] | None = None
    describe: Callable[[Msg], Awaitable[None]] | None = None


class Route(NamedTuple):
    """A JetStream consumer. `payload`: a message type, or a union. `batch`: most messages a pull request asks for.

    `limit`: most messages held at a time, each with its whole payload. None: the pool's slots. `limit_bytes`: of these
    messages together; one that is larger is held alone.
    """

    durable: Durable
    payload: Any
    batch: int
    limit: int | None
    limit_bytes: int
    title: str
    description: str
    handler: Callable[[Handlers], HandleBatch | None]


MIB = 1024 * 1024

# Limits in bytes by the chart's memory limit of 512 MiB for a part (helm/parley/values.yaml). A process takes 70 MiB, and
# a payload that is being read takes several times its size beside itself.
ROUTES = (
    Route(
        topology.INTAKE, DeliberationRequested, 32, 64, 16 * MIB, topology.REQUESTED,
        "Please deliberate. Published by any client.", lambda handlers: handlers.intake,
    ),
    Route(
        topology.DISPATCH, AgentRequested, 64, None, 32 * MIB, topology.AGENT_REQUESTED,
        "One agent's work, from the work queue into a free slot of the pool.", lambda handlers: handlers.dispatch,
    ),
    Route(
        topology.AGGREGATE, AgentOutcome, 256, 1_024, 32 * MIB, "agent.response",
        "One agent's outcome: agent.response.completed or agent.response.failed.", lambda handlers: handlers.aggregate,
    ),
    Route(
        topology.EXPIRY, DeliberationDeadline, 64, 128, 4 * MIB, topology.DEADLINE,
        "Produced by the NATS scheduler when a deliberation's time is up.", lambda handlers: handlers.expire,
    ),
    Route(
        topology.CANCELLER, DeliberationCancel, 64, 256, 4 * MIB, topology.CANCEL,
        "Stop this one. Published by any client.", lambda handlers: handlers.cancel,
    ),
)  # fmt: skip

# What Parley publishes: subject, payload, description. `JetStream` publishes it, with PubAck and Msg-Id.
PUBLISHED = (
    (topology.COMPLETED, DeliberationCompleted, "One of the two endings. Read `degraded` first."),
    (topology.FAILED, DeliberationFailed, "The other ending: failed, timeout, cancelled or rejected."),
    (topology.AGENT_REQUESTED, AgentRequested, "One agent's work."),
    (topology.AGENT_COMPLETED, AgentCompleted, "One agent's outcome: it answered. Published by the workers."),
    (topology.AGENT_FAILED, AgentFailed, "One agent's outcome: it did not. Published by the workers."),
    (topology.AGENT_CANCEL, AgentCancel, "Core NATS broadcast: workers drop this task's calls now."),
)


def declare(
    broker: NatsBroker, handlers: Handlers, *, pool: FreeSlots | None = None, slots: int = 1
) -> list[PullSubscriber]:
    """Put the handlers on their subjects. `pool`: where dispatched work runs, with `slots` in all."""
    pullers: list[PullSubscriber] = []
    for route in ROUTES:
        handler = route.handler(handlers)
        if handler is None:
            continue
        limit, outside = (slots, pool) if route.limit is None else (route.limit, None)
        puller = PullSubscriber(
            route.durable,
            handler,
            batch=route.batch,
            limit=limit,
            limit_bytes=route.limit_bytes,
            pool=outside,
        )
        attach(broker, puller, payload=route.payload, title=route.title, description=route.description)
        pullers.append(puller)
    if handlers.drop is not None:
        _receive_broadcast(broker, handlers.drop)
    if handlers.query is not None:
        _answer(broker, handlers.query)
    if handlers.describe is not None:
        _answer_for_itself(broker, handlers.describe)
    for subject, payload, description in PUBLISHED:
        broker.publisher(subject, title=f"{subject}:publish", description=description, schema=payload)
    return pullers


def declare_all(broker: NatsBroker) -> None:
    """Every route, for the AsyncAPI document. Nothing of it runs."""

    def unused(_: Any) -> Any:
        raise AssertionError("declared for the document only")

    declare(broker, Handlers(unused, unused, unused, unused, unused, unused, unused, unused))


def _receive_broadcast(broker: NatsBroker, drop: Callable[[bytes], None]) -> None:
    @broker.subscriber(
        topology.AGENT_CANCEL,
        decoder=_undecoded,
        no_reply=True,
        title=topology.AGENT_CANCEL,
        description="Broadcast: drop this task's calls and queued work now.",
    )
    async def receive(body: AgentCancel) -> None:
        drop(_bytes(body))


def _answer(broker: NatsBroker, query: Callable[[Msg], Awaitable[None]]) -> None:
    @broker.subscriber(
        topology.GET,
        queue="query",
        decoder=_whole,
        # `query` answers: FastStream would publish to whatever subject the question names.
        no_reply=True,
        title=topology.GET,
        description="Request-reply: status and result by task_id.",
    )
    async def answer(question: DeliberationGet) -> None:
        # Any: annotated with its payload for the document; `_whole` left it as the message.
        message: Any = question
        await query(message)


def _answer_for_itself(broker: NatsBroker, describe: Callable[[Msg], Awaitable[None]]) -> None:
    @broker.subscriber(
        topology.SERVICE,  # no queue: every process answers
        decoder=_whole,
        no_reply=True,
        title=topology.SERVICE,
        description="Request with many replies: each process of the service says what it serves.",
    )
    async def answer(question: ServiceGet) -> None:
        message: Any = question  # as in `_answer`
        await describe(message)


async def _whole(message: StreamMessage[Msg]) -> Msg:
    return message.raw_message


async def _undecoded(message: StreamMessage[Msg]) -> bytes:
    """The decoder of core subjects: a handler reads the bytes itself, and answers an invalid request too."""
    return message.body


def _bytes(body: Any) -> bytes:
    """The parameter is annotated with its payload for the document; `_undecoded` left it as bytes."""
    return bytes(body)
