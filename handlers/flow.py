"""A FastStream pull subscriber that takes only what there is room for and hands over whatever one fetch brought.

FastStream's own either waits for its whole batch before it fetches again (one slow message stalls the rest), fetches up to twice
`max_workers` (faststream#2563), or waits its full timeout to fill a batch (that much latency). This one asks a `room` function
how many messages may be taken, fetches at most that many, starts the handler and asks again. Rule: pull only what there is room for.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, cast

import nats.errors
import nats.js.errors
from faststream._internal.broker.registrator import Registrator
from faststream._internal.endpoint.subscriber.call_item import CallsCollection
from faststream.message import StreamMessage
from faststream.middlewares import AckPolicy
from faststream.nats import JStream, NatsBroker, PullSub
from faststream.nats.subscriber.config import NatsSubscriberConfig, NatsSubscriberSpecificationConfig
from faststream.nats.subscriber.specification import NatsSubscriberSpecification
from faststream.nats.subscriber.usecases import BatchPullStreamSubscriber
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig
from nats.js.client import DEFAULT_JS_SUB_PENDING_BYTES_LIMIT, DEFAULT_JS_SUB_PENDING_MSGS_LIMIT

from broker.topology import Durable
from handlers.delivery import Batch, Delivery

log = logging.getLogger("parley.handlers")

# A fetch that finds nothing waits this long at the server. A pull request lost in a reconnect costs at most this.
FETCH_SECONDS = 5.0
# After an error of the server's (a consumer deleted, JetStream restarting) before asking again.
ERROR_WAIT_SECONDS = 0.5

Room = Callable[[], Awaitable[int]]


class Budget:
    """Room for at most `limit` messages at a time: what a handler may have in hand and unsettled."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._freed = asyncio.Event()

    async def room(self) -> int:
        while self.held >= self.limit:
            self._freed.clear()
            await self._freed.wait()
        return self.limit - self.held

    def take(self, count: int) -> None:
        self.held += count

    def give(self, count: int) -> None:
        self.held -= count
        self._freed.set()


class FlowSubscriber(BatchPullStreamSubscriber):
    """`budget` bounds what is in hand; `room` may bound it further (the pool's free slots)."""

    def __init__(self, *args: Any, budget: Budget, room: Room | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.budget = budget
        self.outside_room = room
        self.in_hand: set[asyncio.Task[None]] = set()
        self.last_fetch_at = 0.0

    async def _consume_pull(self) -> None:
        assert self.subscription is not None
        while self.running:
            room = min(await self.budget.room(), self.pull_sub.batch_size)
            if self.outside_room is not None:
                room = min(room, await self.outside_room())
            messages = await self._fetch(room)
            self.last_fetch_at = asyncio.get_running_loop().time()
            if not messages:
                continue
            self.budget.take(len(messages))
            task = asyncio.create_task(self._handle(messages))
            self.in_hand.add(task)
            task.add_done_callback(self.in_hand.discard)
            if self.outside_room is not None:
                # Room outside is taken by the handler; asking again before it ran would count the same slots twice.
                await task

    async def _fetch(self, room: int) -> list[Msg]:
        assert self.subscription is not None
        try:
            return await self.subscription.fetch(batch=room, timeout=FETCH_SECONDS)
        except (nats.errors.TimeoutError, TimeoutError):
            return []
        except (nats.errors.Error, nats.js.errors.Error) as error:
            log.warning("fetch for %s: %s", self.subject.template, error)
            await asyncio.sleep(ERROR_WAIT_SECONDS)
            return []

    async def _handle(self, messages: list[Msg]) -> None:
        try:
            await self.consume(messages)
        finally:
            self.budget.give(len(messages))

    async def stop(self) -> None:
        """Take nothing more, let what is in hand be settled (FastStream waits up to its `graceful_timeout`)."""
        self.running = False
        if self.in_hand:
            await asyncio.wait(self.in_hand, timeout=self._outer_config.graceful_timeout)
        await super().stop()


async def deliveries(message: StreamMessage[list[Msg]]) -> Batch[Any]:
    """The decoder: a handler gets deliveries and decodes each by itself, so that one bad payload spoils no other."""
    return Batch(Delivery.of(msg) for msg in message.raw_message)


def subscribe(
    broker: NatsBroker, durable: Durable, *, batch: int, limit: int, room: Room | None = None, title: str, description: str
) -> FlowSubscriber:
    """Declare a subscriber on a provisioned durable consumer. `batch`: most a fetch brings; `limit`: most in hand at a time."""
    config = broker.config
    calls: CallsCollection[Any] = CallsCollection()
    subscriber = FlowSubscriber(
        config=NatsSubscriberConfig(
            subject=durable.filter,
            sub_config=ConsumerConfig(durable_name=durable.name),
            extra_options={
                "pending_msgs_limit": DEFAULT_JS_SUB_PENDING_MSGS_LIMIT,
                "pending_bytes_limit": DEFAULT_JS_SUB_PENDING_BYTES_LIMIT,
                "durable": durable.name,
                "stream": durable.stream,
            },
            no_reply=True,
            _outer_config=cast(Any, config),
            # FastStream's default would terminate a message on an unhandled exception. We settle each message ourselves.
            _ack_policy=AckPolicy.MANUAL,
        ),
        specification=NatsSubscriberSpecification(
            _outer_config=cast(Any, config),
            calls=calls,
            specification_config=NatsSubscriberSpecificationConfig(
                subject=durable.filter, queue=None, title_=title, description_=description, include_in_schema=True
            ),
        ),
        calls=calls,
        # Not declared: provisioning is ours, and FastStream would overwrite the live stream.
        stream=JStream(name=durable.stream, declare=False),
        pull_sub=PullSub(batch_size=batch, batch=True),
        budget=Budget(limit),
        room=room,
    )
    Registrator.subscriber(broker, subscriber, persistent=True)
    subscriber.add_call(parser_=None, decoder_=deliveries, dependencies_=())
    return subscriber
