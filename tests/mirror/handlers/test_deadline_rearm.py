"""A tally without a deadline gets one again, and its deliberation ends by it."""

import asyncio
import time
from contextlib import suppress

import pytest

from parley.broker.core.events_and_effects import CancelRequested, EndingPublished, Event, Requested
from parley.broker.core.messages import DeliberationFailed
from parley.broker.core.timestamps import parse_timestamp
from parley.broker.jetstream import topology
from parley.broker.jetstream.tally_store import TallyStore
from parley.broker.jetstream.topology import EXPIRY
from parley.handlers.deadline_rearm import DeadlineRecovery
from parley.handlers.effects import EffectRunner
from parley.handlers.expire import Expire
from parley.handlers.overdue_deadlines import MARKING_SECONDS, OVERDUE_SECONDS, DeadlineWatch
from tests import present
from tests.harness import until
from tests.mirror.handlers import Bench, effects_of, lost_of, runner_of


@pytest.fixture
def effects(bench: Bench) -> EffectRunner:
    return effects_of(bench)


@pytest.fixture
def recover(bench: Bench, effects: EffectRunner) -> DeadlineRecovery:
    return DeadlineRecovery(bench.wire, effects, DeadlineWatch(bench.wire, effects, lost_of(bench, effects)))


async def record(bench: Bench, task_id: str, seconds: float, *events: Event, ago: float = 60.0) -> float:
    """A tally alone, with nothing that would come to end it; its deadline lies `seconds` ahead, the events happened
    `ago`."""
    now = time.time()
    request = Requested(task_id, seq=1, at=now - 60, deadline=now + seconds, role="DEV", num_agents=2)
    seen = [(request, now - 60), *((event, now - ago) for event in events)]
    await TallyStore(bench.wire, keep_seconds=60).apply(task_id, seen)
    return request.deadline


async def armed_at(bench: Bench, task_id: str) -> float | None:
    timer = await bench.wire.get_last(topology.DELIBERATIONS, topology.timer_subject(task_id))
    return parse_timestamp(timer.headers["Nats-Schedule"].removeprefix("@at ")) if timer is not None else None


async def test_an_open_deliberation_gets_its_lost_deadline_back(
    bench: Bench, recover: DeadlineRecovery
) -> None:
    deadline = await record(bench, "open", 3_600)
    assert await armed_at(bench, "open") is None
    assert await recover.sweep() == 1
    assert await armed_at(bench, "open") == pytest.approx(deadline, abs=0.01)


async def test_what_a_sweep_armed_is_watched_too(bench: Bench, recover: DeadlineRecovery) -> None:
    """Its timer may be lost once more, while the store is full, and who recorded it be dead (simulation, seed 58090)."""
    await record(bench, "open", 0.5)
    assert await recover.sweep() == 1
    await bench.js.purge_stream(topology.DELIBERATIONS, subject=topology.timer_subject("open"))

    async def ended() -> bool:
        await recover.watch.look()
        return bool(await bench.endings_of("open"))

    await until(ended, "the second look ends it", 10.0)


async def test_one_whose_time_was_up_meanwhile_ends_at_once(
    bench: Bench, recover: DeadlineRecovery, effects: EffectRunner
) -> None:
    await record(bench, "overdue", -1)
    assert await recover.sweep() == 1
    await runner_of(bench, EXPIRY, Expire(effects, lost_of(bench, effects)).handle)(await bench.taken(EXPIRY))
    (ending,) = await bench.endings_of("overdue")
    assert isinstance(ending, DeliberationFailed)
    assert ending.status == "timeout"


async def test_an_ending_that_was_just_decided_gets_time_to_be_marked(
    bench: Bench, recover: DeadlineRecovery
) -> None:
    before = time.time()
    await record(bench, "decided", 3_600, CancelRequested("enough"), ago=0)
    assert await recover.sweep() == 1
    at = present(await armed_at(bench, "decided"))
    assert MARKING_SECONDS <= at - before < MARKING_SECONDS + 5
    # However often it is swept: a process that starts again and again must not put it off.
    assert await recover.sweep() == 1
    assert await armed_at(bench, "decided") == at


async def test_a_sweep_never_puts_a_deadline_off(bench: Bench, recover: DeadlineRecovery) -> None:
    deadline = await record(bench, "near", MARKING_SECONDS / 2, CancelRequested("enough"), ago=0)
    assert await recover.sweep() == 1
    assert await armed_at(bench, "near") == pytest.approx(deadline, abs=0.01)


async def test_an_ending_decided_long_ago_is_published_at_once(
    bench: Bench, recover: DeadlineRecovery
) -> None:
    await record(bench, "old", 3_600, CancelRequested("enough"), ago=MARKING_SECONDS + 1)
    assert await recover.sweep() == 1
    (delivery,) = await bench.taken(EXPIRY)
    assert delivery.msg.subject == topology.deadline_subject("old")


async def test_an_unreadable_tally_gets_its_deadline_at_once_and_keeps_no_other_from_its_own(
    bench: Bench, recover: DeadlineRecovery
) -> None:
    await record(bench, "a-first", 3_600)
    await bench.wire.publish(topology.tally_subject("b-strange"), b'{"state": "of another version"}')
    await bench.wire.publish(topology.tally_subject("c.d"), b"{}")
    await record(bench, "e-last", 3_600)
    assert await recover.sweep() == 3
    assert await armed_at(bench, "e-last") is not None
    (delivery,) = await bench.taken(EXPIRY)
    assert delivery.msg.subject == topology.deadline_subject("b-strange")


async def test_finished_and_forgotten_tallies_are_left_alone(bench: Bench, recover: DeadlineRecovery) -> None:
    await record(bench, "finished", 3_600, CancelRequested(), EndingPublished(7))
    await record(bench, "purged", 3_600)
    await (await bench.wire.js.key_value(topology.TALLIES_BUCKET)).purge("purged")
    assert await recover.sweep() == 0
    assert await armed_at(bench, "finished") is None
    assert await armed_at(bench, "purged") is None


async def test_more_than_one_batch_is_swept(bench: Bench, recover: DeadlineRecovery) -> None:
    names = [f"many-{number}" for number in range(70)]
    await asyncio.gather(*(record(bench, name, 3_600) for name in names))
    assert await recover.sweep() == len(names)


async def test_it_sweeps_at_the_start_and_after_a_reconnect(bench: Bench, recover: DeadlineRecovery) -> None:
    await record(bench, "first", 3_600)
    running = asyncio.create_task(recover.run())
    try:

        async def swept(task_id: str) -> bool:
            return await armed_at(bench, task_id) is not None

        await until(lambda: swept("first"), "swept at the start")
        await record(bench, "second", 3_600)
        bench.wire.nc.stats["reconnects"] += 1
        bench.wire.nc._note_change()
        await until(lambda: swept("second"), "swept after the reconnect")
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def test_it_sweeps_once_a_full_store_has_room_again(bench: Bench, recover: DeadlineRecovery) -> None:
    health = bench.wire.health
    await record(bench, "first", 3_600)
    running = asyncio.create_task(recover.run())
    try:

        async def swept(task_id: str) -> bool:
            return await armed_at(bench, task_id) is not None

        await until(lambda: swept("first"), "swept at the start")
        await record(bench, "second", 3_600)
        health.refused(topology.DELIBERATIONS, "no space left")
        health.restored(topology.DELIBERATIONS)
        await until(lambda: swept("second"), "swept")
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def test_a_regular_sweep_arms_only_what_is_overdue(bench: Bench, recover: DeadlineRecovery) -> None:
    await record(bench, "ahead", 3_600)
    await record(bench, "just-over", -0.1)
    await record(bench, "just-decided", 3_600, CancelRequested("enough"), ago=0)
    await record(bench, "overdue", -OVERDUE_SECONDS)
    await record(bench, "decided-long-ago", 3_600, CancelRequested("enough"), ago=MARKING_SECONDS + 5)
    await bench.wire.publish(topology.tally_subject("unreadable"), b"{}")
    assert await recover.sweep(only_overdue=True) == 3
    assert await armed_at(bench, "ahead") is None
    subjects = {delivery.msg.subject for delivery in await bench.taken(EXPIRY, 3)}
    names = ("overdue", "decided-long-ago", "unreadable")
    assert subjects == {topology.deadline_subject(name) for name in names}


async def test_it_sweeps_regularly(
    bench: Bench, recover: DeadlineRecovery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("parley.handlers.deadline_rearm.SWEEP_SECONDS", 1.0)
    running = asyncio.create_task(recover.run())
    try:
        for name in ("one", "two", "three"):
            await record(bench, name, -OVERDUE_SECONDS)

            async def swept(name: str = name) -> bool:
                return await armed_at(bench, name) is not None

            await until(swept, f"{name} swept")
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
