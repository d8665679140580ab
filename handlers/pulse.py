"""Signs of life for one message in hand, so that `ack_wait` can be short and slow work is not handed to somebody else."""

import asyncio
from contextlib import suppress

from nats.aio.msg import Msg

# Signs within one `ack_wait`: two may be late or lost.
SIGNS = 3


class Pulse:
    """Tells the server every third of `ack_wait_seconds` that the message is being worked on, until `stop`. Costs a timer."""

    def __init__(self, msg: Msg, ack_wait_seconds: float) -> None:
        self._msg = msg
        self._interval = ack_wait_seconds / SIGNS
        self._sending: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._beat)

    def stop(self) -> None:
        self._timer.cancel()

    def _beat(self) -> None:
        self._sending = asyncio.create_task(self._send())
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._beat)

    async def _send(self) -> None:
        with suppress(Exception):  # NATS is away: the message is handed to somebody else, which is harmless
            await self._msg.in_progress()
