"""A message ends acknowledged, retried, or whole in DEAD_LETTERS. It is never lost and never stuck."""

import asyncio
import time
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.msg import Msg
from nats.js.api import DiscardPolicy

from parley.broker.core.errors import BrokerUnavailable, Conflict, InvalidMessage, StoreFull
from parley.broker.jetstream import topology
from parley.broker.jetstream.crash_suspects import MAX_BEGUN, SUSPECT_DELIVERIES, Suspects
from parley.broker.jetstream.jetstream import StoredMessage
from parley.broker.jetstream.topology import EXPIRY, INTAKE, Durable
from parley.handlers import settle
from parley.handlers.delivery import ACK, DeadLetter, Delivery, Retry, Settlement
from parley.handlers.settle import MAX_DELIVERIES, SIGNALS, InProgress, Runner, Settler, retry_wait
from tests.harness import until
from tests.mirror.handlers import MALFORMED_HEADERS, ODD_TOKENS, Bench, publish_raw


@pytest.fixture
def settler(bench: Bench) -> Settler:
    """Of the intake's consumer."""
    return Settler(bench.wire, INTAKE, bench.notes)


async def fine(delivery: Delivery[Any]) -> Settlement:
    return ACK


async def a_bug(delivery: Delivery[Any]) -> Settlement:
    raise ZeroDivisionError("the sender's words must not travel in this")


async def nats_is_away(delivery: Delivery[Any]) -> Settlement:
    raise BrokerUnavailable("nats://x", "timeout")


async def unreadable(delivery: Delivery[Any]) -> Settlement:
    raise InvalidMessage(["num_agents: must be more", "role: unknown"])


async def letter_of(bench: Bench) -> StoredMessage:
    (letter,) = await bench.dead_letters()
    return letter


# ── acknowledged or given back ────────────────────────────────────────────────────────────────────────────────────


async def test_what_was_handled_is_acknowledged(bench: Bench, settler: Settler) -> None:
    await bench.publish(topology.REQUESTED, {})
    (delivery,) = await bench.taken(INTAKE)
    await Runner(settler, fine).run(delivery)
    await bench.settled(INTAKE)
    assert await bench.dead_letters() == []
    assert bench.notes.lines == []


async def test_it_is_acknowledged_last(bench: Bench, settler: Settler) -> None:
    await bench.publish(topology.REQUESTED, {})
    (delivery,) = await bench.taken(INTAKE)

    async def look(delivery: Delivery[Any]) -> Settlement:
        assert not delivery.msg.is_acked
        assert not await bench.nothing_left(INTAKE)
        return ACK

    await Runner(settler, look).run(delivery)
    await bench.settled(INTAKE)
    assert bench.notes.lines == []


@pytest.mark.parametrize("seconds", [0.2, 0.0, -1.0])
async def test_a_handler_may_want_its_message_again(bench: Bench, settler: Settler, seconds: float) -> None:
    await bench.publish(topology.REQUESTED, {})
    (delivery,) = await bench.taken(INTAKE)
    loop = asyncio.get_running_loop()
    started = loop.time()

    async def later(delivery: Delivery[Any]) -> Settlement:
        return Retry(seconds)

    await Runner(settler, later).run(delivery)
    (again,) = await bench.taken(INTAKE)
    assert again.count == 2
    assert loop.time() - started >= max(seconds, settle.SHORTEST_RETRY_SECONDS)
    assert bench.notes.lines == []


@pytest.mark.parametrize(
    "error", [Conflict("t-1"), RuntimeError("x"), AssertionError("x"), TimeoutError()], ids=repr
)
async def test_an_error_gives_the_message_back(
    bench: Bench, settler: Settler, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async def handle(delivery: Delivery[Any]) -> Settlement:
        raise error

    await bench.publish(topology.REQUESTED, {})
    (delivery,) = await bench.taken(INTAKE)
    await Runner(settler, handle).run(delivery)
    (again,) = await bench.taken(INTAKE)
    assert again.count == 2
    assert bench.notes.lines == ["failed intake"]
    assert await bench.dead_letters() == []
    (line,) = caplog.records
    assert (line.exc_info is None) is isinstance(error, Conflict)  # which is no bug, and has nothing to show


async def test_a_message_is_never_given_up_because_nats_is_away(bench: Bench, settler: Settler) -> None:
    await bench.publish(topology.REQUESTED, {})
    for count in range(1, 2 * MAX_DELIVERIES):
        (delivery,) = await bench.taken(INTAKE)
        assert delivery.count == count
        await Runner(settler, nats_is_away).run(delivery)
    assert await bench.dead_letters() == []
    assert bench.notes.lines == []
    (delivery,) = await bench.taken(INTAKE)
    await Runner(settler, fine).run(delivery)
    await bench.settled(INTAKE)


@pytest.mark.parametrize(
    ("stream", "reason", "grows"),
    [
        (topology.AGENT_REQUESTS, "maximum bytes exceeded", True),  # its deadline is armed
        (topology.AGENT_REQUESTS, "insufficient resources", False),  # the deadline may not be
        (topology.TALLIES, "maximum bytes exceeded", False),
    ],
)
async def test_a_request_whose_work_finds_no_room_is_asked_for_more_and_more_seldom(
    bench: Bench,
    settler: Settler,
    monkeypatch: pytest.MonkeyPatch,
    stream: str,
    reason: str,
    grows: bool,
) -> None:
    """300 of them, each for 256 agents, made those that came after them late by 17 s."""
    waited: list[float] = []

    async def nak(_: Delivery[Any], seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(Delivery, "nak", nak)
    await bench.publish(topology.REQUESTED, {})
    (delivery,) = await bench.taken(INTAKE)
    for count in (1, 4, 400):
        await settler.failed(replace(delivery, count=count), StoreFull("nats://x", stream, reason))
    assert waited == [retry_wait(count) if grows else settle.AWAY_RETRY_SECONDS for count in (1, 4, 400)]


async def test_a_handler_that_is_cancelled_settles_nothing(bench: Bench, settler: Settler) -> None:
    await bench.publish(topology.REQUESTED, {})
    (delivery,) = await bench.taken(INTAKE)
    begun = asyncio.Event()

    async def handle(delivery: Delivery[Any]) -> Settlement:
        begun.set()
        await asyncio.Event().wait()
        return ACK

    task = asyncio.create_task(Runner(settler, handle).run(delivery))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not delivery.msg.is_acked
    assert await bench.dead_letters() == []


def test_the_wait_doubles_from_the_first_to_the_last() -> None:
    assert [retry_wait(count) for count in (1, 2, 3, 6, 7, 8)] == [0.5, 1.0, 2.0, 16.0, 30.0, 30.0]


@given(st.integers(1, 10**9))
def test_there_is_a_wait_for_every_delivery_however_many_there_were(count: int) -> None:
    assert (
        settle.FIRST_RETRY_SECONDS <= retry_wait(count) <= retry_wait(count + 1) <= settle.LAST_RETRY_SECONDS
    )


# ── dead letters ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_handler_may_dead_letter_its_message(bench: Bench, settler: Settler) -> None:
    async def refuse(delivery: Delivery[Any]) -> Settlement:
        return DeadLetter("role: unknown")

    await bench.publish(topology.REQUESTED, b"junk")
    (delivery,) = await bench.taken(INTAKE)
    await Runner(settler, refuse).run(delivery)
    await bench.settled(INTAKE)
    assert (await letter_of(bench)).headers["Parley-Reason"] == "role: unknown"
    assert bench.notes.lines == ["dead-lettered deliberation.requested"]


async def test_an_invalid_message_is_kept_whole_with_its_origin(bench: Bench, settler: Settler) -> None:
    body = b'{"task_description": \xff\x00 "' + b"x" * 10_000
    await bench.publish(topology.CANCEL, {})  # so that its place is not simply the first
    seq = await bench.publish(topology.REQUESTED, body, {"traceparent": "00-aa"})
    (delivery,) = await bench.taken(INTAKE)
    await Runner(settler, unreadable).run(delivery)
    await bench.settled(INTAKE)
    letter = await letter_of(bench)
    assert letter.subject == "deadletter.deliberation.requested"
    assert letter.data == body
    headers = letter.headers
    assert headers["traceparent"] == "00-aa"
    assert headers["Parley-Reason"] == "num_agents: must be more; role: unknown"
    assert (headers["Parley-Stream"], headers["Parley-Consumer"]) == ("REQUESTS", "intake")
    assert (headers["Parley-Sequence"], headers["Parley-Deliveries"]) == (str(seq), "1")
    assert headers["Parley-Stored-At"].endswith("Z")
    assert bench.notes.lines == ["dead-lettered deliberation.requested"]


async def test_a_message_with_malformed_headers_is_dead_lettered(bench: Bench, settler: Settler) -> None:
    odd = [
        b"NATS/1.0\r\n\x00: 1\r\n\r\n", b"NATS/1.0\r\n: x\r\n\r\n", b"NATS/1.0\r\nno colon\r\n\r\n",
        b"NATS/1.0\r\n(no token): 1\r\n\r\n", b"NATS/1.0\r\nfolded: a\r\n b\r\n\r\n",
    ]  # fmt: skip
    sent = [*odd, *MALFORMED_HEADERS]
    for headers in sent:
        await publish_raw(bench, topology.REQUESTED, headers)
    for delivery in await bench.taken(INTAKE, len(sent)):
        await Runner(settler, unreadable).run(delivery)
    await bench.settled(INTAKE)
    letters = await bench.dead_letters()
    assert [letter.headers["Parley-Sequence"] for letter in letters] == [
        str(place) for place in range(1, len(sent) + 1)
    ]


@pytest.mark.parametrize("token", ODD_TOKENS, ids=lambda token: repr(token)[:20])
async def test_a_message_on_an_odd_subject_is_dead_lettered(bench: Bench, token: bytes) -> None:
    await publish_raw(bench, b"deliberation.deadline." + token)
    (delivery,) = await bench.taken(EXPIRY)
    await Runner(Settler(bench.wire, EXPIRY, bench.notes), unreadable).run(delivery)
    await bench.settled(EXPIRY)
    letter = await letter_of(bench)
    assert (letter.subject, letter.data) == ("deadletter.deliberation.deadline", b"{}")
    assert letter.headers["Parley-Consumer"] == "expire"
    assert bench.wire.connected


async def test_a_message_stays_while_it_cannot_be_dead_lettered(bench: Bench, settler: Settler) -> None:
    config = (await bench.js.stream_info(topology.DEAD_LETTERS)).config
    await bench.js.update_stream(replace(config, max_msg_size=1_000))  # an operator's choice
    await bench.publish(topology.REQUESTED, b"x" * 2_000)
    (delivery,) = await bench.taken(INTAKE)
    await Runner(settler, unreadable).run(delivery)
    (again,) = await bench.taken(INTAKE)
    assert bench.notes.lines == []
    await bench.js.update_stream(replace(config, max_msg_size=-1))
    await Runner(settler, unreadable).run(again)
    await bench.settled(INTAKE)
    assert (await letter_of(bench)).headers["Parley-Deliveries"] == "2"


async def test_dead_letters_without_room_are_told_once(
    bench: Bench, settler: Settler, caplog: pytest.LogCaptureFixture
) -> None:
    config = (await bench.js.stream_info(topology.DEAD_LETTERS)).config
    await bench.js.update_stream(replace(config, max_bytes=100, discard=DiscardPolicy.NEW))
    for _ in range(5):
        await bench.publish(topology.REQUESTED, b"nope")
    for delivery in await bench.taken(INTAKE, 5):
        await Runner(settler, unreadable).run(delivery)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "stores nothing more in DEAD_LETTERS" in caplog.text


# ── giving up ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_bug_is_retried_then_given_up_and_the_message_kept(bench: Bench, settler: Settler) -> None:
    reasons: list[str] = []

    async def give_up(delivery: Delivery[Any], reason: str) -> None:
        assert not delivery.msg.is_acked
        reasons.append(reason)

    giving_up = Settler(bench.wire, INTAKE, bench.notes, give_up=give_up)
    await bench.publish(topology.REQUESTED, b'{"n": 1}')
    for count in range(1, MAX_DELIVERIES + 1):
        assert reasons == []
        (delivery,) = await bench.taken(INTAKE)
        assert delivery.count == count
        await Runner(giving_up, a_bug).run(delivery)
    await bench.settled(INTAKE)
    assert reasons == [f"ZeroDivisionError after {MAX_DELIVERIES} deliveries"]
    letter = await letter_of(bench)
    assert letter.data == b'{"n": 1}'
    assert letter.headers["Parley-Reason"] == reasons[0]
    assert letter.headers["Parley-Deliveries"] == str(MAX_DELIVERIES)
    assert bench.notes.lines == ["failed intake"] * MAX_DELIVERIES + ["dead-lettered deliberation.requested"]


async def test_giving_up_is_repeated_until_it_succeeds(bench: Bench, settler: Settler) -> None:
    tries: list[int] = []

    async def give_up(delivery: Delivery[Any], reason: str) -> None:
        tries.append(delivery.count)
        if len(tries) < 3:
            raise RuntimeError("cannot end it yet")

    giving_up = Settler(bench.wire, INTAKE, bench.notes, give_up=give_up)
    await bench.publish(topology.REQUESTED, {})
    while not tries or not await bench.nothing_left(INTAKE):
        (delivery,) = await bench.taken(INTAKE)
        await Runner(giving_up, a_bug).run(delivery)
        if len(tries) == 3:
            await bench.settled(INTAKE)
        else:
            assert await bench.dead_letters() == []
    assert tries == [MAX_DELIVERIES, MAX_DELIVERIES + 1, MAX_DELIVERIES + 2]
    assert (await letter_of(bench)).headers["Parley-Deliveries"] == str(MAX_DELIVERIES + 2)


async def test_without_anything_to_end_giving_up_is_only_a_dead_letter(bench: Bench) -> None:
    await bench.publish(topology.REQUESTED, {})
    (delivery,) = await bench.taken(INTAKE)
    await Runner(Settler(bench.wire, INTAKE, bench.notes, max_deliveries=1), a_bug).run(delivery)
    await bench.settled(INTAKE)
    headers = (await letter_of(bench)).headers
    assert headers["Parley-Reason"] == "ZeroDivisionError after 1 deliveries"
    assert "sender's words" not in str(headers)


async def test_without_a_limit_of_deliveries_nothing_is_given_up(bench: Bench, settler: Settler) -> None:
    patient = Settler(bench.wire, INTAKE, bench.notes, max_deliveries=None)
    await bench.publish(topology.REQUESTED, {})
    for count in range(1, 2 * MAX_DELIVERIES):
        (delivery,) = await bench.taken(INTAKE)
        assert delivery.count == count
        await Runner(patient, a_bug).run(delivery)
    assert await bench.dead_letters() == []
    (delivery,) = await bench.taken(INTAKE)
    await Runner(patient, unreadable).run(delivery)  # that no patience helps
    await bench.settled(INTAKE)
    assert len(await bench.dead_letters()) == 1


# ── large messages ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_large_messages_take_turns_and_small_ones_pass_them(bench: Bench, settler: Settler) -> None:
    """100 bodies of 0.9 MB made everybody's endings late by up to 29 s."""
    handled: list[int] = []

    async def busy(delivery: Delivery[Any]) -> Settlement:
        handled.append(len(delivery.data))
        if len(delivery.data) > settle.LARGE_BYTES:
            time.sleep(0.15)  # noqa: ASYNC251  # to read it keeps the loop busy
        return ACK

    for size in (100_000, 100_000, 100_000, 1):
        await bench.publish(topology.REQUESTED, b"x" * size)
    await Runner(settler, busy)(await bench.taken(INTAKE, 4))
    assert sorted(handled[:2]) == [1, 100_000]
    assert len(handled) < 4
    while len(handled) < 4:
        await Runner(settler, busy)(await bench.taken(INTAKE))
    await bench.settled(INTAKE)
    assert sorted(handled) == [1, 100_000, 100_000, 100_000]
    assert await bench.dead_letters() == []


# ── a message that ends its process ───────────────────────────────────────────────────────────────────────────────


class Ended(BaseException):
    """The process ends here: nothing of it runs any more."""


async def ends_the_process(delivery: Delivery[Any]) -> Settlement:
    raise Ended


@dataclass
class Deaths:
    """Runs a handler in one process after the other. `finish` stands for what a dead process cannot do."""

    bench: Bench
    monkeypatch: pytest.MonkeyPatch
    reasons: list[tuple[bytes, str]] = field(default_factory=list)

    async def give_up(self, delivery: Delivery[Any], reason: str) -> None:
        self.reasons.append((delivery.data, reason))

    async def run(self, handle: settle.Handle, **options: Any) -> bool:
        """Whether the process has survived the next message."""
        (delivery,) = await self.bench.taken(INTAKE)
        suspects = Suspects(self.bench.wire)
        with self.monkeypatch.context() as dead:
            if handle is ends_the_process:
                dead.setattr(suspects, "finish", _nothing)
            settler = Settler(
                self.bench.wire, INTAKE, self.bench.notes, give_up=self.give_up, suspects=suspects, **options
            )
            try:
                await Runner(settler, handle)([delivery])
            except Ended:
                await delivery.nak(0.01)  # as after `ack_wait`
                return False
        return True


async def _nothing(durable: Durable, seq: int) -> None:
    pass


@pytest.mark.parametrize("options", [{}, {"max_deliveries": None}], ids=["a request", "a deadline"])
async def test_a_message_that_ends_each_process_is_given_up_unread(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    deaths = Deaths(bench, monkeypatch)
    await bench.publish(topology.REQUESTED, b'{"n": 1}')
    died = 0
    while not await deaths.run(ends_the_process, **options):
        died += 1
    await bench.settled(INTAKE)
    assert died == SUSPECT_DELIVERIES - 1 + MAX_BEGUN == MAX_DELIVERIES
    ((payload, reason),) = deaths.reasons
    assert (payload, reason) == (
        b"", "begun 3 times and never finished: the process that handled it ended each time"
    )  # fmt: skip
    letter = await letter_of(bench)
    assert (letter.data, letter.headers["Parley-Reason"]) == (b'{"n": 1}', reason)


async def test_a_message_that_others_took_down_is_handled_in_the_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaths = Deaths(bench, monkeypatch)
    await bench.publish(topology.REQUESTED, {})
    for _ in range(SUSPECT_DELIVERIES + 1):
        assert not await deaths.run(ends_the_process)
    assert await deaths.run(fine)
    await bench.settled(INTAKE)
    assert deaths.reasons == []
    assert await bench.dead_letters() == []


async def test_a_message_that_comes_again_for_other_reasons_is_not_noted(
    bench: Bench, settler: Settler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settle, "AWAY_RETRY_SECONDS", 0.01)
    await bench.publish(topology.REQUESTED, {})
    for _ in range(2 * MAX_DELIVERIES):
        (delivery,) = await bench.taken(INTAKE)
        await Runner(settler, nats_is_away)([delivery])
    assert await bench.all_of(topology.SUSPECTS, "suspect.>") == []


async def test_copies_of_a_suspect_are_noted_once(bench: Bench) -> None:
    """A process that stood still gets a message many times at once."""
    handled = 0

    async def count(delivery: Delivery[Any]) -> Settlement:
        nonlocal handled
        handled += 1
        return ACK

    await bench.publish(topology.REQUESTED, {})
    (delivery,) = await bench.taken(INTAKE)
    copies = [
        replace(delivery, msg=copy(delivery.msg), count=SUSPECT_DELIVERIES + place) for place in range(5)
    ]
    await Runner(Settler(bench.wire, INTAKE, bench.notes), count)(copies)
    # Begun once, and finished: the last word on it.
    assert [note.seq for note in await bench.all_of(topology.SUSPECTS, "suspect.>")] == [2]
    assert handled == len(copies)


async def test_suspects_are_handled_one_at_a_time(bench: Bench) -> None:
    settler, running, most = Settler(bench.wire, INTAKE, bench.notes), 0, 0

    async def count(delivery: Delivery[Any]) -> Settlement:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return ACK

    for _ in range(5):
        await bench.publish(topology.REQUESTED, {})
    suspected = [replace(delivery, count=SUSPECT_DELIVERIES) for delivery in await bench.taken(INTAKE, 5)]
    await Runner(settler, count)(suspected)
    await bench.settled(INTAKE)
    assert most == 1


# ── in progress ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Slow:
    """A message that notes its "in progress" signals."""

    signals: list[float] = field(default_factory=list)
    away: bool = False

    async def in_progress(self) -> None:
        self.signals.append(asyncio.get_running_loop().time())
        if self.away:
            raise ConnectionError


def begin(in_progress: InProgress, slow: Slow) -> int:
    message: Msg = slow  # type: ignore[assignment]  # the one method that matters
    return in_progress.begin(message)


async def test_signals_come_until_it_is_done_and_several_within_one_ack_wait() -> None:
    slow, in_progress = Slow(), InProgress(0.06 / SIGNALS)
    began = asyncio.get_running_loop().time()
    work = begin(in_progress, slow)
    await until(lambda: len(slow.signals) >= 2 * SIGNALS, "it signals that it is being worked on")
    in_progress.end(work)
    assert slow.signals[0] - began >= 0.06 / SIGNALS - 0.002
    # Another message's signals go on without it, and stop with that.
    count, other = len(slow.signals), Slow()
    work = begin(in_progress, other)
    await until(lambda: len(other.signals) >= 2 * SIGNALS, "the other one signals")
    in_progress.end(work)
    assert len(slow.signals) == count


async def test_one_message_that_is_handled_twice_signals_until_both_are_done() -> None:
    slow, in_progress = Slow(), InProgress(0.06 / SIGNALS)
    outer = begin(in_progress, slow)
    in_progress.end(begin(in_progress, slow))
    await until(lambda: len(slow.signals) >= SIGNALS, "it is still being worked on")
    in_progress.end(outer)


async def test_what_is_done_at_once_sends_none() -> None:
    slow, other, in_progress = Slow(), Slow(), InProgress(0.02)
    in_progress.end(begin(in_progress, slow))
    begin(in_progress, other)
    await until(lambda: other.signals, "the other one signals")
    assert slow.signals == []


async def test_a_signal_that_cannot_be_sent_does_not_stop_the_others() -> None:
    away, other, in_progress = Slow(away=True), Slow(), InProgress(0.02)
    begin(in_progress, away)
    begin(in_progress, other)
    await until(lambda: len(away.signals) >= 3 and len(other.signals) >= 3, "both go on")


async def test_the_same_trouble_with_nats_is_logged_once(
    bench: Bench, settler: Settler, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        await bench.publish(topology.REQUESTED, {})
    for delivery in await bench.taken(INTAKE, 5):
        await Runner(settler, nats_is_away).run(delivery)
    trouble = str(BrokerUnavailable("nats://x", "timeout"))
    assert [record.message for record in caplog.records].count(f"intake: {trouble}") == 1
