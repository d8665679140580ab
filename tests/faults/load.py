"""Deliberations at a steady rate while parts die. Afterwards the streams tell how each of them ended."""

import asyncio
import json
import statistics
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import TypeVar

import nats.errors
from nats.aio.msg import Msg

from parley.broker.core.errors import BrokerUnavailable
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.nats_client import NatsClient as Nats
from parley.broker.jetstream.scan import scan
from tests.faults.processes import clock
from tests.harness import fresh, until

T = TypeVar("T")

AGENTS = 3
# Deliberations a second. All processes share two cores, and a recovery needs spare capacity to catch up.
PACE = 20.0
TIMEOUT_SECONDS = 60.0
# The promise: an ending at most this long after the deadline.
PROMISED_SECONDS = 1.0
# Requests come every 50 ms. If the server stores nothing for this long, its disk or the machine stands still.
STILL_SECONDS = 0.3
# Until the queue behind the last ending is empty too.
SETTLE_SECONDS = 60.0
# A deliberation felt the fault if it took longer than this many calm ones, plus half a second.
SLOW_FACTOR, SLOW_SECONDS = 2.0, 0.5


@dataclass(slots=True)
class Asked:
    """One deliberation. Times are by the clock of the nats-server that stored the messages."""

    task_id: str
    at: float = 0.0
    endings: list[dict[str, object]] = field(default_factory=list)
    ended: float = 0.0
    sightings: int = 0

    @property
    def took(self) -> float:
        return self.ended - self.at


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run showed. `recovery`: seconds from the fault to the last ending of a deliberation that felt it.
    `still`: the longest time in which nats-server stored nothing."""

    asked: list[Asked]
    struck: float
    lost: list[str]
    doubled: list[str]
    seen_twice: list[str]
    late: list[str]
    unnamed: list[str]
    miscounted: list[str]
    statuses: Counter[str]
    calm: float
    recovery: float
    still: float
    dead_letters: int
    unmarked: list[str]


async def run(
    nats: Nats,
    count: int,
    fault: Callable[[], Awaitable[None]],
    *,
    timeout: float = TIMEOUT_SECONDS,
    after: float = 1 / 3,
) -> Outcome:
    """Send `count` requests at `PACE`, strike after a share of them, wait for every ending, read the streams."""
    wire = JetStream(nats)
    dead_before = await _dead_letters(wire)
    seen: Counter[str] = Counter()

    async def hear(message: Msg) -> None:
        seen[str(json.loads(message.data)["task_id"])] += 1

    ears = [await nats.subscribe(subject, cb=hear) for subject in (topology.COMPLETED, topology.FAILED)]
    names = [fresh("fault") for _ in range(count)]
    # Every second one has judges choose.
    asking = [
        asyncio.create_task(_ask(wire, name, number / PACE, timeout, "judge" if number % 2 else "none"))
        for number, name in enumerate(names)
    ]
    await asyncio.sleep(count * after / PACE)
    struck = clock()
    await fault()
    asked = dict(zip(names, [Asked(name) for name in names], strict=True))
    await asyncio.gather(*asking)
    # A core NATS subscriber may miss an ending: only the stream counts.
    with suppress(AssertionError):
        await until(
            lambda: all(name in seen for name in names), "an ending of each", timeout + SETTLE_SECONDS
        )
    await _settled(wire)
    for ear in ears:
        await ear.unsubscribe()
    await _read_back(nats, asked)
    for name, times in seen.items():
        if name in asked:
            asked[name].sightings = times
    return await _judge(wire, list(asked.values()), struck, timeout, dead_before)


async def _ask(wire: JetStream, name: str, wait: float, timeout: float, select: str) -> None:
    """Publish until NATS acknowledges, as a careful client does. A doubled request is one deliberation."""
    await asyncio.sleep(wait)
    body = {
        "task_id": name,
        "task_description": "Why is the sky blue?",
        "num_agents": AGENTS,
        "timeout_seconds": timeout,
        "select": select,
    }
    while True:
        try:
            await wire.publish(topology.REQUESTED, json.dumps(body).encode())
            return
        except BrokerUnavailable:
            await asyncio.sleep(0.2)


async def _settled(wire: JetStream) -> None:
    """Wait until no consumer has a waiting or unacknowledged message."""

    async def idle() -> bool:
        for durable in topology.DURABLES:
            try:
                info = await wire.js.consumer_info(durable.stream, durable.name)
            except nats.errors.Error:
                return False  # its leader is being chosen
            if info.num_pending or info.num_ack_pending:
                return False
        return True

    await until(idle, "every consumer has nothing left to do", SETTLE_SECONDS)


async def _read_back(nats: Nats, asked: dict[str, Asked]) -> None:
    for subject in (topology.REQUESTED, topology.COMPLETED, topology.FAILED):
        stream = topology.REQUESTS if subject == topology.REQUESTED else topology.DELIBERATIONS
        for message in await stored(nats, stream, subject):
            body = json.loads(message.data)
            one = asked.get(str(body.get("task_id")))
            if one is None:
                continue
            at = message.metadata.timestamp.timestamp()
            if subject == topology.REQUESTED:
                one.at = one.at or at
            else:
                one.endings.append(body)
                one.ended = at


async def stored(nats: Nats, stream: str, subject: str) -> list[Msg]:
    """Every message stored under `subject`, oldest first."""

    async def read() -> list[Msg]:
        return [message async for message in scan(JetStream(nats), stream, subject)]

    return await _answered(read)


async def _answered(read: Callable[[], Awaitable[T]]) -> T:
    """What `read` finds, once the leader of its stream answers: a cluster that was struck may be choosing it."""

    found: list[T] = []

    async def attempt() -> bool:
        with suppress(BrokerUnavailable, nats.errors.Error):
            found.append(await read())
        return bool(found)

    await until(attempt, "a leader answers", SETTLE_SECONDS)
    return found[0]


async def _judge(
    wire: JetStream, asked: list[Asked], struck: float, timeout: float, dead_before: int
) -> Outcome:
    ended = [one for one in asked if one.endings]
    before = [one.took for one in ended if one.ended < struck]
    calm = statistics.median(before) if before else 0.0
    slow = [one for one in ended if one.ended > struck and one.took > SLOW_FACTOR * calm + SLOW_SECONDS]
    recovery = max((one.ended for one in slow), default=struck) - struck
    pauses = still([one.at for one in asked])
    unmarked = []
    for one in ended:
        tally = await _answered(partial(wire.get_last, topology.TALLIES, topology.tally_subject(one.task_id)))
        if tally is None or json.loads(tally.data).get("ending_seq") is None:
            unmarked.append(one.task_id)
    return Outcome(
        asked=asked,
        struck=struck,
        lost=[one.task_id for one in asked if not one.endings],
        doubled=[one.task_id for one in asked if len(one.endings) > 1],
        seen_twice=[one.task_id for one in asked if one.sightings > 1],
        late=[one.task_id for one in ended if lateness(one, timeout, pauses) > PROMISED_SECONDS],
        unnamed=[one.task_id for one in ended for ending in one.endings if _unnamed(ending)],
        miscounted=[one.task_id for one in ended for ending in one.endings if _miscounted(ending)],
        statuses=Counter(str(ending["status"]) for one in ended for ending in one.endings),
        calm=calm,
        recovery=recovery,
        still=max((end - begin for begin, end in pauses), default=0.0),
        dead_letters=await _dead_letters(wire) - dead_before,
        unmarked=unmarked,
    )


def still(instants: list[float]) -> list[tuple[float, float]]:
    """Periods in which the server stored nothing although requests came."""
    ordered = sorted(instants)
    return [(begin, end) for begin, end in pairwise(ordered) if end - begin > STILL_SECONDS]


def lateness(one: Asked, timeout: float, pauses: list[tuple[float, float]]) -> float:
    """Seconds from the deadline to the ending, without the periods in which the server stored nothing."""
    deadline = one.at + timeout
    held_up = sum(max(0.0, min(end, one.ended) - max(begin, deadline)) for begin, end in pauses)
    return one.ended - deadline - held_up


def _unnamed(ending: dict[str, object]) -> bool:
    """Whether a failed ending, or a failed agent in it, gives no reason."""
    if ending["status"] != "completed" and not ending.get("error"):
        return True
    failures = ending.get("failed_agents") or []
    assert isinstance(failures, list)
    return not all(failure["error"] and failure["error_type"] for failure in failures)


def _miscounted(ending: dict[str, object]) -> bool:
    """Whether a choice counts a judge twice or not at all, or names no winner although ballots came."""
    selection = ending.get("selection")
    if not isinstance(selection, dict):
        return False
    ballots = selection["ballots"]
    judges = [ballot["judge"] for ballot in ballots]
    valid = sum(ballot["ranking"] is not None for ballot in ballots)
    told = (
        selection["asked"],
        selection["valid"],
        selection["valid"] + selection["invalid"] + selection["missing"],
    )
    return told != (len(set(judges)), valid, len(judges)) or (valid > 0) != (
        ending["winner_id"] is not None and selection["status"] != "only_one"
    )


async def _dead_letters(wire: JetStream) -> int:
    info = await _answered(partial(wire.js.stream_info, topology.DEAD_LETTERS))
    return int(info.state.messages)
