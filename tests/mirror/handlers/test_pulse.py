"""A message in hand shows that it is being worked on, for as long as it is."""

import asyncio
from dataclasses import dataclass, field

from nats.aio.msg import Msg

from parley.handlers.pulse import SIGNS, Pulse
from tests.harness import until


@dataclass
class Slow:
    """A message that notes its signs of life."""

    signs: list[float] = field(default_factory=list)
    away: bool = False

    async def in_progress(self) -> None:
        self.signs.append(asyncio.get_running_loop().time())
        if self.away:
            raise ConnectionError


def pulse(slow: Slow, ack_wait: float = 0.06) -> Pulse:
    message: Msg = slow  # type: ignore[assignment]  # the one verb that matters
    return Pulse(message, ack_wait)


async def test_signs_come_until_it_is_stopped_and_several_within_one_ack_wait() -> None:
    slow = Slow()
    began = asyncio.get_running_loop().time()
    beating = pulse(slow)
    await until(lambda: len(slow.signs) >= 2 * SIGNS, "it shows signs of life")
    beating.stop()
    assert slow.signs[0] - began >= 0.06 / SIGNS - 0.002
    count = len(slow.signs)
    await asyncio.sleep(0.1)
    assert len(slow.signs) <= count + 1  # one may have been on its way


async def test_what_is_done_at_once_shows_none() -> None:
    slow = Slow()
    pulse(slow, ack_wait=30.0).stop()
    await asyncio.sleep(0)
    assert slow.signs == []


async def test_a_sign_that_cannot_be_given_is_no_reason_to_stop() -> None:
    slow = Slow(away=True)
    beating = pulse(slow)
    await until(lambda: len(slow.signs) >= 3, "it goes on")
    beating.stop()
