"""Outcomes are read by sequence, from memory where this process just counted them."""

import pytest

from parley.broker.core.messages import AgentFailed, ErrorType
from parley.broker.jetstream import outcome_cache, topology
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.outcome_cache import OutcomeCache, StoredOutcome

FAILED = AgentFailed(
    task_id="t", agent_id="agent-dev-001", role="DEV", error="no", error_type=ErrorType.SERVER_ERROR, attempt=1,
    duration_ms=1, timestamp="2026-11-27T18:00:00.000Z",
)  # fmt: skip


async def test_an_outcome_that_was_just_delivered_is_read_without_asking(wire: JetStream) -> None:
    # The stream is empty: an outcome that is found was remembered.
    outcomes = OutcomeCache(wire)
    outcomes.remember(5, FAILED, 200)
    assert await outcomes.get(5) == StoredOutcome(FAILED, 200)
    assert (outcomes.size([5]), outcomes.size([5, 6])) == (200, None)
    outcomes.forget(5)
    assert await outcomes.get(5) is None
    outcomes.forget(5)  # a second time changes nothing


async def test_an_outcome_that_is_not_remembered_is_read_from_the_stream(wire: JetStream) -> None:
    body = FAILED.encode()
    seq = (await wire.publish(topology.AGENT_FAILED, body)).seq
    assert await OutcomeCache(wire).get(seq) == StoredOutcome(FAILED, len(body))


async def test_an_outcome_that_cannot_be_read_is_as_good_as_none_and_is_named(
    wire: JetStream, caplog: pytest.LogCaptureFixture
) -> None:
    seq = (await wire.publish(topology.AGENT_COMPLETED, b'{"secret": 1}')).seq
    assert await OutcomeCache(wire).get(seq) is None
    assert f"outcome {seq} of AGENT_RESPONSES cannot be read any more" in caplog.text
    assert "secret" not in caplog.text


async def test_small_outcomes_are_bounded_too(wire: JetStream) -> None:
    outcomes = OutcomeCache(wire, max_bytes=2 * outcome_cache.OVERHEAD_BYTES)
    for seq in (1, 2, 3):
        outcomes.remember(seq, FAILED, 0)
    assert [await outcomes.get(seq) is not None for seq in (1, 2, 3)] == [False, True, True]


async def test_what_is_remembered_is_bounded_and_the_oldest_go_first(wire: JetStream) -> None:
    outcomes = OutcomeCache(wire, max_bytes=1_000 + 3 * outcome_cache.OVERHEAD_BYTES)

    async def remembered() -> list[int]:
        return [seq for seq in range(1, 20) if await outcomes.get(seq) is not None]

    for seq in range(1, 11):
        outcomes.remember(seq, FAILED, 300)
        outcomes.remember(seq, FAILED, 300)  # a redelivery: the same message counts once
    assert await remembered() == [8, 9, 10]
    outcomes.forget(9)
    outcomes.remember(11, FAILED, 400)
    assert await remembered() == [8, 10, 11]  # 1,000 bytes, not one more
    outcomes.remember(12, FAILED, 1)
    assert await remembered() == [10, 11, 12]
    outcomes.remember(13, FAILED, 100_000)  # larger than all of it: not kept, and nothing makes room for it
    assert await remembered() == [10, 11, 12]
