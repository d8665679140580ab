"""The connection on a real NATS: what a sender of its own making may send stops nobody, and a message is acted on as it is read."""

import asyncio

import pytest
from nats.aio.msg import Msg

from parley.broker.jetstream.connection import connect
from parley.broker.jetstream.nats_client import NatsClient
from parley.broker.jetstream.nats_client import NatsClient as Nats
from tests.harness import until
from tests.mirror.broker import send_raw


@pytest.mark.parametrize(
    "sent",
    [
        b"HPUB x.y 8 10\r\njunk\r\n\r\n{}\r\n",
        b"HPUB x.y 1 3\r\nx{}\r\n",
        b"HPUB x.y 16 18\r\nNATS/1.0 \xff\xff\xff\r\n\r\n{}\r\n",
        b"PUB x.\xff 2\r\n{}\r\n",
        b"PUB x.y _INBOX.\xff 2\r\n{}\r\n",
    ],
)
async def test_a_malformed_message_does_not_stop_a_connection(nc: Nats, url: str, sent: bytes) -> None:
    heard = await nc.subscribe("x.*")
    await nc.flush()
    await send_raw(url, sent)
    assert (await heard.next_msg(timeout=5)).data == b"{}"
    await nc.publish("x.z", b"after")
    assert (await heard.next_msg(timeout=5)).data == b"after"


async def test_a_flush_tells_that_what_was_written_before_has_arrived(nc: Nats, url: str) -> None:
    other = await connect(url, "other")
    for round_ in range(50):
        heard = await nc.subscribe(f"fence.{round_}")
        await nc.flush()
        await other.publish(f"fence.{round_}", b"x")
        assert (await heard.next_msg(timeout=5)).data == b"x"
        await heard.unsubscribe()
    await other.close()


@pytest.mark.parametrize("letter", [b"\x0b", b"\x0c", b"\x00", b"\x1c", b"\x85"])
async def test_a_letter_that_python_takes_for_a_blank_is_one_of_the_subject(
    url: str, nc: Nats, letter: bytes
) -> None:
    heard = await nc.subscribe("x.*")
    await nc.flush()
    subject = b"x.a%sb" % letter
    await send_raw(url, b"PUB %s 2\r\n{}\r\nHPUB %s 12 14\r\nNATS/1.0\r\n\r\n{}\r\n" % (subject, subject))
    for _ in range(2):
        msg = await heard.next_msg(timeout=5)
        assert (msg.subject, msg.data) == (subject.decode(errors="replace"), b"{}")
    assert nc.stats["reconnects"] == 0


async def test_a_message_is_acted_on_as_it_is_read_in_the_order_it_came(nc: Nats, url: str) -> None:
    assert isinstance(nc, NatsClient)
    heard: list[tuple[str, bytes]] = []

    def act(message: Msg) -> None:
        heard.append((message.subject, message.data))

    await nc.subscribe_inline("heard.*", act)
    await nc.flush()
    other = await connect(url, "other")
    for number in range(20):
        await other.publish(f"heard.{number}", b"%d" % number)
    await until(lambda: len(heard) == 20, "all are heard")
    assert heard == [(f"heard.{number}", b"%d" % number) for number in range(20)]
    await other.close()


async def test_a_pong_that_nobody_waits_for_any_more_does_not_stop_the_reading(nc: Nats) -> None:
    heard = await nc.subscribe("after")
    # As a `flush` leaves it whose time was up.
    given_up: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    given_up.cancel()
    await nc._send_ping(given_up)
    await nc.flush()
    await nc.publish("after", b"x")
    assert (await heard.next_msg(timeout=5)).data == b"x"
