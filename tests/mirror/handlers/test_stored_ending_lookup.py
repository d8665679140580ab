"""An ending is found by name, however long ago it was stored, and most look-ups read nothing again."""

import time

import pytest

from parley.broker.core.headers_and_ids import ending_msg_id
from parley.broker.core.messages import DeliberationFailed
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream
from parley.handlers import stored_ending_lookup
from parley.handlers.stored_ending_lookup import EndingLookup
from tests.mirror.handlers import Bench


async def end(bench: Bench, task_id: str, msg_id: str | None = None) -> int:
    ending = DeliberationFailed(
        task_id=task_id, status="cancelled", error="enough", total_agents=0, successful_responses=0,
        failed_responses=0, duration_ms=1, timestamp="2026-11-26T12:00:00Z", failed_agents=(), missing_agents=(), results=(),
    )  # fmt: skip
    return (await bench.wire.publish(topology.FAILED, ending.encode(), msg_id=msg_id)).seq


@pytest.fixture
def began() -> float:
    return time.time() - 60


async def test_an_ending_is_found_with_and_without_its_msg_id(bench: Bench, began: float) -> None:
    await bench.wire.publish(topology.COMPLETED, b"junk")
    named, nameless = await end(bench, "t-1", ending_msg_id("t-1")), await end(bench, "t-2")
    another = await end(bench, "t-3", f"{ending_msg_id('t-3')}:7")
    lookup = EndingLookup(bench.wire)
    assert [await lookup.find(name, began) for name in ("t-1", "t-2", "t-3", "t-4")] == [
        named, nameless, another, None,
    ]  # fmt: skip


async def test_an_ending_from_before_the_instant_is_another_deliberations(bench: Bench, began: float) -> None:
    await end(bench, "t-1")
    lookup = EndingLookup(bench.wire)
    assert await lookup.find("t-1", time.time() + 5) is None
    assert await lookup.find("t-1", began) is not None
    assert await lookup.find("t-1", time.time() + 5) is None


async def test_the_newest_ending_of_a_name_counts(bench: Bench, began: float) -> None:
    await end(bench, "t-1")
    newest = await end(bench, "t-1")
    assert await EndingLookup(bench.wire).find("t-1", began) == newest


class Counting(EndingLookup):
    """Counts how often the stream is read."""

    def __init__(self, jetstream: JetStream) -> None:
        super().__init__(jetstream)
        self.reads = 0

    async def _read_on(self) -> None:
        self.reads += 1
        await super()._read_on()

    async def _search(self, task_id: str, since: float) -> int | None:
        self.reads += 1
        return await super()._search(task_id, since)


async def test_a_crowd_of_look_ups_reads_the_stream_once(bench: Bench, began: float) -> None:
    await end(bench, "t-1")
    lookup = Counting(bench.wire)
    assert [await lookup.find(f"n-{number}", began + number) for number in range(40)] == [None] * 40
    assert lookup.reads == 1
    assert await lookup.find("t-1", began - 2 * stored_ending_lookup.MARGIN_SECONDS) is not None
    assert lookup.reads == 2  # it asked for more than was read


async def test_what_was_stored_since_is_read_on(
    bench: Bench, began: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_ending_lookup, "FRESH_SECONDS", 0.0)
    lookup = EndingLookup(bench.wire)
    await end(bench, "t-0")
    assert await lookup.find("t-1", began) is None
    for name in ("t-1", "t-2"):
        seq = await end(bench, name)
        assert await lookup.find(name, began) == seq


async def test_more_names_than_are_remembered_are_found_all_the_same(
    bench: Bench, began: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_ending_lookup, "MAX_NAMES", 3)
    seqs = [await end(bench, f"t-{number}") for number in range(8)]
    lookup = EndingLookup(bench.wire)
    assert [await lookup.find(f"t-{number}", began) for number in range(8)] == seqs


@pytest.mark.parametrize("body", [b"junk", b"{}"])
async def test_a_name_that_is_not_the_endings_own_hides_no_ending(
    bench: Bench, began: float, body: bytes
) -> None:
    seq = await end(bench, "t-1")
    await bench.wire.publish(topology.FAILED, body, msg_id=ending_msg_id("t-1"))
    assert await EndingLookup(bench.wire).find("t-1", began) == seq
