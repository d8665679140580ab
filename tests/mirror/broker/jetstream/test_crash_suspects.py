"""A message that ends each process that begins it is known by its notes, and one that was handled has none."""

import pytest

from parley.broker.jetstream import topology
from parley.broker.jetstream.crash_suspects import MAX_BEGUN, SUSPECT_DELIVERIES, Suspects
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.topology import AGGREGATE, INTAKE


def test_only_a_message_of_many_deliveries_is_suspected_and_none_that_did_no_harm_here(
    wire: JetStream,
) -> None:
    suspects = Suspects(wire)
    assert not suspects.suspects(INTAKE, 7, SUSPECT_DELIVERIES - 1)
    assert suspects.suspects(INTAKE, 7, SUSPECT_DELIVERIES)
    suspects.note_harmless(INTAKE, 7)
    assert not suspects.suspects(INTAKE, 7, 100)
    assert suspects.suspects(AGGREGATE, 7, 100)


async def test_what_was_begun_and_never_finished_is_not_begun_for_ever(wire: JetStream) -> None:
    for _ in range(MAX_BEGUN):
        assert await Suspects(wire).begin(INTAKE, 7)  # a process each, that ends then
    assert not await Suspects(wire).begin(INTAKE, 7)
    assert await Suspects(wire).begin(INTAKE, 8)
    assert await Suspects(wire).begin(AGGREGATE, 7)


async def test_what_was_finished_counts_no_more(wire: JetStream) -> None:
    suspects = Suspects(wire)
    for _ in range(2 * MAX_BEGUN):
        assert await suspects.begin(INTAKE, 7)
        await suspects.finish(INTAKE, 7)


@pytest.mark.parametrize("note", [b"", b"x", b"-1", "²".encode()])
async def test_a_note_that_nobody_can_read_counts_for_nothing(wire: JetStream, note: bytes) -> None:
    await wire.publish(topology.suspect_subject(INTAKE, 7), note)
    assert await Suspects(wire).begin(INTAKE, 7)


async def test_without_the_stream_it_is_handled_without_a_note(wire: JetStream) -> None:
    await wire.js.delete_stream(topology.SUSPECTS)
    for _ in range(MAX_BEGUN + 1):
        assert await Suspects(wire).begin(INTAKE, 7)
    await Suspects(wire).finish(INTAKE, 7)
