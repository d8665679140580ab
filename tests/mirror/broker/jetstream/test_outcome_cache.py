"""Outcomes are read by sequence, from memory where this process just counted them."""

from parley.broker.jetstream import outcome_cache, topology
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.outcome_cache import OutcomeCache


async def test_an_outcome_that_was_just_delivered_is_read_without_asking(wire: JetStream) -> None:
    # The stream is empty: an outcome that is found was remembered.
    outcomes = OutcomeCache(wire)
    outcomes.remember(5, b"words")
    assert await outcomes.get(5) == b"words"
    outcomes.forget(5)
    assert await outcomes.get(5) is None
    outcomes.forget(5)  # a second time changes nothing


async def test_an_outcome_that_is_not_remembered_is_read_from_the_stream(wire: JetStream) -> None:
    seq = (await wire.publish(topology.AGENT_FAILED, b"{}")).seq
    assert await OutcomeCache(wire).get(seq) == b"{}"


async def test_empty_outcomes_are_bounded_too(wire: JetStream) -> None:
    outcomes = OutcomeCache(wire, max_bytes=2 * outcome_cache.OVERHEAD_BYTES)
    for seq in (1, 2, 3):
        outcomes.remember(seq, b"")
    assert [await outcomes.get(seq) for seq in (1, 2, 3)] == [None, b"", b""]


async def test_what_is_remembered_is_bounded_and_the_oldest_go_first(wire: JetStream) -> None:
    outcomes = OutcomeCache(wire, max_bytes=1_000 + 3 * outcome_cache.OVERHEAD_BYTES)

    async def remembered() -> list[int]:
        return [seq for seq in range(1, 20) if await outcomes.get(seq) is not None]

    for seq in range(1, 11):
        outcomes.remember(seq, b"x" * 300)
        outcomes.remember(seq, b"x" * 300)  # a redelivery: the same message counts once
    assert await remembered() == [8, 9, 10]
    outcomes.forget(9)
    outcomes.remember(11, b"x" * 400)
    assert await remembered() == [8, 10, 11]  # 1,000 bytes, not one more
    outcomes.remember(12, b"x")
    assert await remembered() == [10, 11, 12]
    outcomes.remember(13, b"x" * 10_000)  # larger than all of it: not kept, and nothing makes room for it
    assert await remembered() == [10, 11, 12]
