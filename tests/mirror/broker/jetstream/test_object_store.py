"""Objects in chunks: written as they come, read by us and by nats-py, in servers of any `max_payload`; and what is said
where the store takes nothing."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from parley.broker.core.errors import BrokerUnavailable, ObjectGone, ObjectNotStored
from parley.broker.core.messages import ResultsRef
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.object_store import ObjectWriter, delete_object, get_object, put_object
from tests import present
from tests.harness import until
from tests.mirror.broker import small_server

BUCKET = topology.RESULTS_BUCKET


async def chunks(wire: JetStream) -> int:
    """How many messages the store's stream has under chunks' subjects."""
    info = await wire.js.stream_info(topology.RESULTS, subjects_filter=f"$O.{BUCKET}.C.>")
    return sum((info.state.subjects or {}).values())


async def test_what_is_written_piece_by_piece_is_read_by_us_and_by_another_client(wire: JetStream) -> None:
    pieces = [
        bytes([place % 256]) * (place * 1_000) for place in range(60)
    ]  # 1.8 MB, more than a message may be
    writer = ObjectWriter(wire, BUCKET, "t-1")
    for piece in pieces:
        await writer.write(piece)
    assert await chunks(wire) > 10  # written before it is closed
    ref = await writer.close()
    assert ref.size == sum(map(len, pieces))
    assert await get_object(wire, ref) == b"".join(pieces)
    theirs = await (await wire.js.object_store(BUCKET)).get("t-1")
    assert theirs.data == b"".join(pieces)
    assert (theirs.info.size, theirs.info.digest, theirs.info.chunks) == (
        ref.size,
        ref.digest,
        await chunks(wire),
    )


async def test_what_another_client_wrote_is_read(wire: JetStream) -> None:
    await (await wire.js.object_store(BUCKET)).put("t-1", b"words" * 100_000)
    assert (
        await get_object(wire, ResultsRef(bucket=BUCKET, name="t-1", size=0, digest="")) == b"words" * 100_000
    )


async def test_an_empty_object_is_one_too(wire: JetStream) -> None:
    ref = await put_object(wire, BUCKET, "t-1", b"")
    assert (ref.size, await get_object(wire, ref)) == (0, b"")


@pytest.mark.parametrize("max_payload", [4_096, 65_536])
async def test_chunks_fit_into_a_small_max_payload(tmp_path: Path, max_payload: int) -> None:
    async with small_server(tmp_path, max_payload=max_payload) as nc:
        wire = JetStream(nc)
        ref = await put_object(wire, BUCKET, "t-1", b"x" * 200_000)
        assert await get_object(wire, ref) == b"x" * 200_000


async def test_the_same_object_written_twice_keeps_the_chunks_that_clients_may_be_reading(
    wire: JetStream,
) -> None:
    await put_object(wire, BUCKET, "t-1", b"x" * 300_000)
    first = present(await wire.get(topology.RESULTS, 1))
    ref = await put_object(wire, BUCKET, "t-1", b"x" * 300_000)
    assert await wire.get(topology.RESULTS, 1) == first
    assert await get_object(wire, ref) == b"x" * 300_000


async def test_an_object_that_is_replaced_leaves_no_chunks(wire: JetStream) -> None:
    await put_object(wire, BUCKET, "t-1", b"x" * 300_000)
    await put_object(wire, BUCKET, "t-1", b"y" * 100)
    assert await chunks(wire) == 1


async def test_an_object_that_is_abandoned_leaves_nothing(wire: JetStream) -> None:
    writer = ObjectWriter(wire, BUCKET, "t-1")
    await writer.write(b"x" * 300_000)
    await writer.abandon()
    assert await chunks(wire) == 0
    with pytest.raises(ObjectGone):
        await get_object(wire, ResultsRef(bucket=BUCKET, name="t-1", size=1, digest=""))


async def full(wire: JetStream) -> None:
    config = (await wire.js.stream_info(topology.RESULTS)).config
    await wire.js.update_stream(config.evolve(max_bytes=200_000))


async def deleted(wire: JetStream) -> None:
    await wire.js.delete_stream(topology.RESULTS)


@pytest.mark.parametrize(
    ("spoil", "why"), [(full, "maximum bytes exceeded"), (deleted, "no response from stream")]
)
async def test_a_store_that_takes_nothing_says_why_within_its_time(
    wire: JetStream, spoil: Any, why: str
) -> None:
    await spoil(wire)
    began = asyncio.get_running_loop().time()
    writer = ObjectWriter(wire, BUCKET, "t-1", refused_seconds=0.3)
    with pytest.raises(ObjectNotStored, match=why):
        await writer.write(b"x" * 300_000)
    await writer.abandon()
    assert asyncio.get_running_loop().time() - began < 5


async def test_a_store_that_refuses_for_a_moment_loses_nothing(wire: JetStream) -> None:
    await full(wire)
    writing = asyncio.create_task(put_object(wire, BUCKET, "t-1", b"x" * 300_000))
    await until(lambda: chunks(wire), "the first chunk is written")
    config = (await wire.js.stream_info(topology.RESULTS)).config
    await wire.js.update_stream(config.evolve(max_bytes=-1))
    assert await get_object(wire, await writing) == b"x" * 300_000


async def test_an_object_with_a_wrong_digest_is_not_taken_for_its_data(wire: JetStream) -> None:
    ref = await put_object(wire, BUCKET, "t-1", b"x" * 300_000)
    await wire.js.delete_msg(topology.RESULTS, 2)
    with pytest.raises(BrokerUnavailable, match="digest"):
        await get_object(wire, ref)


async def test_an_object_is_read_back_whole(wire: JetStream) -> None:
    results = bytes(range(256)) * 8_000  # twice what one message may be
    ref = await put_object(wire, BUCKET, "t-1", results)
    assert (ref.bucket, ref.name, ref.size) == ("results", "t-1", len(results))
    assert ref.digest.startswith("SHA-256=")
    assert await get_object(wire, ref) == results


async def test_the_same_name_again_replaces_the_object(wire: JetStream) -> None:
    await put_object(wire, BUCKET, "t-1", b"first")
    ref = await put_object(wire, BUCKET, "t-1", b"second")
    assert await get_object(wire, ref) == b"second"
    objects = await (await wire.js.object_store(BUCKET)).list()
    assert [info.name for info in objects] == ["t-1"]


@pytest.mark.parametrize(("bucket", "name"), [("results", "nobody"), ("no-such-bucket", "t-1")])
async def test_an_object_that_is_not_kept_is_unavailable(wire: JetStream, bucket: str, name: str) -> None:
    with pytest.raises(BrokerUnavailable):
        await get_object(wire, ResultsRef(bucket=bucket, name=name, size=1, digest="SHA-256=x"))


async def test_an_object_can_be_deleted_and_deleting_a_missing_one_is_allowed(wire: JetStream) -> None:
    await put_object(wire, BUCKET, "t-1", b"first")
    ref = await put_object(wire, BUCKET, "t-2", b"second")
    for bucket, name in (
        ("results", "t-1"),
        ("results", "t-1"),
        ("results", "nobody"),
        ("no-such-bucket", "t-1"),
    ):
        await delete_object(wire, bucket, name)
    objects = await (await wire.js.object_store(BUCKET)).list(ignore_deletes=True)
    assert [info.name for info in objects] == ["t-2"]
    assert await get_object(wire, ref) == b"second"
