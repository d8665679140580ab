"""Looks at the server again and again: after each reconnect, and every few seconds in between."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import nats.errors

from parley.broker.jetstream.nats_client import NatsClient


async def repeat_look(
    nc: NatsClient, look: Callable[[], Awaitable[object]], seconds: Callable[[], float]
) -> None:
    """Look now, after each reconnect and every `seconds()`, until the connection is closed for good."""
    while True:
        try:
            await nc.wait_connected()
        except nats.errors.ConnectionClosedError:
            return
        reconnects = nc.reconnects
        await look()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds()):
                await nc.wait_reconnected(reconnects)
