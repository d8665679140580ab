"""Dead letters: written, read back, put back on their subjects, removed; and nothing that a forged one could make of
that."""

import asyncio
import re
import time
from collections.abc import Mapping
from dataclasses import replace

import nats.js.errors
import pytest

from parley.broker.core.errors import InvalidMessage, StreamNotFound
from parley.broker.core.messages import TASK_ID_PATTERN
from parley.broker.core.timestamps import format_timestamp, parse_timestamp
from parley.broker.jetstream import topology
from parley.broker.jetstream.deadletters import (
    BATCH_BYTES,
    REPLAYABLE,
    CannotReplay,
    DeadLetterInfo,
    DeadLetters,
    OriginalMessage,
    _batch,
    dead_letter,
)
from parley.broker.jetstream.jetstream import JetStream, StoredMessage
from parley.broker.jetstream.object_store import delete_object, put_object
from parley.broker.jetstream.topology import (
    AGGREGATE,
    DEAD_LETTERS,
    DISPATCH,
    INTAKE,
    RESULTS_BUCKET,
    Durable,
)
from tests import present
from tests.harness import until
from tests.mirror.broker import send_raw

HOSTILE = b'\xff\xfe\x00\x1b[2J {"task_description": "\r\n' + "naïve ✓".encode()
AT = 1_767_225_600.5


@pytest.fixture
async def letters(wire: JetStream) -> DeadLetters:
    return DeadLetters(wire)


async def given_up(
    wire: JetStream,
    data: bytes = b"{}",
    *,
    seq: int = 1,
    subject: str = topology.REQUESTED,
    durable: Durable = INTAKE,
    headers: Mapping[str, str] | None = None,
    reason: str = "it is unreadable",
) -> DeadLetterInfo:
    """One more dead letter, read back."""
    await dead_letter(wire, durable, OriginalMessage(subject, data, headers or {}, seq, AT, 5), reason)
    return await newest_of(DeadLetters(wire))


async def newest_of(letters: DeadLetters) -> DeadLetterInfo:
    (letter,) = await letters.newest(1)
    return letter


async def all_of(letters: DeadLetters) -> list[int]:
    return await letters.sequences()


async def stored_last(wire: JetStream, subject: str) -> StoredMessage:
    return present(await wire.get_last(REPLAYABLE[subject], subject))


# ── read back ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_it_is_read_back_as_it_was_written(wire: JetStream) -> None:
    before = time.time()
    kept = {"traceparent": "00-aa", "content-type": "text/plain", "X-Mine": "yes"}
    acted_upon = {"Nats-Msg-Id": "m-1", "Nats-TTL": "60s"}
    forged = {"Parley-Reason": "forged", "Parley-Sequence": "0"}
    letter = await given_up(wire, b"12345", seq=42, headers={**kept, **acted_upon, **forged})
    assert abs(letter.buried_at - before) < 60
    assert letter == DeadLetterInfo(
        seq=1, subject="deliberation.requested", reason="it is unreadable", stream="REQUESTS", sequence=42,
        consumer="intake", deliveries=5, stored_at=format_timestamp(AT), buried_at=letter.buried_at, size=5,
        put_aside=None, headers=kept, control_headers=acted_upon,
    )  # fmt: skip
    assert parse_timestamp(letter.stored_at) == AT
    # What the server acts upon is only told: a dead letter must not expire, or be taken for a repeat of the original.
    headers = present(await wire.get(DEAD_LETTERS, 1)).headers
    assert (headers["Parley-Original-Nats-Msg-Id"], headers["Parley-Original-Nats-TTL"]) == ("m-1", "60s")
    assert headers["Nats-Msg-Id"] == "dead:REQUESTS:42:intake"
    assert "Nats-TTL" not in headers


async def test_a_message_is_dead_lettered_once_however_often_it_is_tried(wire: JetStream) -> None:
    for _ in range(3):
        await given_up(wire)
    await given_up(wire, seq=2)
    assert await all_of(DeadLetters(wire)) == [1, 2]


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("two\nlines\r\nInjected: header", "two lines Injected: header"),
        ("naïve ✓", "na?ve ?"),
        ("", ""),
        ("x" * 600, "x" * 500),
        ("\x00\x1b[31m red", None),
    ],
)
async def test_a_reason_of_any_kind_fits_into_a_header(
    wire: JetStream, reason: str, shown: str | None
) -> None:
    letter = await given_up(wire, b"junk", seq=7, reason=reason)
    assert await DeadLetters(wire).payload(letter) == b"junk"
    assert "Injected" not in present(await wire.get(DEAD_LETTERS, 1)).headers
    assert (letter.sequence, letter.stream) == (7, "REQUESTS")
    assert shown is None or letter.reason == shown


@pytest.mark.parametrize(
    "data", [b"", b"\x00", HOSTILE, b"x" * 300_000], ids=["empty", "nul", "hostile", "large"]
)
async def test_a_payload_comes_as_it_was(wire: JetStream, letters: DeadLetters, data: bytes) -> None:
    await given_up(wire, data)
    letter = present(await letters.find(1))
    assert letter.size == len(data)
    assert await letters.payload(letter) == data


async def test_a_payload_put_aside_is_found_with_its_size(wire: JetStream, letters: DeadLetters) -> None:
    data = b"x" * wire.max_payload
    letter = await given_up(wire, data, seq=7)
    assert (letter.put_aside, letter.size) == ("dead.letter.REQUESTS.7.intake", len(data))
    assert await letters.payload(letter) == data


async def test_what_two_consumers_give_up_is_kept_for_each(wire: JetStream, letters: DeadLetters) -> None:
    first = await given_up(wire, b"x" * wire.max_payload, seq=7)
    second = await given_up(wire, b"y" * wire.max_payload, seq=7, durable=topology.CANCELLER)
    assert await letters.erase(second)
    assert await letters.payload(first) == b"x" * wire.max_payload


async def test_no_task_id_is_the_name_of_what_was_put_aside(wire: JetStream, letters: DeadLetters) -> None:
    letter = await given_up(wire, b"x" * wire.max_payload, seq=7)
    assert letter.put_aside is not None
    assert not re.search(TASK_ID_PATTERN, letter.put_aside)
    for task_id in ("dead-letter-REQUESTS-7", "dead-letter-REQUESTS-7-intake"):
        await put_object(wire, RESULTS_BUCKET, task_id, b"results")  # as effects.py does
    assert await letters.payload(letter) == b"x" * wire.max_payload
    await letters.erase(letter)
    assert await kept_aside(wire) == {"dead-letter-REQUESTS-7", "dead-letter-REQUESTS-7-intake"}


async def test_a_payload_no_longer_kept_is_read_as_none(wire: JetStream, letters: DeadLetters) -> None:
    letter = await given_up(wire, b"x" * wire.max_payload)
    await delete_object(wire, RESULTS_BUCKET, letter.put_aside or "")
    assert await letters.payload(letter) is None
    with pytest.raises(CannotReplay, match="no longer kept"):
        await letters.replay(letter)
    assert await all_of(letters) == [letter.seq]
    await wire.js.delete_msg(DEAD_LETTERS, letter.seq)
    assert await letters.payload(replace(letter, put_aside=None)) is None


async def test_a_missing_sequence_is_read_as_none(wire: JetStream, letters: DeadLetters) -> None:
    for seq in (1, 2, 3):
        await given_up(wire, seq=seq)
    await wire.js.delete_msg(DEAD_LETTERS, 2)
    assert [seq for seq in (1, 2, 3, 4, 2**62) if await letters.find(seq) is not None] == [1, 3]


async def there_are(wire: JetStream, count: int) -> None:
    """Wait until the stream holds so many: a plain publish is answered before it is stored."""

    async def stored() -> bool:
        return bool((await wire.js.stream_info(DEAD_LETTERS)).state.messages == count)

    await until(stored, f"{count} letters are stored")


async def test_one_without_headers_is_read_too(wire: JetStream, letters: DeadLetters, url: str) -> None:
    await wire.js.publish("deadletter.x", b"123")
    bare = await newest_of(letters)
    assert (bare.subject, bare.reason, bare.stream, bare.sequence) == ("x", "", "", None)
    assert (bare.deliveries, bare.size) == (None, 3)
    assert bare.headers == {}
    odd = {
        "Parley-Sequence": "9" * 5_000,
        "Parley-Deliveries": "-1",
        "Parley-Payload-Size": "many",
        "Parley-Stored-At": "never",
    }
    await wire.js.publish("deadletter.x", b"123", headers=odd)
    forged = await newest_of(letters)
    assert (forged.sequence, forged.deliveries, forged.size, forged.stored_at) == (None, None, 3, "never")
    for count, headers in enumerate((b"junk\r\n\r\n", b"NATS/1.0\r\nk\xff: \xff\xfe\r\n\r\n"), 3):
        await send_raw(
            url, b"HPUB deadletter.x %d %d\r\n" % (len(headers), len(headers) + 2) + headers + b"{}\r\n"
        )
        await there_are(wire, count)
        malformed = await newest_of(letters)
        assert malformed.reason == ""
        assert await letters.payload(malformed) == b"{}"
    assert len(await all_of(letters)) == 4


@pytest.mark.parametrize("block", [b"\r", b"X", b"NATS/1.0"])
async def test_headers_of_a_single_byte_do_not_kill_the_server(
    wire: JetStream, letters: DeadLetters, url: str, block: bytes
) -> None:
    # nats-server 2.15.1 panics when a consumer wants this one with its headers only.
    sizes = (len(block), len(block) + 4)
    forged = b"HPUB deadletter.deliberation.requested %d %d\r\n%bbody\r\n" % (*sizes, block)
    await given_up(wire)
    await send_raw(url, forged)
    await there_are(wire, 2)
    assert [(letter.seq, letter.reason, letter.size) for letter in await letters.newest(9)] == [
        (2, "", 4),
        (1, "it is unreadable", 2),
    ]
    assert await all_of(letters) == [1, 2]
    letter = present(await letters.find(2))
    assert await letters.payload(letter) == b"body"
    await letters.replay(letter, keep=True)
    await letters.purge(2)
    await send_raw(url, forged)  # another connection: it is alive
    await there_are(wire, 1)
    assert await all_of(letters) == [3]


# ── listed ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def many(wire: JetStream, count: int, subject: str = topology.REQUESTED) -> None:
    publishing = (
        wire.js.publish(f"deadletter.{subject}", b"x" * 1_000, headers={"Parley-Reason": "why"})
        for _ in range(count)
    )
    await asyncio.gather(*publishing)


async def test_only_the_newest_of_a_thousand_are_read(wire: JetStream, letters: DeadLetters) -> None:
    await many(wire, 1_000)
    before = wire.nc.stats["in_msgs"]
    assert [letter.seq for letter in await letters.newest(3)] == [1_000, 999, 998]
    assert wire.nc.stats["in_msgs"] - before < 500
    assert [letter.seq for letter in await letters.newest(5_000)] == list(range(1_000, 0, -1))


def test_no_more_is_held_at_once_than_a_few_messages_take() -> None:
    assert [_batch(1 << bits) for bits in (10, 20, 23, 26)] == [16, 16, 2, 1]
    assert all(_batch(size) * size <= max(BATCH_BYTES, size) for size in (1_000_000, 5_000_000, 60_000_000))


async def test_the_newest_of_a_subject_are_found_far_back(wire: JetStream, letters: DeadLetters) -> None:
    await many(wire, 3, "agent.requested")
    await many(wire, 700)
    await many(wire, 2, "agent.response.failed")
    for subject in ("agent.requested", "agent.*"):
        assert [letter.seq for letter in await letters.newest(2, subject=subject)] == [3, 2]
    assert [letter.seq for letter in await letters.newest(9, subject="agent.>")] == [705, 704, 3, 2, 1]
    assert await letters.newest(5, subject="deliberation.cancel") == []


async def test_gaps_are_no_end(wire: JetStream, letters: DeadLetters) -> None:
    await many(wire, 600)
    await wire.js.purge_stream(DEAD_LETTERS, seq=3)
    await many(wire, 1, "agent.requested")
    await wire.js.purge_stream(DEAD_LETTERS, subject="deadletter.deliberation.requested", keep=2)
    assert [letter.seq for letter in await letters.newest(9)] == [601, 600, 599]
    await wire.js.purge_stream(DEAD_LETTERS)
    assert await letters.newest(9) == []
    assert await letters.sequences() == []


async def test_sequences_can_be_had_by_age_and_subject(wire: JetStream, letters: DeadLetters) -> None:
    await given_up(wire, seq=1)
    await given_up(wire, seq=2, subject=topology.CANCEL)
    third = await given_up(wire, seq=3)
    assert await letters.sequences() == [1, 2, 3]
    assert await letters.sequences(before=third.buried_at) == [1, 2]
    assert await letters.sequences(before=third.buried_at, subject="deliberation.requested") == [1]
    assert await letters.sequences(before=0.0) == []


@pytest.mark.parametrize(
    "subject", ["", " ", "a b", "a..b", ".a", "a.", ">.a", "a.>.b", "a>", "a*", "a\x00", "ä", "a\n"]
)
async def test_a_malformed_subject_is_refused(letters: DeadLetters, subject: str) -> None:
    with pytest.raises(InvalidMessage, match="subject"):
        await letters.newest(1, subject=subject)
    with pytest.raises(InvalidMessage, match="subject"):
        await letters.sequences(subject=subject)
    with pytest.raises(InvalidMessage, match="subject"):
        await letters.purge(1, subject=subject)


# ── put back ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("durable", "subject"),
    [
        (INTAKE, topology.REQUESTED),
        (topology.CANCELLER, topology.CANCEL),
        (DISPATCH, topology.AGENT_REQUESTED),
        (AGGREGATE, topology.AGENT_COMPLETED),
        (AGGREGATE, topology.AGENT_FAILED),
    ],
)
async def test_a_message_goes_back_where_it_came_from_as_it_was(
    wire: JetStream, letters: DeadLetters, durable: Durable, subject: str
) -> None:
    sent = {
        "traceparent": "00-aa", "content-type": "text/plain", "X-Mine": "yes", "Nats-TTL": "60s",
        "Parley-Reply-To": "_INBOX.x",
    }  # fmt: skip
    letter = await given_up(wire, HOSTILE, durable=durable, subject=subject, headers=sent)
    placed = await letters.replay(letter)
    again = await stored_last(wire, subject)
    assert (again.seq, again.data, placed.duplicate) == (placed.seq, HOSTILE, False)
    senders = {"traceparent": "00-aa", "content-type": "text/plain", "X-Mine": "yes"}
    assert {key: value for key, value in again.headers.items() if key != "Nats-Msg-Id"} == senders
    assert await all_of(letters) == []


async def test_jetstreams_memory_of_the_original_drops_nothing(wire: JetStream, letters: DeadLetters) -> None:
    first = await wire.publish(topology.REQUESTED, b"{}", msg_id="m-1")
    letter = await given_up(wire, b"{}", seq=first.seq, headers={"Nats-Msg-Id": "m-1"})
    placed = await letters.replay(letter)
    assert placed.seq > first.seq
    assert not placed.duplicate


async def test_replaying_twice_stores_it_once_and_says_so(wire: JetStream, letters: DeadLetters) -> None:
    letter = await given_up(wire)
    first = await letters.replay(letter, keep=True)
    assert await all_of(letters) == [letter.seq]
    second = await letters.replay(letter)
    assert (second.seq, second.duplicate) == (first.seq, True)
    assert (await wire.js.stream_info(topology.REQUESTS)).state.messages == 1
    assert await all_of(letters) == []  # it is where it should be


async def test_two_replays_at_once_store_it_once(wire: JetStream, letters: DeadLetters) -> None:
    letter = await given_up(wire)
    placed = await asyncio.gather(letters.replay(letter), letters.replay(letter), return_exceptions=True)
    done = [one for one in placed if not isinstance(one, BaseException)]
    assert done
    assert {one.seq for one in done} == {1}
    # Who came too late may have found it gone.
    assert all(isinstance(one, CannotReplay) for one in placed if isinstance(one, BaseException))
    assert (await wire.js.stream_info(topology.REQUESTS)).state.messages == 1


async def test_the_numbers_of_a_new_stream_are_no_replays(wire: JetStream, letters: DeadLetters) -> None:
    await letters.replay(await given_up(wire, b"1"))
    config = (await wire.js.stream_info(DEAD_LETTERS)).config
    await wire.js.delete_stream(DEAD_LETTERS)
    await wire.js.add_stream(config)
    letter = await given_up(wire, b"2", seq=2)
    assert letter.seq == 1
    assert not (await letters.replay(letter)).duplicate


async def test_an_empty_payload_goes_back_empty(wire: JetStream, letters: DeadLetters) -> None:
    await letters.replay(await given_up(wire, b""))
    assert (await stored_last(wire, topology.REQUESTED)).data == b""


async def test_what_was_put_aside_goes_back_and_is_removed(wire: JetStream, letters: DeadLetters) -> None:
    # Headers that leave no room for ours: the payload is what was put aside, and they are lost.
    letter = await given_up(wire, b"x" * 40_000, headers={f"X-{n}": "y" * 1_000 for n in range(10, 75)})
    assert letter.put_aside is not None
    await letters.replay(letter)
    assert (await stored_last(wire, topology.REQUESTED)).data == b"x" * 40_000
    with pytest.raises(nats.js.errors.NotFoundError):
        await (await wire.js.object_store(RESULTS_BUCKET)).get(letter.put_aside)


async def test_what_does_not_fit_through_nats_again_stays_here(wire: JetStream, letters: DeadLetters) -> None:
    letter = await given_up(wire, b"x" * wire.max_payload)
    with pytest.raises(CannotReplay, match="max_payload"):
        await letters.replay(letter)
    assert await letters.payload(letter) is not None


async def test_what_its_stream_does_not_take_stays_here(wire: JetStream, letters: DeadLetters) -> None:
    config = (await wire.js.stream_info(topology.REQUESTS)).config
    await wire.js.update_stream(replace(config, max_msg_size=1_000))  # an operator's choice
    letter = await given_up(wire, b"x" * 2_000)
    with pytest.raises(CannotReplay, match="refused"):
        await letters.replay(letter)
    await wire.js.delete_stream(topology.REQUESTS)
    with pytest.raises(StreamNotFound, match="REQUESTS"):
        await letters.replay(letter)
    assert await all_of(letters) == [letter.seq]


@pytest.mark.parametrize(
    "subject",
    [
        "deliberation.completed", "deliberation.failed", "deliberation.timer.t-1",
        "deliberation.deadline.t-1", "deliberation.deadline", "deliberation.requested.x",
        "Deliberation.Requested", "agent.response.other", "agent.cancel", "deadletter.deliberation.requested",
        "$KV.deliberations.t-1", "$JS.API.STREAM.DELETE.REQUESTS", "orders.new",
    ],
)  # fmt: skip
async def test_a_forged_one_goes_to_no_subject(wire: JetStream, letters: DeadLetters, subject: str) -> None:
    subscription = await wire.nc.subscribe(subject)
    forged = {
        "Nats-Schedule": "@every 1s",
        "Nats-Schedule-Target": topology.REQUESTED,
        "Parley-Stream": "REQUESTS",
    }
    await wire.js.publish(
        f"deadletter.{subject}",
        b"{}",
        headers={f"Parley-Original-{key}": value for key, value in forged.items()},
    )
    letter = await newest_of(letters)
    with pytest.raises(CannotReplay, match="takes no replays") as caught:
        await letters.replay(letter)
    assert "\n" not in str(caught.value)
    await wire.nc.flush()
    assert subscription.pending_msgs == 0
    assert await all_of(letters) == [letter.seq]


async def test_a_forged_one_gives_the_server_no_orders(wire: JetStream, letters: DeadLetters) -> None:
    orders = {"Nats-Rollup": "all", "nats-ttl": "1s", "Nats-Expected-Last-Sequence": "99", "Nats-Msg-Id": "x"}
    named = {f"Parley-Original-{key}": value for key, value in orders.items()}
    await wire.publish(topology.REQUESTED, b"{}")
    # DEAD_LETTERS itself would act on some of them: they are renamed, or spelt as no server reads them.
    await wire.js.publish(
        "deadletter.deliberation.requested",
        b"{}",
        headers={**named, "nats-rollup": "all", "parley-reason": "x"},
    )
    await letters.replay(await newest_of(letters))
    again = await stored_last(wire, topology.REQUESTED)
    assert set(again.headers) == {"content-type", "Nats-Msg-Id"}
    assert (await wire.js.stream_info(topology.REQUESTS)).state.messages == 2


@pytest.mark.parametrize(
    ("bucket", "name"),
    [
        (RESULTS_BUCKET, "t-1"),
        (RESULTS_BUCKET, "dead-letter-REQUESTS-7"),
        (RESULTS_BUCKET, "dead.letter.REQUESTS.8.intake"),
        (RESULTS_BUCKET, "dead.letter.REQUESTS.7.canceller"),
        ("other", "dead.letter.REQUESTS.7.intake"),
    ],
)
async def test_a_forged_one_neither_reads_nor_removes_what_is_anothers(
    wire: JetStream, letters: DeadLetters, bucket: str, name: str
) -> None:
    await put_object(wire, RESULTS_BUCKET, name, b"a deliberation's results")
    headers = {
        "Parley-Stream": "REQUESTS", "Parley-Sequence": "7", "Parley-Consumer": "intake",
        "Parley-Payload-Bucket": bucket, "Parley-Payload-Name": name, "Parley-Payload-Size": "99",
    }  # fmt: skip
    await wire.js.publish("deadletter.deliberation.requested", b"mine", headers=headers)
    letter = await newest_of(letters)
    assert (letter.put_aside, letter.size) == (None, 4)
    assert await letters.payload(letter) == b"mine"
    await letters.erase(letter)
    assert (await (await wire.js.object_store(RESULTS_BUCKET)).get(name)).data == b"a deliberation's results"


async def twin_of(wire: JetStream, letter: DeadLetterInfo) -> DeadLetterInfo:
    """A forged one that claims the same origin, and so the same payload."""
    headers = {
        "Parley-Stream": letter.stream, "Parley-Sequence": str(letter.sequence),
        "Parley-Consumer": letter.consumer, "Parley-Payload-Bucket": RESULTS_BUCKET,
        "Parley-Payload-Name": letter.put_aside or "", "Parley-Payload-Size": "9",
    }  # fmt: skip
    await wire.js.publish("deadletter.deliberation.cancel", b"", headers=headers)
    forged = await newest_of(DeadLetters(wire))
    assert forged.put_aside == letter.put_aside
    return forged


async def test_removing_a_forged_one_keeps_anothers_payload(wire: JetStream, letters: DeadLetters) -> None:
    data = b"x" * (wire.max_payload - 100)
    letter = await given_up(wire, data, seq=7)
    await letters.erase(await twin_of(wire, letter))
    assert await letters.payload(letter) == data
    await letters.purge((await twin_of(wire, letter)).seq, subject="deliberation.cancel")
    assert await all_of(letters) == [letter.seq]
    assert await letters.payload(letter) == data
    await letters.erase(letter)
    assert await kept_aside(wire) == set()


async def test_a_payload_goes_with_the_last_that_names_it(wire: JetStream, letters: DeadLetters) -> None:
    letter = await given_up(wire, b"x" * wire.max_payload, seq=7)
    forged = await twin_of(wire, letter)
    await letters.purge(letter.seq)
    assert await kept_aside(wire) == {letter.put_aside}
    await letters.erase(forged)
    assert await kept_aside(wire) == set()
    await twin_of(wire, letter := await given_up(wire, b"x" * wire.max_payload, seq=8))
    await letters.purge(letter.seq + 1)
    assert await kept_aside(wire) == set()


# ── removed ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def kept_aside(wire: JetStream) -> set[str]:
    try:
        return {
            info.name for info in await (await wire.js.object_store(RESULTS_BUCKET)).list(ignore_deletes=True)
        }
    except nats.js.errors.NotFoundError:
        return set()


async def test_one_is_removed_with_what_was_put_aside_for_it(wire: JetStream, letters: DeadLetters) -> None:
    small = await given_up(wire, seq=1)
    large = await given_up(wire, b"x" * wire.max_payload, seq=2)
    assert await letters.erase(large)
    assert not await letters.erase(large)
    assert await all_of(letters) == [small.seq]
    assert await kept_aside(wire) == set()


async def test_all_up_to_one_are_removed_and_later_ones_stay(wire: JetStream, letters: DeadLetters) -> None:
    subjects = (topology.REQUESTED, topology.CANCEL, topology.REQUESTED, topology.REQUESTED)
    for seq, subject in enumerate(subjects, 1):
        await given_up(wire, b"x" * wire.max_payload, seq=seq, subject=subject)
    await letters.purge(3, subject="*.requested")
    assert await all_of(letters) == [2, 4]
    assert await kept_aside(wire) == {
        "dead.letter.REQUESTS.2.intake",
        "dead.letter.REQUESTS.4.intake",
    }
    await letters.purge(4)
    assert await all_of(letters) == []
    assert await kept_aside(wire) == set()


async def test_a_refused_deletion_is_not_taken_for_a_success(wire: JetStream, letters: DeadLetters) -> None:
    letter = await given_up(wire)
    config = (await wire.js.stream_info(DEAD_LETTERS)).config
    await wire.js.update_stream(replace(config, sealed=True))  # an operator's choice
    with pytest.raises(Exception, match=r"sealed|denied|not permitted"):
        await letters.erase(letter)


# ── absences ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_nats_without_our_streams_is_said_by_each_verb(wire: JetStream, letters: DeadLetters) -> None:
    letter = await given_up(wire)
    await wire.js.delete_stream(DEAD_LETTERS)
    attempts = (
        letters.newest(1), letters.sequences(), letters.find(1), letters.payload(letter), letters.purge(1),
        letters.replay(letter),
    )  # fmt: skip
    for attempt in attempts:
        with pytest.raises(StreamNotFound, match=DEAD_LETTERS):
            await attempt
