"""A pull subscriber that asks for no more messages than there is room for. `PullWindow` decides, this carries out.

Pull requests stay open at the server, so a message comes the moment it is stored. They are topped up as they are
used: one fetch a message would cost a round trip each. Whatever has come is handled at once; nothing waits for a
batch to be full.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any, Protocol

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import NotJSMessageError

from parley.broker.asyncio_helpers import BackgroundLoop
from parley.broker.jetstream.acks_and_pulls import (
    batch_limit,
    next_subject,
    pull_request,
    reply_pattern,
    size_of,
)
from parley.broker.jetstream.forgery_counts import Forgery
from parley.broker.jetstream.nats_client import NatsClient
from parley.broker.jetstream.topology import Durable
from parley.handlers import pull_window
from parley.handlers.delivery import Delivery
from parley.handlers.pull_window import PullWindow

log = logging.getLogger("parley.handlers")

# After an error (a consumer deleted, JetStream restarting) before asking again.
ERROR_WAIT_SECONDS = 0.5
# When stopping: nothing has come for this long, so nothing is on its way.
QUIET_SECONDS = 0.1
# The server writes a count, or a size, in the header of a status.
_COUNT = re.compile(r"[0-9]{1,18}")
# What ends a request when a server stops or another one leads: the next request is answered. The log says that the
# connection is lost, where it is.
_PASSING = frozenset({"server shutdown", "leadership change"})
# Headers of a status that ends a request: what it still owed.
PENDING_MESSAGES, PENDING_BYTES = "Nats-Pending-Messages", "Nats-Pending-Bytes"

# Handles and settles the deliveries that came together.
HandleBatch = Callable[[list[Delivery[Any]]], Awaitable[None]]


class FreeSlots(Protocol):
    """A second limit beside a subscriber's own: the slots of a pool."""

    def free_slots(self) -> int: ...

    async def wait_free_slots(self) -> int:
        """Wait until at least one slot is free. Returns how many are."""
        ...


class PullSubscriber:
    """Pulls from a provisioned durable consumer and hands what comes to `handle`.

    `batch`: most messages a request asks for. `limit`: most held at a time, of at most `limit_bytes` together; the
    free slots of `pool` limit them further.
    """

    def __init__(
        self,
        durable: Durable,
        handle: HandleBatch,
        *,
        batch: int,
        limit: int,
        limit_bytes: int | None = None,
        pool: FreeSlots | None = None,
    ) -> None:
        self.durable = durable
        self.window: PullWindow[Msg] = PullWindow(limit, batch, limit_bytes)
        self._handle = handle
        self._pool = pool
        # What the reply subjects of this consumer's deliveries begin with, on a server without domains, and their whole
        # form on any.
        self._replies = f"$JS.ACK.{durable.stream}.{durable.name}."
        self._reply_form = reply_pattern(durable.stream, durable.name)
        # Where this subscriber's pull requests go.
        self._subject = next_subject(durable.stream, durable.name)
        # Tasks that run the handler.
        self._handling: set[asyncio.Task[None]] = set()
        # The loop that pulls, and what wakes it when the connection is back.
        self._loops: list[BackgroundLoop] = []
        # Set when a message or a status came, or the connection is back.
        self._news = asyncio.Event()
        # Set when a handler has finished.
        self._freed = asyncio.Event()
        # The subscription on our inbox, None while stopped.
        self.subscription: Subscription | None = None
        self._connection: NatsClient
        # Where messages and statuses come.
        self._inbox = ""
        # The last refusal that was logged, until a message comes.
        self._told = ""
        # Reconnects of the connection that the window knows of.
        self._reconnects = 0

    def held(self) -> int:
        """Messages in this process: being handled, or arrived."""
        return self.window.held + len(self.window.arrived)

    # ── start and stop ────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self, connection: NatsClient) -> None:
        if self.subscription is not None:
            return
        self._connection = connection
        self._reconnects = connection.reconnects
        self._inbox = connection.new_inbox()
        self.subscription = await connection.subscribe_inline(self._inbox, self._on_message)
        name = f"the pull loop of {self.durable.name}"
        self._loops = [
            BackgroundLoop(self._pull, name),
            BackgroundLoop(self._watch_connection, f"{name}'s watch of the connection"),
        ]

    async def stop(self, grace_seconds: float | None) -> None:
        """Take nothing more, give back what was not begun, give the handlers `grace_seconds` to finish (None: no
        end)."""
        self.window.close()
        await self._drain()
        subscription, self.subscription = self.subscription, None
        try:
            # A connection that is closed for good refuses all of this.
            with suppress(nats.errors.Error):
                if subscription is not None and self._connection.is_connected:
                    # Not `unsubscribe`, which drops what was sent already.
                    await subscription.drain()  # type: ignore[no-untyped-call]  # nats-py gives it no types
                elif subscription is not None:
                    await subscription.unsubscribe()
            for message in self.window.give_back():
                with suppress(nats.errors.Error):
                    await message.nak()
            if self._handling:
                await asyncio.wait(self._handling, timeout=grace_seconds)
        finally:
            for loop in self._loops:
                loop.cancel()

    async def _drain(self) -> None:
        """Wait while the messages that were asked for come in.

        When an inbox closes, the server counts what it has sent there as delivered, and redelivers it only after
        `ack_wait`. A request that brings nothing for a moment waits for new messages.
        """
        while self.subscription is not None and self.window.asked and self._connection.is_connected:
            self._news.clear()
            try:
                async with asyncio.timeout(QUIET_SECONDS):
                    await self._news.wait()
            except TimeoutError:
                return

    # ── what comes ────────────────────────────────────────────────────────────────────────────────────────────────

    def _on_message(self, message: Msg) -> None:
        headers = message.headers or {}
        if message.reply.startswith(self._replies) or self._reply_form.fullmatch(message.reply):
            self.window.arrive(message, size_of(message))
            self._told = ""
        elif not message.reply and "Status" in headers:
            self._on_status(headers["Status"], headers)
        else:
            self._connection.forgeries.note(Forgery.DELIVERY, self.durable.name)
            return
        self._news.set()

    def _on_status(self, status: str, headers: dict[str, str]) -> None:
        messages, size = _number(headers.get(PENDING_MESSAGES, "")), _number(headers.get(PENDING_BYTES, ""))
        description = headers.get("Description", "")
        self.window.end_request(status, messages, size or 0, description)
        told = f"{status} {description.partition(chr(10))[0]}".strip()
        if not self.window.refused or self._told == told:
            return
        self._told = told  # once: while a consumer is missing every request is refused
        limit = batch_limit(description)
        if limit is not None and limit < self.window.batch:
            self.window.batch = limit
            allowed = (
                "%s: NATS allows %d messages a request (max_request_batch): asking for so many at a time"
            )
            log.warning(allowed, self.durable.name, limit)
        elif description.lower() not in _PASSING:
            log.warning("%s: the server answered %s", self.durable.name, told)

    async def _watch_connection(self) -> None:
        """Wake the loop once the connection is back, so that it asks again at once."""
        seen = self._reconnects
        while True:
            seen = await self._connection.wait_reconnected(seen)
            self._news.set()

    # ── the loop ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _pull(self) -> None:
        window = self.window
        while not window.closing:
            await self._request()
            if not window.arrived:
                await self._wait()
            self._news.clear()
            messages = window.take()
            if messages:
                task = asyncio.create_task(self._run(messages))
                self._handling.add(task)
                task.add_done_callback(self._handling.discard)
                if self._pool is not None:
                    # The handler takes the pool's slots; asking before it ran would promise the same slots twice.
                    await task
            if window.refused:
                window.refused = False
                await asyncio.sleep(ERROR_WAIT_SECONDS)

    async def _request(self) -> None:
        """Ask for as much as there is room for. Wait for room only while nothing is on its way."""
        window = self.window
        if not self._connection.is_connected:
            if window.arrived:
                return  # they are handled meanwhile
            # nats-py would keep a request made now and send it later, beside the next one.
            with suppress(nats.errors.ConnectionClosedError):
                await self._connection.wait_connected()
        self._notice_reconnect()
        idle = window.idle
        while idle and not window.has_room:
            self._freed.clear()
            await self._freed.wait()
        outside = None
        if self._pool is not None:
            outside = await self._pool.wait_free_slots() if idle else self._pool.free_slots()
        wanted = window.to_request(outside)
        if not wanted or not self._connection.is_connected:
            return
        self._notice_reconnect()
        max_bytes = window.bytes_to_request()
        window.requested(wanted, asyncio.get_running_loop().time(), max_bytes)
        request = pull_request(wanted, expires_seconds=pull_window.REQUEST_SECONDS, max_bytes=max_bytes)
        try:
            await self._connection.publish(self._subject, request, reply=self._inbox)
        except nats.errors.Error as error:
            log.warning("cannot ask for %s: %s", self.durable.name, error)
            window.end_request(pull_window.EXPIRED, wanted, max_bytes or 0)

    def _notice_reconnect(self) -> None:
        reconnects = self._connection.reconnects
        if reconnects != self._reconnects:
            self._reconnects = reconnects
            self.window.lose_connection()

    async def _wait(self) -> None:
        """Wait for a message, a status or the connection's return; or until what was asked for is overdue."""
        loop = asyncio.get_running_loop()
        asked = self.window.asked
        seconds = pull_window.REQUEST_SECONDS + pull_window.LOST_SECONDS if asked else ERROR_WAIT_SECONDS
        until = loop.time() + seconds
        try:
            async with asyncio.timeout_at(until):
                await self._news.wait()
        except TimeoutError:
            now = loop.time()
            self.window.expire(now, now - until)

    async def _run(self, messages: list[Msg]) -> None:
        try:
            await self._handle(list(self._deliveries(messages)))
        except Exception:
            log.exception("the handler of %s raised; its messages come again", self.durable.name)
        finally:
            self.window.settle(len(messages), sum(map(size_of, messages)))
            self._freed.set()

    def _deliveries(self, messages: list[Msg]) -> Iterator[Delivery[Any]]:
        for message in messages:
            try:
                yield Delivery.of(message)
            except (NotJSMessageError, ValueError):
                self._connection.forgeries.note(Forgery.DELIVERY, self.durable.name)


def _number(text: str) -> int | None:
    """None for what no server writes."""
    return int(text) if _COUNT.fullmatch(text) else None
