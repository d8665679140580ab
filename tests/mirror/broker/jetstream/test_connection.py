"""JetStream on a real NATS: publish, broadcast, schedule, read back; and what is raised in its
absence."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import nats.js.errors
import pytest
from nats.aio.msg import Msg

from parley.broker.core.errors import BrokerUnavailable, BrokerUnsuitable, Conflict, PayloadTooLarge
from parley.broker.core.messages import ResultsRef
from parley.broker.core.timestamps import parse_timestamp
from parley.broker.core.url_masking import masked
from parley.broker.jetstream import connection, embedded, jetstream, topology
from parley.broker.jetstream.connection import check_server, connect, connect_options
from parley.broker.jetstream.embedded import embedded_nats
from parley.broker.jetstream.jetstream import JetStream, StoredMessage
from parley.broker.jetstream.nats_client import NatsClient as Nats
from parley.broker.jetstream.object_store import delete_object, get_object, put_object
from parley.broker.jetstream.provision import provision
from parley.broker.jetstream.topology import purge_timer_headers
from tests import present
from tests.harness import until
from tests.mirror.broker import send_raw

NO_SERVER = "nats://127.0.0.1:1"


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for what will not come is made short."""
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(connection, "PUBLISH_TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(jetstream, "PUBLISH_TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(connection, "RECONNECT_WAIT_SECONDS", 0.05)


@asynccontextmanager
async def old_server(version: str) -> AsyncIterator[str]:
    """Says it is a nats-server of `version`, and pongs: the install comes with one version only."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        info = {"server_id": "OLD", "version": version, "max_payload": 1_048_576, "headers": True, "proto": 1}
        writer.write(f"INFO {json.dumps(info)}\r\n".encode())
        while line := await reader.readline():
            if line.startswith(b"PING"):
                writer.write(b"PONG\r\n")
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        yield f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def next_of(js_subject: str, nc: Nats, seconds: float = 10.0) -> Msg:
    """The first message of DELIBERATIONS under a subject, whenever it comes."""
    subscription = await nc.jetstream().subscribe(
        js_subject, stream=topology.DELIBERATIONS, ordered_consumer=True
    )
    try:
        return await subscription.next_msg(timeout=seconds)
    finally:
        await subscription.unsubscribe()


# ── connecting ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_url_without_a_server_is_said_soon_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT_SECONDS", connection.CONNECT_TIMEOUT_SECONDS / 2)
    started = time.monotonic()
    with pytest.raises(BrokerUnavailable) as caught:
        await connect("nats://s3cret@127.0.0.1:1", "test")
    assert time.monotonic() - started < 5
    assert "nats://***@127.0.0.1:1" in str(caught.value)
    assert "Connect call failed" in caught.value.reason
    assert "s3cret" not in str(caught.value) + repr(caught.value)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("nats://no-such-host.invalid:4222", "not known"),
        ("nats://127.0.0.1:port", "invalid"),
        ("nats://[::1", "invalid"),
        ("", "invalid"),
        ("nats://127.0.0.1:4222,ws://127.0.0.1:80", "mixing"),
    ],
)
async def test_a_url_that_leads_nowhere_is_said_with_why(hurried: None, url: str, reason: str) -> None:
    with pytest.raises(BrokerUnavailable) as caught:
        await connect(url, "test")
    assert reason in caught.value.reason


async def test_one_server_of_several_is_enough(hurried: None, url: str) -> None:
    nc = await connect(f"{NO_SERVER}, {url}", "test")
    assert nc.is_connected
    await nc.close()


def test_a_connection_never_gives_up_reconnecting() -> None:
    options = connect_options("nats://a:1, nats://b:2", "me")
    assert options["servers"] == ["nats://a:1", "nats://b:2"]
    assert (options["allow_reconnect"], options["max_reconnect_attempts"]) == (True, -1)
    assert options["name"] == "me"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("nats://127.0.0.1:4222", "nats://127.0.0.1:4222"),
        ("nats://s3cret@host:4222", "nats://***@host:4222"),
        ("nats://user:s3cret@host:4222", "nats://***@host:4222"),
        ("nats://user:s3c@ret@host:4222", "nats://***@host:4222"),
        ("nats://user:s3c/ret@host:4222", "nats://***@host:4222"),
        ("nats://user:s3c://ret@host", "nats://***@host"),
        ("s3cret@host:4222", "***@host:4222"),
        ("nats://s3cret@a:1, tls://u:s3cret@b:2,nats://c", "nats://***@a:1,tls://***@b:2,nats://c"),
        ("nats://[::1", "nats://[::1"),
        ("host:4222", "host:4222"),
        ("", ""),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert masked(url) == shown


# ── is it one we can work with? ───────────────────────────────────────────────────────────────────────────────────


async def test_a_suitable_server_tells_its_version(nc: Nats, url: str) -> None:
    major, minor, _ = map(int, (await check_server(nc, url)).split("."))
    assert (major, minor) >= connection.OLDEST_SERVER


async def test_a_server_without_jetstream_is_said_to_be_one(tmp_path: Path) -> None:
    async with embedded_nats(tmp_path, jetstream=False) as server:
        nc = await connect(server.url, "test")
        with pytest.raises(
            BrokerUnsuitable, match="has no JetStream for this account; start it with -js"
        ) as caught:
            await check_server(nc, server.url)
        await nc.close()
    assert "\n" not in str(caught.value)
    assert "***@" in str(caught.value)


@pytest.mark.parametrize("version", ["2.10.0", "2.11.9", "1.4.1", "2.11.0-preview.1"])
async def test_a_server_too_old_for_deadlines_is_said_to_be_one(version: str) -> None:
    async with old_server(version) as url:
        nc = await connect(url, "test")
        with pytest.raises(
            BrokerUnsuitable, match=rf"is version {version[:6].rstrip('.')}.*; Parley needs 2\.12"
        ) as caught:
            await check_server(nc, url)
        await nc.close()
    assert url in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_a_server_that_leaves_while_it_is_checked_is_unavailable(hurried: None, tmp_path: Path) -> None:
    async with gone(tmp_path) as (wire, _):
        with pytest.raises(BrokerUnavailable):
            await asyncio.wait_for(check_server(wire.nc, "nats://x"), 10)


# ── publish ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_is_published_is_stored_with_its_headers(wire: JetStream) -> None:
    seq = (await wire.publish(topology.REQUESTED, b"{}", msg_id="m-1", headers={"traceparent": "00-aa"})).seq
    stored = await wire.get(topology.REQUESTS, seq)
    assert stored == StoredMessage(
        seq=seq, subject=topology.REQUESTED, data=b"{}", headers=stored.headers if stored is not None else {}
    )
    headers = dict(stored.headers)
    assert (headers["content-type"], headers["traceparent"]) == ("application/json", "00-aa")
    assert headers["Nats-Msg-Id"] == "m-1"


async def test_the_same_msg_id_again_is_the_first_message(wire: JetStream) -> None:
    first = (await wire.publish(topology.COMPLETED, b"one", msg_id="t-1:ending")).seq
    other = (await wire.publish(topology.COMPLETED, b"two", msg_id="t-2:ending")).seq
    again = (await wire.publish(topology.COMPLETED, b"three", msg_id="t-1:ending")).seq
    assert (again, other) == (first, first + 1)
    assert present(await wire.get_last(topology.DELIBERATIONS, topology.COMPLETED)).data == b"two"


async def test_without_a_msg_id_the_same_message_is_two(wire: JetStream) -> None:
    assert (await wire.publish(topology.COMPLETED, b"x")).seq < (
        await wire.publish(topology.COMPLETED, b"x")
    ).seq


async def test_compare_and_set_refuses_what_was_decided_on_an_old_state(wire: JetStream) -> None:
    key = topology.tally_subject("t-1")
    first = (await wire.publish(key, b"1", headers={"Nats-Expected-Last-Subject-Sequence": "0"})).seq
    with pytest.raises(Conflict):
        await wire.publish(key, b"2", headers={"Nats-Expected-Last-Subject-Sequence": "0"})
    second = (await wire.publish(key, b"2", headers={"Nats-Expected-Last-Subject-Sequence": str(first)})).seq
    newest = present(await wire.get_last(topology.TALLIES, key))
    assert (newest.seq, newest.data) == (second, b"2")


async def test_the_largest_message_the_server_takes_is_sent_and_one_byte_more_is_not(wire: JetStream) -> None:
    headers = {"traceparent": "00-ä", "x": ""}
    with pytest.raises(PayloadTooLarge) as caught:
        await wire.publish(topology.REQUESTED, b"x" * wire.max_payload, msg_id="m", headers=headers)
    assert (caught.value.subject, caught.value.limit_bytes) == (topology.REQUESTED, wire.max_payload)
    extra = caught.value.size_bytes - wire.max_payload
    largest = b"x" * (wire.max_payload - extra)
    seq = (await wire.publish(topology.REQUESTED, largest, msg_id="m", headers=headers)).seq
    assert present(await wire.get(topology.REQUESTS, seq)).data == largest
    with pytest.raises(PayloadTooLarge):
        await wire.publish(topology.REQUESTED, largest + b"x", msg_id="m", headers=headers)
    assert wire.connected  # a message too large would have cost the connection


async def test_the_largest_headers_the_server_keeps_are_sent_and_no_larger(wire: JetStream) -> None:
    with pytest.raises(PayloadTooLarge) as caught:
        await wire.publish(topology.REQUESTED, b"", headers={"x": "y" * 70_000})
    too_many = caught.value.size_bytes - caught.value.limit_bytes
    assert (await wire.publish(topology.REQUESTED, b"", headers={"x": "y" * (70_000 - too_many)})).seq > 0
    with pytest.raises(PayloadTooLarge):
        await wire.publish(topology.REQUESTED, b"", headers={"x": "y" * (70_001 - too_many)})
    # The same byte more, sent past us, is what the server refuses.
    headers = {**jetstream.JSON_HEADER, "x": "y" * (70_001 - too_many)}
    with pytest.raises(nats.js.errors.BadRequestError, match="header size exceeds"):
        await wire.js.publish(topology.REQUESTED, b"", headers=headers)


async def test_a_broadcast_reaches_the_subscribers_and_is_not_stored(wire: JetStream) -> None:
    subscription = await wire.nc.subscribe(topology.AGENT_CANCEL)
    await wire.nc.flush()
    await wire.broadcast(topology.AGENT_CANCEL, b"{}", {"traceparent": "00-aa"})
    msg = await subscription.next_msg(timeout=5)
    assert msg.data == b"{}"
    assert msg.headers == {"content-type": "application/json", "traceparent": "00-aa"}
    with pytest.raises(PayloadTooLarge):
        await wire.broadcast(topology.AGENT_CANCEL, b"x" * wire.max_payload)


async def test_a_subject_no_stream_keeps_cannot_be_published_to(wire: JetStream) -> None:
    with pytest.raises(BrokerUnavailable, match="is missing, or has no leader"):
        await wire.publish("deliberation.get", b"{}")


async def test_a_refusal_by_the_server_is_not_an_absence(wire: JetStream) -> None:
    with pytest.raises(nats.js.errors.BadRequestError):
        await wire.publish(topology.TIMER + ".x", b"{}", headers={"Nats-Schedule": "whenever"})


# ── when it is not there ──────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def gone(folder: Path) -> AsyncIterator[tuple[JetStream, int]]:
    """A wire to a server that was there, and the port it had."""
    async with embedded_nats(folder) as server:
        nc = await connect(server.url, "test")
        await provision(nc.jetstream())
    wire = JetStream(nc)
    await until(lambda: not wire.connected, "the connection is known to be lost")
    try:
        yield wire, urlsplit(server.url).port or 0
    finally:
        with suppress(ConnectionError):  # nats-py writes what is pending to a socket that is gone
            await nc.close()


async def test_every_verb_says_that_the_broker_is_away(hurried: None, tmp_path: Path) -> None:
    ref = ResultsRef(bucket="results", name="t-1", size=1, digest="SHA-256=x")
    async with gone(tmp_path) as (wire, _):
        verbs = (
            wire.publish(topology.REQUESTED, b"x"),
            wire.schedule(topology.timer_subject("t"), topology.deadline_subject("t"), 0.0, b"x"),
            wire.get(topology.DELIBERATIONS, 1),
            wire.get_last(topology.TALLIES, topology.tally_subject("t-1")),
            put_object(wire, "results", "t-1", b"x"),
            get_object(wire, ref),
            delete_object(wire, "results", "t-1"),
        )
        raised = await asyncio.gather(*verbs, return_exceptions=True)
        assert [type(error) for error in raised] == [BrokerUnavailable] * len(verbs)
        assert all("***@" in str(error) or "(disconnected)" in str(error) for error in raised)


async def test_what_was_refused_while_nats_was_away_is_not_sent_later(hurried: None, tmp_path: Path) -> None:
    """nats-py would keep it, and a core subscriber would get it beside its repetition."""
    async with gone(tmp_path) as (wire, port):
        for word in (b"one", b"two"):
            with pytest.raises(BrokerUnavailable):
                await wire.publish(topology.COMPLETED, word)
            with pytest.raises(BrokerUnavailable):
                await wire.broadcast(topology.AGENT_CANCEL, word)
        async with embedded_nats(tmp_path, port=port):
            await until(lambda: wire.connected, "NATS is back")
            await wire.nc.flush()
            assert (await wire.publish(topology.COMPLETED, b"three")).seq == 1


async def test_what_is_published_in_a_short_absence_waits_for_its_end(tmp_path: Path) -> None:
    async with gone(tmp_path) as (wire, port):
        publishing = asyncio.create_task(wire.publish(topology.COMPLETED, b"client"))
        async with embedded_nats(tmp_path, port=port):
            assert (await publishing).seq == 1


_NO_ROOM = r"insufficient resources|maximum bytes exceeded"


async def test_a_server_with_a_full_disk_is_away_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = embedded.config

    def with_a_small_disk(
        folder: Path, *, port: int, token: str | None, sync_always: bool, jetstream: bool
    ) -> str:
        whole = written(folder, port=port, token=token, sync_always=sync_always, jetstream=jetstream)
        return whole.replace("sync_interval", "max_file_store: 1MB, sync_interval")

    monkeypatch.setattr(embedded, "config", with_a_small_disk)
    async with embedded_nats(tmp_path) as server:
        nc = await connect(server.url, "test")
        await provision(nc.jetstream())
        wire = JetStream(nc)

        async def fill() -> None:
            for _ in range(20):
                await wire.publish(topology.REQUESTED, b"x" * 100_000)

        with pytest.raises(BrokerUnavailable, match=_NO_ROOM):
            await fill()
        with pytest.raises(BrokerUnavailable, match=_NO_ROOM):
            await put_object(wire, "results", "t-1", b"x" * 1_000_000)
        await nc.close()


async def test_it_works_again_when_the_server_is_back(hurried: None, tmp_path: Path) -> None:
    async with embedded_nats(tmp_path, with_token=False) as server:
        nc = await connect(server.url, "test")
        await provision(nc.jetstream())
        wire = JetStream(nc)
        first = (await wire.publish(topology.REQUESTED, b"before")).seq
    await until(lambda: not wire.connected, "the connection is known to be lost")
    async with embedded_nats(tmp_path, with_token=False, port=urlsplit(server.url).port or 0):
        await until(lambda: wire.connected, "the connection is back")
        assert (await wire.publish(topology.REQUESTED, b"after")).seq == first + 1
        await nc.close()


# ── schedules ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_timer_fires_not_before_its_time_and_not_long_after(wire: JetStream, nc: Nats) -> None:
    at = time.time() + 0.3004
    await wire.schedule(
        topology.timer_subject("t-1"), topology.deadline_subject("t-1"), at, b'{"task_id": "t-1"}'
    )
    fired = await next_of(topology.deadline_subject("t-1"), nc)
    assert fired.data == b'{"task_id": "t-1"}'
    assert at <= fired.metadata.timestamp.timestamp() < at + 2
    assert await wire.get_last(topology.DELIBERATIONS, topology.timer_subject("t-1")) is None


async def test_a_timer_is_ordered_for_the_next_millisecond_never_for_the_one_before(wire: JetStream) -> None:
    for at in (4_000_000_000.0, 4_000_000_000.0001, 4_000_000_000.0009):
        await wire.schedule(topology.timer_subject("t-1"), topology.deadline_subject("t-1"), at, b"x")
        timer = present(await wire.get_last(topology.DELIBERATIONS, topology.timer_subject("t-1")))
        assert at <= parse_timestamp(timer.headers["Nats-Schedule"].removeprefix("@at ")) < at + 0.001


async def test_a_timer_for_a_time_gone_by_fires_at_once(wire: JetStream, nc: Nats) -> None:
    await wire.schedule(
        topology.timer_subject("t-1"), topology.deadline_subject("t-1"), time.time() - 60, b"x"
    )
    assert (await next_of(topology.deadline_subject("t-1"), nc)).data == b"x"


async def test_a_second_order_replaces_the_first(wire: JetStream, nc: Nats) -> None:
    timer, target = topology.timer_subject("t-1"), topology.deadline_subject("t-1")
    await wire.schedule(timer, target, time.time() + 0.2, b"first")
    second = time.time() + 0.5
    await wire.schedule(timer, target, second, b"second")
    fired = await next_of(target, nc)
    assert fired.data == b"second"
    assert fired.metadata.timestamp.timestamp() >= second


async def test_the_ending_cancels_its_own_timer_and_no_other(wire: JetStream, nc: Nats) -> None:
    for task_id, seconds in (("t-1", 0.3), ("t-10", 0.6)):
        at = time.time() + seconds
        await wire.schedule(
            topology.timer_subject(task_id), topology.deadline_subject(task_id), at, task_id.encode()
        )
    await wire.publish(topology.COMPLETED, b"{}", msg_id="t-1:ending", headers=purge_timer_headers("t-1"))
    assert await wire.get_last(topology.DELIBERATIONS, topology.timer_subject("t-1")) is None
    assert await wire.get_last(topology.DELIBERATIONS, topology.timer_subject("t-10")) is not None
    # The later one fires; the earlier one, were it still there, would have come first.
    assert (await next_of(f"{topology.DEADLINE}.*", nc)).data == b"t-10"


async def test_an_ending_without_a_timer_is_stored_all_the_same(wire: JetStream) -> None:
    assert (await wire.publish(topology.FAILED, b"{}", headers=purge_timer_headers("never-armed"))).seq > 0


# ── reading back ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_missing_message_is_read_as_none(wire: JetStream) -> None:
    assert await wire.get(topology.AGENT_RESPONSES, 1) is None
    assert await wire.get_last(topology.TALLIES, topology.tally_subject("nobody")) is None


async def test_the_newest_under_a_subject_is_found_with_its_place(wire: JetStream) -> None:
    await wire.publish(topology.AGENT_COMPLETED, b"1")
    await wire.publish(topology.AGENT_FAILED, b"2")
    seq = (await wire.publish(topology.AGENT_COMPLETED, b"3", headers={"traceparent": "00-aa"})).seq
    await wire.publish(topology.AGENT_FAILED, b"4")
    newest = present(await wire.get_last(topology.AGENT_RESPONSES, topology.AGENT_COMPLETED))
    assert (newest.seq, newest.data, newest.subject) == (seq, b"3", topology.AGENT_COMPLETED)
    assert newest.headers["traceparent"] == "00-aa"


@pytest.mark.parametrize(
    "block", [b"Status: 503", b"Status: 404", b"broken", b"Nats-Sequence: x", b"\xff: \xff"]
)
@pytest.mark.parametrize("body", [b"", b"{}"])
async def test_a_message_with_any_headers_is_read(
    url: str, wire: JetStream, block: bytes, body: bytes
) -> None:
    head = b"NATS/1.0\r\n%s\r\n\r\n" % block
    await send_raw(
        url, b"HPUB agent.response.x %d %d\r\n%s%s\r\n" % (len(head), len(head) + len(body), head, body)
    )
    stored = present(await until(lambda: wire.get(topology.AGENT_RESPONSES, 1), "it is stored"))
    assert (stored.seq, stored.subject, stored.data) == (1, "agent.response.x", body)
