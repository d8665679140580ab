"""What was asked, read from the stream REQUESTS by each request's place in it. Part of the client."""

import asyncio
import json
from collections.abc import Iterable
from contextlib import suppress

import nats.errors

from parley.broker.core.messages.conversation import question_in
from parley.broker.core.tally import Tally
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream

# Reads of one call at most, at a time and in all, and how long they may take together.
MAX_READS_AT_A_TIME = 16
MAX_READS = 500
READS_SECONDS = 3.0


async def read_questions(jetstream: JetStream, tallies: Iterable[Tally]) -> dict[str, str]:
    """The questions by `task_id`. One that cannot be read is left out: no right, no longer kept, or NATS is slow."""
    found: dict[str, str] = {}
    places = [(tally.task_id, tally.request_seq) for tally in tallies][:MAX_READS]
    if not places:
        return found
    with suppress(TimeoutError, nats.errors.Error):
        async with asyncio.timeout(READS_SECONDS):
            # The first alone: without the right to read here, one question learns it.
            await _read(jetstream, *places[0], found)
            waiting = iter(places[1:])
            await asyncio.gather(*(_read_each(jetstream, waiting, found) for _ in range(MAX_READS_AT_A_TIME)))
    return found


async def _read_each(jetstream: JetStream, places: Iterable[tuple[str, int]], found: dict[str, str]) -> None:
    for task_id, seq in places:
        await _read(jetstream, task_id, seq, found)


async def _read(jetstream: JetStream, task_id: str, seq: int, found: dict[str, str]) -> None:
    """Raises nats-py's errors, TimeoutError."""
    subject = f"$JS.API.DIRECT.GET.{topology.REQUESTS}"
    answer = await jetstream.nc.request(subject, json.dumps({"seq": seq}).encode(), timeout=READS_SECONDS)
    if (answer.headers or {}).get("Status") is not None:  # no longer kept
        return
    with suppress(ValueError, TypeError, LookupError, AttributeError):  # an invalid request has a tally too
        asked = json.loads(answer.data)
        question = asked.get("task_description") or question_in(asked["messages"])
        if isinstance(question, str):
            found[task_id] = question
