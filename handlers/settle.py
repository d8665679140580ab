"""Runs a handler on what a pull brought and settles each message: acknowledged, retried, or whole in DEAD_LETTERS.

An `InvalidMessage` that the handler raises is the sender's mistake: the message is dead-lettered at once. Any other
error sends the message back, later each time. After `MAX_DELIVERIES` it is dead-lettered too; `give_up` runs first,
to end the deliberation. The same is done with a message that ends each process that handles it (`Suspects`).
"""

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from nats.aio.msg import Msg

from parley.broker.asyncio_helpers import Turns
from parley.broker.core.backoff import backoff
from parley.broker.core.errors import BrokerUnavailable, Conflict, InvalidMessage, StoreFull
from parley.broker.core.observer import Observer
from parley.broker.jetstream import deadletters, topology
from parley.broker.jetstream.crash_suspects import MAX_BEGUN, SUSPECT_DELIVERIES, Suspects
from parley.broker.jetstream.deadletters import OriginalMessage
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.topology import ACK_WAIT_SECONDS, Durable
from parley.handlers.delivery import Ack, Delivery, Retry, Settlement

log = logging.getLogger("parley.handlers")

# Deliveries of one message before it is given up. A worker that dies costs one, an error costs one.
MAX_DELIVERIES = 5
# Seconds before a failed message is delivered again: doubled each time from the first to the last.
FIRST_RETRY_SECONDS = 0.5
LAST_RETRY_SECONDS = 30.0
# Seconds before a retry when NATS was unavailable. It does not grow: the message may be a deadline.
AWAY_RETRY_SECONDS = 0.5
# Seconds before the same trouble with NATS is logged again.
TELL_AGAIN_SECONDS = 60.0
# The shortest retry that a handler can ask for: a clock that is a little off must not make a tight loop.
SHORTEST_RETRY_SECONDS = 0.01
# From here on a message takes its turn. A smaller one is read in a few milliseconds, whatever is in it.
LARGE_BYTES = 64 * 1024
# A large message waits so long for its turn. Then it goes back to the stream, so that the small ones behind it in the
# stream come by: 100 hostile ones keep a process busy for half a minute.
TURN_SECONDS = 0.1
# Seconds before it comes again.
FIRST_TURN_SECONDS, LAST_TURN_SECONDS = 0.5, 2.0
# "In progress" signals within one `ack_wait`: two may be late or lost.
SIGNALS = 3

AnyDelivery = Delivery[Any]
# Any: a handler takes deliveries of its own payload.
Handle = Callable[[Delivery[Any]], Awaitable[Settlement]]
Prepare = Callable[[list[Delivery[Any]]], Awaitable[None]]
GiveUp = Callable[[Delivery[Any], str], Awaitable[None]]


def retry_wait(count: int) -> float:
    """Seconds before delivery `count` + 1."""
    return backoff(count, FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS)


class InProgress:
    """Tells the server every `seconds` which messages are being worked on. One timer for all of them.

    So `ack_wait` can be short, and slow work is still not delivered to another process.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        # What is being worked on, in the order in which it began.
        self._messages: dict[int, Msg] = {}
        self._numbers = itertools.count()
        # The next signals, while anything is being worked on.
        self._timer: asyncio.TimerHandle | None = None
        # The task that sends them: the loop keeps only weak references.
        self._sending: asyncio.Task[None] | None = None

    def begin(self, msg: Msg) -> int:
        """Work on a message begins. Returns what `end` is to be given."""
        number = next(self._numbers)
        self._messages[number] = msg
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._signal)
        return number

    def end(self, number: int) -> None:
        del self._messages[number]

    def _signal(self) -> None:
        self._timer = None
        if self._messages:
            self._sending = asyncio.create_task(self._send(list(self._messages)))
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._signal)

    async def _send(self, numbers: list[int]) -> None:
        for number in numbers:
            msg = self._messages.get(number)
            if msg is not None:  # not settled meanwhile
                # While NATS is away, the message is delivered to another process, which is harmless.
                with suppress(Exception):
                    await msg.in_progress()


class Settler:
    """Settles messages of one consumer. `give_up` runs before a message is dead-lettered for its errors.

    `max_deliveries`: how often a message may fail before it is given up. None: never, because no other message does
    its work. `suspects`: those of this process; each settler of a process has the same.
    """

    def __init__(
        self,
        jetstream: JetStream,
        durable: Durable,
        observer: Observer,
        *,
        give_up: GiveUp | None = None,
        max_deliveries: int | None = MAX_DELIVERIES,
        suspects: Suspects | None = None,
    ) -> None:
        self.durable = durable
        self.suspects = suspects or Suspects(jetstream)
        self._jetstream = jetstream
        self._observer = observer
        self._give_up = give_up
        self._max_deliveries = max_deliveries
        # What was logged last of NATS being unavailable, and when, by the loop's clock.
        self._told, self._told_at = "", 0.0

    async def carry_out(self, delivery: AnyDelivery, settlement: Settlement) -> None:
        """Settle a message as its handler decided."""
        if isinstance(settlement, Ack):
            await delivery.ack()
        elif isinstance(settlement, Retry):
            self.suspects.note_harmless(self.durable, delivery.seq)
            await delivery.nak(max(settlement.seconds, SHORTEST_RETRY_SECONDS))
        else:
            await self._dead_letter(delivery, settlement.reason)

    async def failed(self, delivery: AnyDelivery, error: Exception) -> None:
        """Settle a message whose handling raised."""
        name = self.durable.name
        match error:
            case InvalidMessage():
                await self._dead_letter(delivery, str(error))
            case StoreFull(stream=topology.AGENT_REQUESTS, is_streams_own=True):
                # The deadline is armed and ends it. Asked for more and more seldom: requests whose work waits for room
                # must not keep others from being taken in.
                await self._retry(delivery)
            case BrokerUnavailable():
                # No fault of the message. If this retry is lost too, the server redelivers after `ack_wait`.
                self._tell(error)
                await self._retry(delivery, AWAY_RETRY_SECONDS)
            case _:
                self._observer.handler_failed(name)
                self._log_failure(delivery, error)
                if self._max_deliveries is None or delivery.count < self._max_deliveries:
                    await self._retry(delivery)
                else:
                    await self._abandon(delivery, f"{type(error).__name__} after {delivery.count} deliveries")

    def _log_failure(self, delivery: AnyDelivery, error: Exception) -> None:
        name = self.durable.name
        if isinstance(error, Conflict):
            # Others wrote first each time, or the replicas of the bucket have not yet agreed on an earlier write.
            changes = (
                "the tally of %s changed each time that it was to be written (delivery %d of message %d)"
            )
            log.warning(f"%s: {changes}", name, error, delivery.count, delivery.seq)
            return
        about = "%s failed on delivery %d of message %d"
        log.error(about, name, delivery.count, delivery.seq, exc_info=error)

    def _tell(self, error: BrokerUnavailable) -> None:
        """Log why NATS cannot be used: once for all messages that meet it, and again now and then."""
        if isinstance(error, StoreFull):
            return  # logged by whoever published
        if not self._jetstream.connected:
            return  # the connection has said so
        text, now = str(error), asyncio.get_running_loop().time()
        if text != self._told or now - self._told_at >= TELL_AGAIN_SECONDS:
            self._told, self._told_at = text, now
            log.warning("%s: %s", self.durable.name, text)

    async def _abandon(self, delivery: AnyDelivery, reason: str, *, read: bool = True) -> None:
        """`read`: whether `give_up` may read the payload."""
        try:
            if self._give_up is not None:
                await self._give_up(delivery if read else delivery.without_payload(), reason)
        except Exception:
            log.exception("%s could not give up on message %d", self.durable.name, delivery.seq)
            await self._retry(delivery)
            return
        await self._dead_letter(delivery, reason)

    async def give_up_unread(self, delivery: AnyDelivery) -> None:
        """Give up a message that was begun so often and never finished. Nothing of its payload is read again."""
        log.error(
            "%s gives message %d up: it ended each process that began it", self.durable.name, delivery.seq
        )
        reason = f"begun {MAX_BEGUN} times and never finished: the process that handled it ended each time"
        await self._abandon(delivery, reason, read=False)

    async def _retry(self, delivery: AnyDelivery, seconds: float | None = None) -> None:
        self.suspects.note_harmless(self.durable, delivery.seq)
        with suppress(Exception):  # the server redelivers after `ack_wait`
            await delivery.nak(seconds or retry_wait(delivery.count))

    async def _dead_letter(self, delivery: AnyDelivery, reason: str) -> None:
        """Store the message whole, with the reason and its origin in headers, then acknowledge it."""
        try:
            await dead_letter(self._jetstream, self.durable, delivery, reason)
            self._observer.dead_lettered(self.durable.filter)
            await delivery.ack()
        except BrokerUnavailable as error:  # NATS is away, or DEAD_LETTERS is full: tried until it is not
            self._tell(error)
            await self._retry(delivery)
        except Exception as error:
            log.error("%s could not dead-letter message %d: %s", self.durable.name, delivery.seq, error)
            await self._retry(delivery)


class Runner:
    """Runs `handle` on each message and settles it by what it returns or raises.

    `prepare`: runs first on messages that came together. It raises nothing.
    """

    def __init__(self, settler: Settler, handle: Handle, prepare: Prepare | None = None) -> None:
        self._settler = settler
        self._handle = handle
        self._prepare = prepare
        self._in_progress = InProgress((settler.durable.ack_wait_seconds or ACK_WAIT_SECONDS) / SIGNALS)
        # Large messages take turns: to read one may keep the event loop busy for a tenth of a second.
        self._turns = Turns()
        self._suspects = settler.suspects

    async def __call__(self, deliveries: list[AnyDelivery]) -> None:
        """Run on what came together. Raises nothing but CancelledError."""
        if self._suspects.busy or any(delivery.count >= SUSPECT_DELIVERIES for delivery in deliveries):
            await self._run_carefully(deliveries)
        elif len(deliveries) == 1:  # most often; a task would cost a tenth of the handling
            await self.run(deliveries[0])
        else:
            if self._prepare is not None:
                await self._prepare(deliveries)
            await asyncio.gather(*map(self.run, deliveries))

    async def run(self, delivery: AnyDelivery) -> None:
        """Run on one message. Raises nothing but CancelledError."""
        in_progress = self._in_progress.begin(delivery.msg)
        try:
            if len(delivery.data) >= LARGE_BYTES and not await self._turns.wait(TURN_SECONDS):
                settlement: Settlement = Retry(backoff(delivery.count, FIRST_TURN_SECONDS, LAST_TURN_SECONDS))
            else:
                settlement = await self._handle(delivery)
            await self._settler.carry_out(delivery, settlement)
        except Exception as error:
            await self._settler.failed(delivery, error)
        finally:
            self._in_progress.end(in_progress)

    # ── messages that may end this process ────────────────────────────────────────────────────────────────────────

    async def _run_carefully(self, deliveries: list[AnyDelivery]) -> None:
        """Run on suspects one at a time, and on the others after them."""
        durable = self._settler.durable
        suspected: list[AnyDelivery] = []
        others: list[AnyDelivery] = []
        for delivery in deliveries:
            suspect = self._suspects.suspects(durable, delivery.seq, delivery.count)
            (suspected if suspect else others).append(delivery)
        await asyncio.gather(*map(self._run_alone, suspected), *map(self._run_after, others))

    async def _run_after(self, delivery: AnyDelivery) -> None:
        if self._suspects.busy:
            await self._suspects.wait_idle()
        await self.run(delivery)

    async def _run_alone(self, delivery: AnyDelivery) -> None:
        """Run on a message that may end this process. The next process knows then which message it was."""
        durable = self._settler.durable
        in_progress = self._in_progress.begin(delivery.msg)
        try:
            async with self._suspects.alone():
                if not self._suspects.suspects(durable, delivery.seq, delivery.count):
                    # A copy of it was handled meanwhile: a process that stood still gets one for each `ack_wait`.
                    await self.run(delivery)
                    return
                if not await self._suspects.begin(durable, delivery.seq):
                    await self._settler.give_up_unread(delivery)
                    return
                try:
                    await self.run(delivery)
                    self._suspects.note_harmless(durable, delivery.seq)
                finally:
                    await self._suspects.finish(durable, delivery.seq)
        finally:
            self._in_progress.end(in_progress)


async def dead_letter(jetstream: JetStream, durable: Durable, delivery: AnyDelivery, reason: str) -> None:
    """Put a delivery into DEAD_LETTERS, once however often it is tried."""
    message = OriginalMessage(
        delivery.msg.subject, delivery.data, delivery.headers, delivery.seq, delivery.at, delivery.count
    )
    await deadletters.dead_letter(jetstream, durable, message, reason)
