"""The client on a real NATS: malformed messages do not stop it, it logs an absence once, and inline messages keep
their order."""

import asyncio
import json
import logging
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import nats.errors
import nats.js.errors
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.transport import TcpTransport
from nats.js import JetStreamContext
from nats.js.api import Header

from parley.broker.asyncio_helpers import cancel_all
from parley.broker.child_process import child
from parley.broker.core.errors import BrokerUnavailable, RightMissing
from parley.broker.jetstream import connection
from parley.broker.jetstream.connection import connect
from parley.broker.jetstream.embedded import config, embedded_nats, executable
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.nats_client import NatsClient, NotAllowed
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
    subscription = await nc.subscribe("x.*")
    await nc.flush()
    await send_raw(url, sent)
    assert (await subscription.next_msg(timeout=5)).data == b"{}"
    await nc.publish("x.z", b"after")
    assert (await subscription.next_msg(timeout=5)).data == b"after"


async def test_a_flush_tells_that_what_was_written_before_has_arrived(nc: Nats, url: str) -> None:
    other = await connect(url, "other")
    for round_ in range(50):
        subscription = await nc.subscribe(f"fence.{round_}")
        await nc.flush()
        await other.publish(f"fence.{round_}", b"x")
        assert (await subscription.next_msg(timeout=5)).data == b"x"
        await subscription.unsubscribe()
    await other.close()


@pytest.mark.parametrize("letter", [b"\x0b", b"\x0c", b"\x00", b"\x1c", b"\x85"])
async def test_what_python_takes_for_a_blank_stays_in_the_subject(url: str, nc: Nats, letter: bytes) -> None:
    subscription = await nc.subscribe("x.*")
    await nc.flush()
    subject = b"x.a%sb" % letter
    await send_raw(url, b"PUB %s 2\r\n{}\r\nHPUB %s 12 14\r\nNATS/1.0\r\n\r\n{}\r\n" % (subject, subject))
    for _ in range(2):
        msg = await subscription.next_msg(timeout=5)
        assert (msg.subject, msg.data) == (subject.decode(errors="replace"), b"{}")
    assert nc.stats["reconnects"] == 0


async def test_an_inline_subscription_acts_on_messages_in_their_order(nc: Nats, url: str) -> None:
    received: list[tuple[str, bytes]] = []

    def act(message: Msg) -> None:
        received.append((message.subject, message.data))

    await nc.subscribe_inline("inline.*", act)
    await nc.flush()
    other = await connect(url, "other")
    for number in range(20):
        await other.publish(f"inline.{number}", b"%d" % number)
    await until(lambda: len(received) == 20, "all are received")
    assert received == [(f"inline.{number}", b"%d" % number) for number in range(20)]
    await other.close()


async def test_a_pong_for_a_flush_that_timed_out_does_not_stop_the_reading(nc: Nats) -> None:
    subscription = await nc.subscribe("after")
    # As a `flush` that timed out leaves it.
    given_up: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    given_up.cancel()
    await nc._send_ping(given_up)
    await nc.flush()
    await nc.publish("after", b"x")
    assert (await subscription.next_msg(timeout=5)).data == b"x"


async def test_an_inline_subscription_that_ends_leaves_nothing_behind(nc: Nats) -> None:
    before = dict(nc._inline)
    ended = [await nc.subscribe_inline(subject, lambda _: None) for subject in ("a", "b")]
    await ended[0].unsubscribe()
    await ended[1].drain()  # type: ignore[no-untyped-call]  # nats-py has no types here
    assert nc._inline == before


async def test_requests_made_together_on_a_new_connection_are_all_answered(nc: Nats, url: str) -> None:
    other = await connect(url, "other")
    replies: list[str] = []

    async def answer(message: Msg) -> None:
        replies.append(message.reply)
        await message.respond(message.data)

    await other.subscribe("asked", cb=answer)
    await other.flush()
    sent = [b"%d" % number for number in range(50)]
    answers = await asyncio.gather(*(nc.request("asked", data, timeout=5) for data in sent))
    assert [answer.data for answer in answers] == sent
    assert not nc._resp_map
    tokens = [reply.rpartition(".")[2] for reply in replies]
    assert len({reply.rpartition(".")[0] for reply in replies}) == 1
    # The random part: a reply subject cannot be guessed from the one before.
    assert len({token[-16:] for token in tokens}) == len({token[:-16] for token in tokens}) == 50
    await other.close()


async def test_a_connection_that_drains_sends_no_more_requests(nc: Nats) -> None:
    await nc.request("$SYS.REQ.USER.INFO", timeout=5)
    nc._status = Client.DRAINING_PUBS
    with pytest.raises(nats.errors.ConnectionDrainingError):
        await nc.request("asked", b"")
    assert not nc._resp_map
    nc._status = Client.CONNECTED


CLIENT_PROGRAM = """
import asyncio, sys
from nats.protocol import parser
own = (parser.MSG_RE, parser.HMSG_RE, parser.Parser.parse)
import parley
async def main():
    async with parley.connect(sys.argv[1]):
        assert own == (parser.MSG_RE, parser.HMSG_RE, parser.Parser.parse)
asyncio.run(main())
"""


def test_a_program_that_uses_the_client_keeps_its_nats_py_as_it_is(url: str) -> None:
    subprocess.run([sys.executable, "-c", CLIENT_PROGRAM, url], check=True, timeout=30)


# ── what is logged ────────────────────────────────────────────────────────────────────────────────────────────────


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    assert not [record for record in caplog.records if record.exc_info], "a traceback"
    return [record.getMessage() for record in caplog.records if record.name.startswith(("parley", "nats"))]


async def test_an_absence_of_nats_is_two_lines_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connection, "RECONNECT_WAIT_SECONDS", 0.05)
    async with AsyncExitStack() as up:
        server = await up.enter_async_context(embedded_nats(tmp_path))
        nc = await connect(server.url, "test")
        caplog.clear()
        await up.aclose()
        await until(lambda: not nc.is_connected, "NATS is away")
        await until(lambda: nc.last_error is not None, "an attempt failed")
        await asyncio.sleep(0.3)  # some more attempts
        await up.enter_async_context(embedded_nats(tmp_path, port=urlsplit(server.url).port or 0))
        await nc.wait_connected()
        await until(lambda: "back" in lines(caplog)[-1], "it is said")
        await nc.close()
    assert lines(caplog) == [
        "the connection to NATS is lost; trying to reconnect",
        "the connection to NATS is back",
    ]
    assert {record.levelno for record in caplog.records if record.name == "parley.nats"} == {logging.WARNING}


async def test_a_second_connection_of_a_process_is_silent_and_counts_its_losses(
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = NatsClient()
    client.is_second = True
    client._log_lost()
    client._log_back()
    client._log_lost()
    assert lines(caplog) == []
    assert client.losses == 2


async def test_a_first_connection_that_fails_is_raised_and_not_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT_SECONDS", 0.1)
    with pytest.raises(BrokerUnavailable):
        await connect("nats://127.0.0.1:1", "test")
    assert lines(caplog) == []


@asynccontextmanager
async def server_that_forbids() -> AsyncIterator[str]:
    """Answers each PUB with a violation of permissions."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b'INFO {"server_id": "X", "version": "2.12.0", "max_payload": 1048576, "headers": true}\r\n'
        )
        while line := await reader.readline():
            if line.startswith(b"PING"):
                writer.write(b"PONG\r\n")
            elif line.startswith(b"PUB"):
                writer.write(b"-ERR 'Permissions Violation for Publish to \"x\"'\r\n")
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        yield f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_violation_of_permissions_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    async with server_that_forbids() as url:
        nc = await connect(url, "test")
        for _ in range(3):
            await nc.publish("x", b"")
            await nc.flush()
        await nc.close()
    (line,) = lines(caplog)
    assert (
        line == "this NATS user has no right to publish to x (docs/security.md has the rights of each role)"
    )


def test_a_reconnect_that_the_server_refuses_says_why_once(caplog: pytest.LogCaptureFixture) -> None:
    # Without a server: nats-py leaves each refused connection open, and Python warns of them in other tests.
    client = NatsClient()
    client._log_lost()
    for _ in range(3):
        client._log_error(nats.errors.Error("nats: 'Authorization Violation'"))
        client._log_error(ConnectionRefusedError())
    assert lines(caplog) == [
        "the connection to NATS is lost; trying to reconnect", "nats: 'Authorization Violation'"
    ]  # fmt: skip


async def test_refusals_that_differ_in_their_numbers_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    client = NatsClient()
    client._status = NatsClient.CONNECTED
    hears = client._logging_errors(None)
    for seq in range(3):
        for what in ("$js.ack.requests.intake", "$js.ack.deliberations.expire"):
            await hears(nats.errors.Error(f'nats: permissions violation for publish to "{what}.1.{seq}.0"'))
    assert lines(caplog) == [
        f"this NATS user has no right to publish to $JS.ACK.{consumer}.> (docs/security.md has the rights of each role)"
        for consumer in ("REQUESTS.intake", "DELIBERATIONS.expire")
    ]


async def test_a_connection_that_is_closed_without_callbacks_is_known_to_be_closed(tmp_path: Path) -> None:
    """As nats-py does when a server refuses it."""
    async with embedded_nats(tmp_path) as server:
        nc = await connect(server.url, "test")
        waiting = asyncio.create_task(nc.wait_closed())
        await nc._close(nc.CLOSED, do_cbs=False)
        async with asyncio.timeout(5):
            await waiting


# ── names and rights ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_inboxes_are_under_the_prefix_and_cannot_be_guessed(url: str) -> None:
    nc = await connect(url, "test", "_PARLEY.service")
    try:
        inboxes = [nc.new_inbox() for _ in range(100)]
        assert all(re.fullmatch(r"_PARLEY\.service\.[0-9a-f]{32}", inbox) for inbox in inboxes)
        # nats-py's share all letters but the last ten.
        assert len({inbox[:-16] for inbox in inboxes}) == 100
        heard: list[str] = []

        async def note(message: Msg) -> None:
            heard.append(message.reply)
            await message.respond(b"x")

        await nc.subscribe("echo", cb=note)
        await nc.request("echo", b"", timeout=5)
        assert heard[0].startswith("_PARLEY.service.")
    finally:
        await nc.close()


async def test_a_request_without_the_right_fails_at_once_and_says_so(tmp_path: Path) -> None:
    users = """
        { user: mute, password: x, permissions: { publish: "allowed", subscribe: "_INBOX.>" } }
        { user: deaf, password: x, permissions: { publish: ">", subscribe: { deny: "_INBOX.>" } } }
    """
    async with limited_server(tmp_path, users) as address:
        mute, deaf = (
            await connect(f"nats://mute:x@{address}", "m"),
            await connect(f"nats://deaf:x@{address}", "d"),
        )
        try:
            started = asyncio.get_running_loop().time()
            with pytest.raises(NotAllowed, match="no right to publish to forbidden"):
                await mute.request("forbidden", b"", timeout=30)
            for _ in range(2):
                with pytest.raises(NotAllowed, match="no right to subscribe to _INBOX"):
                    await deaf.request("anything", b"", timeout=30)
            with pytest.raises(
                RightMissing, match=r"^NATS at .*: this NATS user has no right to publish to x \("
            ):
                await JetStream(mute).publish("x", b"")
            assert asyncio.get_running_loop().time() - started < 15
        finally:
            await mute.close()
            await deaf.close()


@asynccontextmanager
async def limited_server(folder: Path, users: str) -> AsyncIterator[str]:
    """A nats-server without JetStream whose users have rights of their own. Yields its address."""
    conf = folder / "limited.conf"
    conf.write_text(
        config(folder, port=-1, token=None, sync_always=False, jetstream=False)
        + f"authorization {{ users: [ {users} ] }}\n"
    )

    async def address(process: asyncio.subprocess.Process) -> str:
        ports = folder / f"nats-server_{process.pid}.ports"
        await until(lambda: ports.exists() and ports.read_text().endswith("}"), "nats-server is ready")
        return str(json.loads(ports.read_text())["nats"][0]).removeprefix("nats://")

    async with child((executable(), "-c", str(conf)), address) as (_, found):
        yield found


# ── publishing, quickly ───────────────────────────────────────────────────────────────────────────────────────────

PUBLISHED: list[tuple[str, bytes, str, dict[str, str] | None]] = [
    ("a.b", b"", "", None),
    ("a.b", b"words", "x.y", None),
    ("a.b", b"words", "", {"One": "1", "Two": " 2 "}),
    ("a.b", b"words", "x.y", {"One": "ä€", "Empty": ""}),
    ("a.b", b"words", "", {"One": "1\r\nForged: 2", "Two": "3\nForged: 4"}),
    ("ä\x0b\x0c", b"words", "", {}),
    ("a.b", b"words", "", {Header.ROLLUP: "sub"}),
]


@pytest.mark.parametrize(("subject", "payload", "reply", "headers"), PUBLISHED)
async def test_what_is_written_is_byte_for_byte_what_nats_py_writes(
    nc: Nats, subject: str, payload: bytes, reply: str, headers: dict[str, str] | None
) -> None:
    written = []
    for publish in (Client.publish, NatsClient.publish):
        await nc.flush()
        await publish(nc, subject, payload, reply=reply, headers=headers)
        written.append(b"".join(nc._pending))
    assert written[0] == written[1]
    assert b"\nForged" not in written[0]


@pytest.mark.parametrize(
    ("subject", "reply", "headers", "error"),
    [
        ("", "", None, nats.errors.BadSubjectError),
        ("a b", "", None, nats.errors.BadSubjectError),
        ("a\r\nPUB b 0", "", None, nats.errors.BadSubjectError),
        ("a", "b c", None, nats.errors.BadSubjectError),
        ("a", "", {"a b": "c"}, nats.errors.BadHeaderError),
        ("a", "", {"a:\r\nb": "c"}, nats.errors.BadHeaderError),
    ],
)
async def test_what_cannot_be_written_is_refused(
    nc: Nats, subject: str, reply: str, headers: dict[str, str] | None, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await nc.publish(subject, b"x", reply=reply, headers=headers)


async def test_an_acknowledgement_is_read_as_nats_py_reads_it(nc: Nats) -> None:
    headers = {"Nats-Msg-Id": "one"}
    first = await nc.jetstream().publish("deliberation.requested", b"x", headers=headers)
    assert (first.stream, first.seq, first.duplicate) == ("REQUESTS", 1, None)
    again = await nc.jetstream().publish("deliberation.requested", b"x", headers=headers)
    assert again == await JetStreamContext.publish(
        nc.jetstream(), "deliberation.requested", b"x", headers=headers
    )
    assert again.duplicate
    with pytest.raises(nats.js.errors.NoStreamResponseError):
        await nc.jetstream().publish("no.such.stream", b"x")
    wrong = {"Nats-Expected-Last-Sequence": "77"}
    with pytest.raises(nats.js.errors.APIError):
        await nc.jetstream().publish("deliberation.requested", b"x", headers=wrong)


HEADER_BLOCKS = [
    b"", b"A: 1\r\nB:2\r\nC:\t3 \r\n\r\n", b"no colon\r\nA: 1\r\n", b"a b: 1\r\nA:b:c\r\n", b"\xff: 1\r\nB: \xff\r\n", b": 1\r\n",
    b" A : 1\r\nA: 2\r\n", "Ä: 1\r\nB: ä\r\n".encode(),
]  # fmt: skip


@pytest.mark.parametrize("block", HEADER_BLOCKS)
def test_headers_are_read_as_nats_py_reads_them(block: bytes) -> None:
    assert NatsClient._parse_header_lines(block) == Client._parse_header_lines(block)


@asynccontextmanager
async def sockets_of_a_server_that_says_nothing() -> AsyncIterator[tuple[str, asyncio.Queue[asyncio.Event]]]:
    """Its URL, and for each socket that was opened to it an event: that socket was closed."""
    opened: asyncio.Queue[asyncio.Event] = asyncio.Queue()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened.put_nowait(closed := asyncio.Event())
        await reader.read()
        closed.set()
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        yield f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}", opened


async def test_an_attempt_to_connect_that_is_cancelled_closes_its_socket() -> None:
    """As FastStream's is, where the service is stopped while it starts."""
    async with sockets_of_a_server_that_says_nothing() as (url, opened), asyncio.timeout(5):
        connecting = asyncio.create_task(NatsClient().connect(**connection.connect_options(url, "test")))
        closed = await opened.get()
        await cancel_all([connecting])
        await closed.wait()


async def test_a_close_that_is_cancelled_closes_the_socket(tmp_path: Path) -> None:
    async with embedded_nats(tmp_path) as server:
        nc = await connect(server.url, "test")
        transport = nc._transport
        assert isinstance(transport, TcpTransport)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await nc.close()
        assert transport._io_writer is not None
        assert transport._io_writer.is_closing()
