"""How every JetStream handler ends: acknowledged, given back, or whole in DEAD_LETTERS. Never lost, never stuck.

A `InvalidMessage` is the sender's mistake and is dead-lettered at once. Anything else that is raised sends the message back, later
each time; after `MAX_DELIVERIES` it is dead-lettered too, and `on_give_up` has had its chance to end the deliberation.
"""

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from parley.broker.core.errors import BrokerUnavailable, InvalidMessage
from parley.broker.core.observer import Observer
from parley.broker.jetstream import deadletters
from parley.broker.jetstream.deadletters import OriginalMessage
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.topology import ACK_WAIT_SECONDS, Durable
from parley.handlers.delivery import Delivery
from parley.handlers.pulse import Pulse

log = logging.getLogger("parley.handlers")

# Deliveries of one message before it counts as one that nobody can use. A dead worker costs one each, a bug one each.
MAX_DELIVERIES = 5
# Seconds before a failed message is delivered again: doubled each time from the first to the last.
FIRST_RETRY_SECONDS = 0.5
LAST_RETRY_SECONDS = 30.0
# When NATS could not do its part: soon, and no later the longer it lasts, for a deadline may be among them.
AWAY_RETRY_SECONDS = 0.5
# A handler that asks for its message again gets it no sooner: a clock a little off must not make a tight loop.
SHORTEST_RETRY_SECONDS = 0.01

AnyDelivery = Delivery[Any]


def retry_wait(count: int) -> float:
    """Seconds before delivery `count` + 1."""
    doublings = min(
        count - 1, 16
    )  # by then it is the last one; without an end, 2 ** count would leave what a float can hold
    return float(min(LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2**doublings))


class Settler:
    """`deliveries`: how often a message may fail before it is given up on; None never, for what nobody else would make good."""

    def __init__(
        self, wire: JetStream, durable: Durable, observer: Observer, deliveries: int | None = MAX_DELIVERIES
    ) -> None:
        self._wire = wire
        self._durable = durable
        self._observer = observer
        self._deliveries = deliveries

    async def settle(
        self,
        delivery: AnyDelivery,
        handle: Callable[[], Awaitable[float | None]],
        on_give_up: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        """Run `handle` and settle by what it does. Returning None acknowledges, returning seconds asks for the message again
        after them. Raises nothing but CancelledError."""
        pulse = Pulse(delivery.msg, self._durable.ack_wait_seconds or ACK_WAIT_SECONDS)
        try:
            again = await handle()
            if again is None:
                await delivery.ack()
            else:
                await delivery.nak(max(again, SHORTEST_RETRY_SECONDS))
        except Exception as error:
            await self.failed(delivery, error, on_give_up)
        finally:
            pulse.stop()

    async def failed(
        self,
        delivery: AnyDelivery,
        error: Exception,
        on_give_up: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        """Settle a message whose handling raised."""
        name = self._durable.name
        match error:
            case InvalidMessage():
                await self._dead_letter(delivery, str(error))
            case BrokerUnavailable():
                # Not the message's fault; if NATS cannot take it back either, it redelivers after ack_wait.
                log.warning("%s: %s", name, error)
                await self._give_back(delivery, AWAY_RETRY_SECONDS)
            case _:
                self._observer.handler_failed(name)
                log.error(
                    "%s failed on delivery %d of message %d",
                    name,
                    delivery.count,
                    delivery.seq,
                    exc_info=error,
                )
                if self._deliveries is None or delivery.count < self._deliveries:
                    await self._give_back(delivery)
                else:
                    await self._give_up(
                        delivery, f"{type(error).__name__} after {delivery.count} deliveries", on_give_up
                    )

    async def _give_up(
        self, delivery: AnyDelivery, reason: str, on_give_up: Callable[[str], Awaitable[None]] | None
    ) -> None:
        try:
            if on_give_up is not None:
                await on_give_up(reason)
        except Exception:
            log.exception("%s could not give up on message %d", self._durable.name, delivery.seq)
            await self._give_back(delivery)
            return
        await self._dead_letter(delivery, reason)

    async def _give_back(self, delivery: AnyDelivery, seconds: float | None = None) -> None:
        with suppress(Exception):  # if even this fails, the server redelivers after ack_wait
            await delivery.nak(seconds or retry_wait(delivery.count))

    async def _dead_letter(self, delivery: AnyDelivery, reason: str) -> None:
        """Store the message whole, with why and where from in its headers, then let it go."""
        try:
            await dead_letter(self._wire, self._durable, delivery, reason)
            self._observer.dead_lettered(self._durable.filter)
            await delivery.ack()
        except Exception as error:  # NATS away, DEAD_LETTERS full or forbidden: the message stays where it is until it is not
            log.error("%s could not dead-letter message %d: %s", self._durable.name, delivery.seq, error)
            await self._give_back(delivery)


async def dead_letter(wire: JetStream, durable: Durable, delivery: AnyDelivery, reason: str) -> None:
    """Put a delivery into DEAD_LETTERS, once however often it is tried."""
    message = OriginalMessage(
        delivery.msg.subject, delivery.data, delivery.headers, delivery.seq, delivery.at, delivery.count
    )
    await deadletters.dead_letter(wire, durable, message, reason)
