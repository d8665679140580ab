"""A cancel ends what runs, and waits for a request that may still be on its way."""

from dataclasses import replace

import pytest

from parley.broker.core.messages import AgentCancel, DeliberationFailed, decode
from parley.broker.core.observer import Observer
from parley.broker.core.reactions import CANCEL_AHEAD_SECONDS
from parley.broker.core.states_and_moves import State
from parley.broker.jetstream import topology
from parley.broker.jetstream.topology import CANCELLER, INTAKE
from parley.handlers import cancel as cancelling
from parley.handlers.cancel import Cancel
from parley.handlers.delivery import ACK, Retry
from parley.handlers.effects import EffectRunner
from parley.handlers.intake import Bounds, Intake
from parley.handlers.settle import Runner
from tests import present
from tests.mirror.handlers import Bench, effects_of, runner_of


@pytest.fixture
def effects(bench: Bench) -> EffectRunner:
    return effects_of(bench)


@pytest.fixture
def cancel(bench: Bench, effects: EffectRunner, monkeypatch: pytest.MonkeyPatch) -> Runner:
    monkeypatch.setattr(cancelling, "REQUEST_WAIT_SECONDS", 0.05)
    return runner_of(bench, CANCELLER, Cancel(bench.wire, effects).handle)


@pytest.fixture
def intake(bench: Bench, effects: EffectRunner) -> Runner:
    return runner_of(bench, INTAKE, Intake(effects, Observer(), Bounds(256, 300.0)).handle)


async def request(bench: Bench, task_id: str = "t-1") -> None:
    await bench.publish(topology.REQUESTED, {"task_id": task_id, "task_description": "x"})


async def test_a_cancel_ends_it_and_stops_its_agents(bench: Bench, cancel: Runner, intake: Runner) -> None:
    stopped = await bench.nc.subscribe(topology.AGENT_CANCEL)
    await bench.nc.flush()
    await request(bench)
    await intake(await bench.taken(INTAKE))
    await bench.publish(topology.CANCEL, {"task_id": "t-1", "reason": "changed my mind"})
    await cancel(await bench.taken(CANCELLER))
    (ending,) = await bench.endings_of("t-1")
    assert isinstance(ending, DeliberationFailed)
    assert (ending.status, ending.error) == ("cancelled", "cancelled: changed my mind")
    heard = decode(AgentCancel, (await stopped.next_msg(timeout=5)).data)
    assert heard == AgentCancel(task_id="t-1", reason="cancelled: changed my mind")
    await bench.settled(CANCELLER)
    assert bench.notes.lines == ["ended cancelled"]


async def test_a_cancel_waits_for_a_later_request(bench: Bench, cancel: Runner, intake: Runner) -> None:
    await request(bench)
    await bench.publish(topology.CANCEL, {"task_id": "t-1"})
    for count in (1, 2, 3):  # intake has not come to it yet
        batch = await bench.taken(CANCELLER)
        assert batch[0].count == count
        await cancel(batch)
    await intake(await bench.taken(INTAKE))
    assert present(await bench.tally_of("t-1")).state is State.PENDING
    await cancel(await bench.taken(CANCELLER))
    assert [ending.status for ending in await bench.endings_of("t-1")] == ["cancelled"]
    await bench.settled(CANCELLER)
    assert await bench.dead_letters() == []


async def test_a_cancel_waits_for_a_held_request(bench: Bench, cancel: Runner, intake: Runner) -> None:
    await request(bench)
    in_hand = await bench.taken(INTAKE)
    await bench.publish(topology.CANCEL, {"task_id": "t-1"})
    await cancel(await bench.taken(CANCELLER))
    await intake(in_hand)
    (again,) = batch = await bench.taken(CANCELLER)
    assert again.count == 2
    await cancel(batch)
    assert [ending.status for ending in await bench.endings_of("t-1")] == ["cancelled"]


async def test_an_unknown_cancel_is_done_after_intake(
    bench: Bench, cancel: Runner, intake: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancelling, "CANCEL_AHEAD_SECONDS", 0.0)
    await request(bench, "another")
    await intake(await bench.taken(INTAKE))
    await bench.settled(INTAKE)
    await bench.publish(topology.CANCEL, {"task_id": "nobody"})
    await cancel(await bench.taken(CANCELLER))
    await bench.settled(CANCELLER)
    assert await bench.tally_of("nobody") is None
    assert await bench.endings_of("nobody") == []


async def test_an_unknown_cancel_waits_for_intake_only(
    bench: Bench, cancel: Runner, intake: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancelling, "CANCEL_AHEAD_SECONDS", 0.0)
    await request(bench, "before")
    await intake(await bench.taken(INTAKE))
    await bench.publish(topology.CANCEL, {"task_id": "nobody"})
    await request(bench, "after")
    await cancel(await bench.taken(CANCELLER))
    again = await bench.taken(CANCELLER)
    assert again[0].count == 2
    await intake(await bench.taken(INTAKE))
    await bench.settled(INTAKE)
    await request(bench, "much later")  # and what intake has not come to yet came after the cancel anyway
    await cancel(again)
    await bench.settled(CANCELLER)


async def test_a_cancel_that_is_stored_before_its_request_stops_it(
    bench: Bench, cancel: Runner, intake: Runner
) -> None:
    await bench.publish(topology.CANCEL, {"task_id": "t-1", "reason": "on second thoughts"})
    await cancel(await bench.taken(CANCELLER))  # intake has nothing to do, and the request may still come
    await request(bench)
    await intake(await bench.taken(INTAKE))
    await cancel(await bench.taken(CANCELLER))
    (ending,) = await bench.endings_of("t-1")
    assert isinstance(ending, DeliberationFailed)
    assert (ending.status, ending.error) == ("cancelled", "cancelled: on second thoughts")
    await bench.settled(CANCELLER)


async def test_a_cancel_of_long_ago_stops_no_later_deliberation_of_the_name(
    bench: Bench, effects: EffectRunner, cancel: Runner, intake: Runner
) -> None:
    """Redelivered after an absence, or kept waiting: the name may have become another deliberation's."""
    await bench.publish(topology.CANCEL, {"task_id": "t-1"})
    (delivery,) = await bench.taken(CANCELLER)
    await request(bench)
    await intake(await bench.taken(INTAKE))
    old = replace(delivery, at=delivery.at - CANCEL_AHEAD_SECONDS - 5)
    assert await cancel._handle(old) == ACK
    assert present(await bench.tally_of("t-1")).state is State.PENDING
    assert await cancel._handle(delivery) == ACK
    assert present(await bench.tally_of("t-1")).state is State.CANCELLED


async def test_a_cancel_of_an_unknown_name_is_looked_at_more_and_more_seldom(
    bench: Bench, effects: EffectRunner
) -> None:
    await request(bench, "another")  # intake is away
    await bench.publish(topology.CANCEL, {"task_id": "t-1"})
    (delivery,) = await bench.taken(CANCELLER)
    handle = Cancel(bench.wire, effects).handle
    waits = [await handle(replace(delivery, count=count)) for count in range(1, 12)]
    assert waits == [Retry(min(0.5 * 2**n, 8.0)) for n in range(11)]
    hours_old = replace(delivery, at=delivery.at - 9_000, count=400)
    assert await handle(hours_old) == Retry(30.0)


async def test_in_a_crowd_cancels_of_unknown_names_wait_shortly_and_ask_together(
    bench: Bench, effects: EffectRunner, intake: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cancelling, "CROWD", 3)
    questions = await bench.nc.subscribe(f"$JS.API.CONSUMER.INFO.{INTAKE.stream}.{INTAKE.name}")
    await bench.nc.flush()
    for number in range(5):
        await bench.publish(topology.CANCEL, {"task_id": f"nobody-{number}"})
    deliveries = await bench.taken(CANCELLER, 5)
    handle = Cancel(bench.wire, effects).handle
    waits = [await handle(delivery) for delivery in deliveries]
    assert waits == [Retry(0.5)] * 3 + [Retry(cancelling.CROWD_AHEAD_SECONDS)] * 2
    later = [replace(each, at=each.at - cancelling.CROWD_AHEAD_SECONDS, count=2) for each in deliveries]
    assert [await handle(each) for each in later[:3]] == [ACK] * 3
    assert questions.pending_msgs == 1
    # The others are no crowd: their requests may come within the minute.
    assert await handle(later[3]) == Retry(1.0)


@pytest.mark.parametrize(
    "body", [b"", b"nope", b"{}", b'{"task_id": "../x"}', b'{"task_id": "t-1", "reason": 5}']
)
async def test_an_invalid_cancel_is_dead_lettered(bench: Bench, cancel: Runner, body: bytes) -> None:
    await bench.publish(topology.CANCEL, body)
    await cancel(await bench.taken(CANCELLER))
    (letter,) = await bench.dead_letters()
    assert (letter.subject, letter.data) == ("deadletter.deliberation.cancel", body)
    await bench.settled(CANCELLER)
