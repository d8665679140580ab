"""What the NATS scheduler says is judged by the server's clock, and by the tally."""

import time

import pytest

from parley.broker.core.events_and_effects import CancelRequested, EndingPublished, Event, Reported, Requested
from parley.broker.core.messages import DeliberationCompleted, DeliberationFailed
from parley.broker.core.states_and_moves import State
from parley.broker.jetstream import topology
from parley.broker.jetstream.tally_store import TallyStore
from parley.broker.jetstream.topology import EXPIRY
from parley.handlers.expire import Expire
from parley.handlers.settle import Runner, Settler
from tests import present
from tests.mirror.handlers import Bench, effects_of, lost_of, runner_of

ONE, TWO = "agent-dev-001", "agent-dev-002"


def expire_of(bench: Bench) -> Expire:
    effects = effects_of(bench)
    return Expire(effects, lost_of(bench, effects))


@pytest.fixture
def expire(bench: Bench) -> Runner:
    return runner_of(bench, EXPIRY, expire_of(bench).handle)


async def record(
    bench: Bench, seconds: float, *events: Event, task_id: str = "t-1", minimum: int = 1
) -> float:
    """A deliberation of two agents whose time is up `seconds` from now; its deadline."""
    now = time.time()
    request = Requested(
        task_id, seq=1, at=now - 60, deadline=now + seconds, role="DEV", num_agents=2, min_responses=minimum
    )
    ledger = TallyStore(bench.wire, keep_seconds=60)
    # Seen in time, so that what happened counts.
    await ledger.apply(task_id, [(event, now - 60) for event in (request, *events)])
    return request.deadline


async def due(bench: Bench, expire: Runner, task_id: str = "t-1") -> None:
    """The scheduler says that its time is up."""
    await bench.publish(topology.deadline_subject(task_id), {"task_id": task_id})
    await expire(await bench.taken(EXPIRY))
    await bench.settled(EXPIRY)


async def test_a_deliberation_times_out_and_its_agents_are_stopped(bench: Bench, expire: Runner) -> None:
    stopped = await bench.nc.subscribe(topology.AGENT_CANCEL)
    await bench.nc.flush()
    await record(bench, -1.0)
    await due(bench, expire)
    (ending,) = await bench.endings_of("t-1")
    assert isinstance(ending, DeliberationFailed)
    assert (ending.status, ending.missing_agents) == ("timeout", (ONE, TWO))
    assert "with 0 of 2 agents heard" in ending.error
    assert b"t-1" in (await stopped.next_msg(timeout=5)).data
    assert bench.notes.lines == ["ended timeout"]


async def test_a_timer_that_fires_early_is_armed_anew_and_ends_nothing(bench: Bench, expire: Runner) -> None:
    await record(bench, 600.0)
    await due(bench, expire)
    assert present(await bench.tally_of("t-1")).state is State.PENDING
    assert await bench.wire.get_last(topology.DELIBERATIONS, "deliberation.timer.t-1") is not None
    assert await bench.endings_of("t-1") == []


async def test_a_timer_armed_anew_ends_it_when_its_time_has_come(bench: Bench, expire: Runner) -> None:
    deadline = await record(bench, 0.3)
    await bench.publish(
        topology.deadline_subject("t-1"), {"task_id": "t-1"}
    )  # a forger's, or a clock's that was set back
    await expire(await bench.taken(EXPIRY))
    (fired,) = batch = await bench.taken(EXPIRY)
    assert fired.at >= deadline
    await expire(batch)
    assert [ending.status for ending in await bench.endings_of("t-1")] == ["timeout"]
    await bench.settled(EXPIRY)


async def test_a_deadline_doubled_or_delivered_again_ends_it_once(bench: Bench, expire: Runner) -> None:
    await record(bench, -1.0)
    for _ in range(3):
        await bench.publish(topology.deadline_subject("t-1"), {"task_id": "t-1"})
    batch = await bench.taken(EXPIRY, 3)
    await expire(batch)
    assert len(await bench.endings_of("t-1")) == 1
    await bench.settled(EXPIRY)


async def test_a_deadline_of_an_ended_one_changes_nothing(bench: Bench, expire: Runner) -> None:
    await record(bench, -1.0, CancelRequested(), EndingPublished(99))
    before = await bench.tally_of("t-1")
    await due(bench, expire)
    assert await bench.tally_of("t-1") == before
    assert await bench.endings_of("t-1") == []


async def test_a_deadline_publishes_a_decided_ending_left_unpublished(bench: Bench, expire: Runner) -> None:
    await record(bench, -1.0, CancelRequested("changed my mind"))
    await due(bench, expire)
    (ending,) = await bench.endings_of("t-1")
    assert isinstance(ending, DeliberationFailed)
    assert (ending.status, ending.error) == ("cancelled", "cancelled: changed my mind")


async def test_a_deadline_of_an_unknown_deliberation_is_acknowledged(bench: Bench, expire: Runner) -> None:
    await due(bench, expire, "nobody")
    assert await bench.tally_of("nobody") is None
    assert await bench.dead_letters() == []
    assert bench.notes.lines == []


@pytest.mark.parametrize("body", [b"", b"nope", b"{}", b'{"task_id": "../x"}'])
async def test_an_invalid_deadline_is_dead_lettered(bench: Bench, expire: Runner, body: bytes) -> None:
    await bench.publish(topology.deadline_subject("t-1"), body)
    await expire(await bench.taken(EXPIRY))
    (letter,) = await bench.dead_letters()
    assert (letter.subject, letter.data) == ("deadletter.deliberation.deadline.t-1", body)
    await bench.settled(EXPIRY)
    assert bench.notes.lines == ["dead-lettered deliberation.deadline.*"]


async def test_an_ending_that_no_process_can_compose_is_published_without_its_results(bench: Bench) -> None:
    await record(bench, -1.0, Reported(ONE, 1, seq=1))
    await bench.publish(topology.deadline_subject("t-1"), {"task_id": "t-1"})
    (delivery,) = await bench.taken(EXPIRY)
    for _ in range(2):
        await expire_of(bench).give_up(delivery.without_payload(), "it ends each process")
    (ending,) = await bench.endings_of("t-1")
    assert isinstance(ending, DeliberationCompleted)
    assert (ending.results, ending.left_out, ending.missing_agents) == ((), ("results",), (TWO,))
    assert (ending.successful_responses, ending.degraded) == (1, True)
    assert present(await bench.tally_of("t-1")).ending_seq is not None


async def test_a_deadline_of_no_deliberation_is_given_up_in_peace(bench: Bench) -> None:
    await bench.publish(topology.deadline_subject("t-1"), {"task_id": "t-1"})
    (delivery,) = await bench.taken(EXPIRY)
    await expire_of(bench).give_up(delivery.without_payload(), "it ends each process")
    assert await bench.endings_of("t-1") == []


async def test_many_deadlines_that_come_together_all_end_their_deliberations(bench: Bench) -> None:
    expire = expire_of(bench)
    together = Runner(Settler(bench.wire, EXPIRY, bench.notes), expire.handle, expire.prepare)
    names = [f"t-{number}" for number in range(40)]
    for name in names:
        await record(bench, -1.0, task_id=name)
        await bench.publish(topology.deadline_subject(name), {"task_id": name})
    await bench.publish(topology.deadline_subject("nobody"), {"task_id": "nobody"})
    await together(await bench.taken(EXPIRY, len(names) + 1))
    await bench.settled(EXPIRY)
    assert bench.notes.lines == ["ended timeout"] * len(names)
