"""A deadline that never comes is found by the process that recorded or counted for its deliberation."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from parley.broker.core.errors import BrokerUnavailable
from parley.broker.core.events_and_effects import CancelRequested, Reported, Requested
from parley.broker.core.messages import DeliberationFailed
from parley.broker.core.phase_plan import PhaseKind, Select, plan
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream, PubAck, StoredMessage
from parley.handlers import overdue_deadlines
from parley.handlers.effects import EffectRunner
from parley.handlers.overdue_deadlines import MARKING_SECONDS, OVERDUE_SECONDS, DeadlineWatch
from tests import present
from tests.harness import until
from tests.mirror.handlers import (
    Bench,
    Stumble,
    StumblingWire,
    UnreadableBucket,
    effects_of,
    lost_of,
    request_of,
)


async def recorded(
    effects: EffectRunner, task_id: str, *, overdue: float = OVERDUE_SECONDS, timeout: float = 10.0
) -> Requested:
    """Taken in here, `overdue` seconds beyond its deadline by now."""
    at = effects.now() - overdue - timeout
    event = Requested(task_id, seq=1, at=at, deadline=at + timeout, role="DEV", num_agents=2)
    await effects.apply(task_id, [(event, at)], request_of(task_id, num_agents=2))
    return event


async def lose_timer(bench: Bench) -> None:
    """As a purge does: neither the timer nor a deadline that it has fired already is there."""
    await bench.js.purge_stream(topology.DELIBERATIONS)


async def test_an_overdue_deliberation_ends_without_its_timer(bench: Bench) -> None:
    effects = effects_of(bench)
    await recorded(effects, "lost")
    await recorded(effects, "near", overdue=OVERDUE_SECONDS - 1)
    await lose_timer(bench)
    watch = DeadlineWatch(bench.wire, effects, lost_of(bench, effects))
    assert await watch.look() == 1
    (ending,) = await bench.endings_of("lost")
    assert isinstance(ending, DeliberationFailed)
    assert ending.status == "timeout"
    assert await bench.endings_of("near") == []
    assert len(effects.deadlines) == 1


async def test_one_that_ended_here_is_forgotten_without_a_read(bench: Bench) -> None:
    effects = effects_of(bench)
    await recorded(effects, "t-1", overdue=-5)
    await effects.apply("t-1", [(CancelRequested("enough"), effects.now())])
    assert len(effects.deadlines) == 0


async def test_one_that_ended_elsewhere_costs_one_read_and_no_second_ending(bench: Bench) -> None:
    here, elsewhere = effects_of(bench), effects_of(bench)
    await recorded(here, "t-1")
    await elsewhere.apply("t-1", [(CancelRequested("enough"), here.now())])
    assert await DeadlineWatch(bench.wire, here, lost_of(bench, here)).look() == 1
    assert len(here.deadlines) == 0
    assert len(await bench.endings_of("t-1")) == 1


async def test_an_ending_just_decided_gets_time_to_be_marked(bench: Bench) -> None:
    here = effects_of(bench)
    await recorded(here, "t-1")
    with suppress(Stumble):  # decided, and its process dies before it publishes
        await effects_of(bench, StumblingWire(bench.nc, at=1, after=True)).apply(
            "t-1", [(CancelRequested("enough"), here.now())]
        )
    watch = DeadlineWatch(bench.wire, here, lost_of(bench, here))
    assert await watch.look() == 1
    assert await bench.endings_of("t-1") == []
    assert len(here.deadlines) == 1
    tally = present(await bench.tally_of("t-1"))
    decided = present(tally.verdict).decided_at
    await effects_of(bench).apply("t-1", [])  # nothing: it only counts as unmarked
    assert not here.deadlines.take_due(decided + MARKING_SECONDS - OVERDUE_SECONDS - 0.1, 10)
    assert here.deadlines.take_due(decided + MARKING_SECONDS - OVERDUE_SECONDS, 10)


async def test_what_cannot_be_read_now_is_looked_at_again(bench: Bench) -> None:
    effects = effects_of(bench, UnreadableBucket(bench.nc))
    event = Requested("t-1", seq=1, at=0.0, deadline=10.0, role="DEV", num_agents=2)
    effects.deadlines.add("t-1", event.deadline, 1)
    watch = DeadlineWatch(bench.wire, effects, lost_of(bench, effects))
    assert await watch.look() == 1
    assert len(effects.deadlines) == 1


class OneIsBroken(JetStream):
    async def get_last(self, stream: str, subject: str) -> StoredMessage | None:
        if subject.endswith("a-bad"):
            raise ValueError("a bug")
        return await super().get_last(stream, subject)


async def test_a_bug_with_one_keeps_no_other_from_its_ending(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    effects = effects_of(bench, OneIsBroken(bench.nc))
    await recorded(effects, "a-bad")
    await recorded(effects, "b-good")
    assert await DeadlineWatch(bench.wire, effects, lost_of(bench, effects)).look() == 2
    assert len(await bench.endings_of("b-good")) == 1
    assert len(effects.deadlines) == 1
    assert "the overdue deadline of a-bad could not be carried out" in caplog.text


class MarksNothing(JetStream):
    async def publish(self, subject: str, *args: Any, **kwargs: Any) -> PubAck:
        if "Nats-TTL" in kwargs.get("headers", {}):
            raise BrokerUnavailable("nats://x", "timeout")
        return await super().publish(subject, *args, **kwargs)


async def test_what_cannot_be_carried_out_now_is_not_tried_without_a_pause(bench: Bench) -> None:
    effects = effects_of(bench, MarksNothing(bench.nc))
    await recorded(effects, "t-1")
    assert await DeadlineWatch(bench.wire, effects, lost_of(bench, effects)).look() == 1
    assert len(effects.deadlines) == 1


class AsksNobodyOnce(JetStream):
    """Work for judges is refused the first time."""

    refused = 0

    async def publish(self, subject: str, body: bytes, **kwargs: Any) -> PubAck:
        if subject == topology.AGENT_REQUESTED and b"judge-" in body and not self.refused:
            self.refused += 1
            raise BrokerUnavailable("nats://x", "timeout")
        return await super().publish(subject, body, **kwargs)


async def test_judges_that_could_not_be_asked_are_asked_at_the_next_look(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = AsksNobodyOnce(bench.nc)
    effects = effects_of(bench, wire)
    at = effects.now() - 40.0
    asked: dict[str, Any] = {"num_agents": 3, "select": Select.JUDGE}
    steps = plan(Select.JUDGE, 3, 1)
    event = Requested("t-1", seq=1, at=at, deadline=at + 55.0, role="DEV", plan=steps, **asked)
    await effects.apply("t-1", [(event, at)], request_of("t-1", **asked, judges=1))
    answers = [Reported(f"agent-dev-00{place}", 1, place, said=f"{place}") for place in (1, 2)]
    await effects.apply("t-1", [(answer, at + 1) for answer in answers])
    monkeypatch.setattr(overdue_deadlines, "AGAIN_SECONDS", -OVERDUE_SECONDS)
    watch = DeadlineWatch(bench.wire, effects, lost_of(bench, effects))

    await watch.look()
    work = await bench.all_of(topology.AGENT_REQUESTS, topology.AGENT_REQUESTED)
    assert (wire.refused, sum(b"judge-001" in message.data for message in work)) == (1, 1)
    assert present(await bench.tally_of("t-1")).phase.kind is PhaseKind.JUDGE


async def test_a_tally_that_may_be_forgotten_before_its_deadline_is_not_watched(bench: Bench) -> None:
    effects = effects_of(bench)  # it keeps them for 60 s
    await recorded(effects, "t-1", overdue=-61, timeout=61)
    assert len(effects.deadlines) == 0


async def test_it_looks_now_and_then_but_not_while_the_store_is_full(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overdue_deadlines, "LOOK_SECONDS", 0.01)
    effects = effects_of(bench)
    await recorded(effects, "t-1")
    await lose_timer(bench)
    bench.wire.health.refused(topology.DELIBERATIONS, "no space left")
    watch = DeadlineWatch(bench.wire, effects, lost_of(bench, effects))
    assert await watch.look() == 0
    running = asyncio.create_task(watch.run())
    try:
        bench.wire.health.restored(topology.DELIBERATIONS)

        async def ended() -> bool:
            return bool(await bench.endings_of("t-1"))

        await until(ended, "it has ended")
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
