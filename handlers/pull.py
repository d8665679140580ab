"""A FastStream pull subscriber that takes only what there is room for and hands over whatever has come.

FastStream's own either waits for its whole batch before it fetches again (one slow message stalls the rest), fetches up to twice
`max_workers` (faststream#2563), or waits its full timeout to fill a batch (that much latency). This one asks the server for as many
messages as there is room for, starts the handler on whatever came, and asks for more. Rule: pull only what there is room for.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any, cast

import nats.errors
from faststream._internal.broker.registrator import Registrator
from faststream._internal.endpoint.subscriber.call_item import CallsCollection
from faststream.middlewares import AckPolicy
from faststream.nats import JStream, NatsBroker, PullSub
from faststream.nats.subscriber.config import NatsSubscriberConfig, NatsSubscriberSpecificationConfig
from faststream.nats.subscriber.specification import NatsSubscriberSpecification
from faststream.nats.subscriber.usecases import BatchPullStreamSubscriber
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig
from nats.js.client import DEFAULT_JS_SUB_PENDING_BYTES_LIMIT, DEFAULT_JS_SUB_PENDING_MSGS_LIMIT

from parley.broker.jetstream.acks import next_subject, pull_request
from parley.broker.jetstream.nats_client import NatsClient
from parley.broker.jetstream.topology import Durable
from parley.handlers.delivery import Batch, Delivery

log = logging.getLogger("parley.handlers")

# A pull request stays at the server this long. A process that stands still is sent messages for as long.
REQUEST_SECONDS = 1.0
# The server's word that a request expired may be this late.
LOST_SECONDS = 1.0
# After an error (NATS away, a consumer deleted, JetStream restarting) before asking again.
ERROR_WAIT_SECONDS = 0.5
# When stopping: nothing has come for this long, so nothing is on its way.
QUIET_SECONDS = 0.1

# Free slots outside; with True, wait until there is at least one.
Room = Callable[[bool], Awaitable[int]]


class Budget:
    """Room for at most `limit` messages at a time: what a handler may have in hand and unsettled."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._freed = asyncio.Event()

    @property
    def free(self) -> int:
        return self.limit - self.held

    async def room(self) -> int:
        """Wait until there is some; how much."""
        while self.free < 1:
            self._freed.clear()
            await self._freed.wait()
        return self.free

    def take(self, count: int) -> None:
        self.held += count

    def give(self, count: int) -> None:
        self.held -= count
        self._freed.set()


class ServiceBroker(NatsBroker):
    """FastStream's broker on a connection that survives malformed headers."""

    async def _connect(self) -> Client:
        connection = NatsClient()
        await connection.connect(**self._connection_kwargs)
        self.config.connect(connection)
        return connection


class PullSubscriber(BatchPullStreamSubscriber):
    """`budget` bounds what is in hand; `room` may bound it further (the pool's free slots).

    Pull requests stay open at the server, so a message comes the moment it is stored, and are topped up as they are used:
    a fetch a message would cost a round trip each.
    """

    def __init__(
        self, *args: Any, durable: Durable, budget: Budget, room: Room | None = None, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self.durable = durable
        self.budget = budget
        self._room = room
        self._in_hand: set[asyncio.Task[None]] = set()
        self._arrived: list[Msg] = []
        self._something = asyncio.Event()
        # Messages asked for and not yet come: promised room.
        self._asked = 0
        self._inbox = ""
        self._refused = False
        self._closing = False

    def held(self) -> int:
        """Messages in hand: being handled, or here and not begun."""
        return self.budget.held + len(self._arrived)

    async def _create_subscription(self) -> None:
        if self.subscription:
            return
        self._inbox = self.connection.new_inbox()
        assert isinstance(self.connection, NatsClient), "on a ServiceBroker"
        # A plain subscription on our inbox: FastStream only asks whether there is one.
        self.subscription = cast(Any, await self.connection.subscribe_inline(self._inbox, self._arrive))
        self.add_task(self._consume_pull)

    async def _consume_pull(self) -> None:
        while self._taking():
            await self._ask()
            if not await self._heard():
                self._asked = 0
                continue
            self._something.clear()
            if not self._taking():
                return  # what has arrived is `stop`'s to give back
            messages, self._arrived = self._arrived, []
            if messages:
                await self._start(messages)
            if self._refused:
                self._refused = False
                await asyncio.sleep(ERROR_WAIT_SECONDS)

    def _taking(self) -> bool:
        return self.running and not self._closing

    async def _heard(self) -> bool:
        """Wait for a message, or word that the request expired. False when neither will come: the request was lost with the
        connection it was made on."""
        patience = REQUEST_SECONDS + LOST_SECONDS if self._asked else ERROR_WAIT_SECONDS
        connects = self.connection.stats["reconnects"]
        while patience > 0:
            try:
                async with asyncio.timeout(ERROR_WAIT_SECONDS):
                    await self._something.wait()
                return True
            except TimeoutError:
                patience -= ERROR_WAIT_SECONDS
            if self.connection.stats["reconnects"] != connects or not self.connection.is_connected:
                return False
        return False

    async def _ask(self) -> None:
        """Ask for as much as there is room for and not asked for yet; wait for room only if nothing is on its way."""
        if not self.connection.is_connected:
            # What was asked for is gone with the connection; a request made now would only be kept and sent later, beside others.
            self._asked = 0
            return
        idle = not self._asked and not self._arrived
        free = await self.budget.room() if idle else self.budget.free
        if self._room is not None:
            free = min(free, await self._room(idle))
        wanted = min(free, self.pull_sub.batch_size) - self._asked - len(self._arrived)
        # Top up in bites, not one by one.
        if wanted < 1 or (self._asked and wanted < self.pull_sub.batch_size // 4):
            return
        request = pull_request(wanted, expires_seconds=REQUEST_SECONDS)
        try:
            await self.connection.publish(self._next_subject, request, reply=self._inbox)
        except nats.errors.Error as error:
            log.warning("cannot ask for %s: %s", self.durable.name, error)
            return
        self._asked += wanted

    @property
    def _next_subject(self) -> str:
        return next_subject(self.durable.stream, self.durable.name)

    def _arrive(self, msg: Msg) -> None:
        status = (msg.headers or {}).get("Status")
        if status is None or msg.reply:
            self._asked = max(0, self._asked - 1)
            self._arrived.append(msg)
        else:
            # 408: the request expired; 404, 409 and others: it will not be served. Either way its rest is not coming.
            self._asked = max(
                0, self._asked - int((msg.headers or {}).get("Nats-Pending-Messages", self._asked))
            )
            if status not in ("404", "408"):
                log.warning(
                    "%s: the server answered %s %s",
                    self.durable.name,
                    status,
                    (msg.headers or {}).get("Description", ""),
                )
                self._refused = True
        self._something.set()

    async def _start(self, messages: list[Msg]) -> None:
        self.budget.take(len(messages))
        task = asyncio.create_task(self._handle(messages))
        self._in_hand.add(task)
        task.add_done_callback(self._in_hand.discard)
        if self._room is not None:
            # The room outside is taken by the handler; asking before it ran would promise the same slots twice.
            await task

    async def _handle(self, messages: list[Msg]) -> None:
        # The handler itself: FastStream's `consume` would parse, scope and inject around it, for handlers that take deliveries and
        # settle each. That is a tenth of the service's time, and half a millisecond for a message that comes alone (measured).
        try:
            await self.calls[0].handler(_deliveries(messages))
        except Exception:
            log.exception("the handler of %s raised; its messages come again", self.durable.name)
        finally:
            self.budget.give(len(messages))

    async def _let_arrive(self) -> None:
        """Wait while what was asked for comes in: the server takes a message for delivered that it sends to an inbox as it
        closes, and hands it out again only after `ack_wait`. A request that brings nothing for a moment waits for new messages."""
        while self._asked and self.connection.is_connected:
            self._something.clear()
            try:
                async with asyncio.timeout(QUIET_SECONDS):
                    await self._something.wait()
            except TimeoutError:
                return

    async def stop(self) -> None:
        """Take nothing more, give back what was not begun, let what is in hand be settled (up to `graceful_timeout`)."""
        self._closing = True
        await self._let_arrive()
        subscription: Any = self.subscription
        self.subscription = None
        if subscription is not None and self.connection.is_connected:
            # Not `unsubscribe`, which drops what was sent already.
            with suppress(nats.errors.Error):
                await subscription.drain()
        elif subscription is not None:
            await subscription.unsubscribe()
        arrived, self._arrived = self._arrived, []
        for msg in arrived:
            await msg.nak()
        if self._in_hand:
            await asyncio.wait(self._in_hand, timeout=self._outer_config.graceful_timeout)
        await super().stop()


def _deliveries(messages: Iterable[Msg]) -> Batch[Any]:
    """What a handler gets: it decodes each by itself, so that one bad payload spoils no other."""
    return Batch(map(Delivery.of, messages))


def subscribe(
    broker: NatsBroker,
    durable: Durable,
    *,
    batch: int,
    limit: int,
    room: Room | None = None,
    title: str,
    description: str,
) -> PullSubscriber:
    """Declare a subscriber on a provisioned durable consumer. `batch`: most a fetch brings; `limit`: most in hand at a time."""
    config = broker.config
    calls: CallsCollection[Any] = CallsCollection()
    subscriber = PullSubscriber(
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
                subject=durable.filter,
                queue=None,
                title_=title,
                description_=description,
                include_in_schema=True,
            ),
        ),
        calls=calls,
        # Not declared: provisioning is ours, and FastStream would overwrite the live stream.
        stream=JStream(name=durable.stream, declare=False),
        pull_sub=PullSub(batch_size=batch, batch=True),
        durable=durable,
        budget=Budget(limit),
        room=room,
    )
    Registrator.subscriber(broker, subscriber, persistent=True)
    subscriber.add_call(parser_=None, decoder_=None, dependencies_=())
    return subscriber


def flows(broker: NatsBroker) -> list[PullSubscriber]:
    """The subscribers of ours that `broker` has."""
    return [subscriber for subscriber in broker.subscribers if isinstance(subscriber, PullSubscriber)]
