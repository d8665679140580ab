"""Jobs go from the queue to the pool; those that no deliberation waits for are dropped."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from parley.broker.core.events_and_effects import CancelRequested, Reported, Requested
from parley.broker.core.messages import AgentCancel, AgentFailed, AgentRequested, ErrorType, decode
from parley.broker.core.timestamps import format_timestamp
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream, StoredMessage
from parley.broker.jetstream.tally_store import TallyStore
from parley.broker.jetstream.topology import DISPATCH
from parley.handlers import dispatch as dispatching
from parley.handlers.delivery import Delivery
from parley.handlers.dispatch import MAX_JOB_DELIVERIES, Dispatch
from parley.handlers.settle import MAX_DELIVERIES, Settler
from parley.workers.job_message import AgentJob
from parley.workers.model.model_server import ModelServer
from parley.workers.model.pool_endpoint_status import EndpointStatus
from tests.harness import until
from tests.mirror.handlers import Bench, UnreadableBucket

ONE, TWO = "agent-dev-001", "agent-dev-002"

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Hands:
    """A pool that takes jobs and does nothing with them: settling is the worker's business, not dispatch's."""

    slots, busy, unready_reason, fatal_reason = 8, 0, None, None
    endpoint_statuses: Mapping[str, EndpointStatus] = MappingProxyType({})

    def __init__(self) -> None:
        self.handed: list[list[AgentJob]] = []

    def free_slots(self) -> int:
        return self.slots

    async def wait_free_slots(self) -> int:
        return self.slots

    async def use_servers(self, servers: Sequence[ModelServer]) -> None: ...

    async def submit(self, jobs: Sequence[AgentJob]) -> None:
        self.handed.append(list(jobs))


@pytest.fixture
def pool() -> Hands:
    return Hands()


def dispatch_of(bench: Bench, pool: Hands, wire: JetStream | None = None) -> Dispatch:
    return Dispatch(
        bench.wire,
        TallyStore(wire or bench.wire, keep_seconds=60),
        pool,
        Settler(bench.wire, DISPATCH, bench.notes),
    )


@pytest.fixture
def dispatch(bench: Bench, pool: Hands) -> Dispatch:
    return dispatch_of(bench, pool)


def work(task_id: str = "t-1", agent: str = ONE, **overrides: Any) -> dict[str, Any]:
    now = time.time()
    fields = {
        "task_id": task_id, "agent_id": agent, "agent_number": 1, "role": "DEV", "num_agents": 2, "task_description": "x",
        "requested_at": format_timestamp(now), "deadline": format_timestamp(now + 60), "metadata": {"a": "b"},
    }  # fmt: skip
    return {**fields, **overrides}


async def record(bench: Bench, *events: Any, task_id: str = "t-1") -> None:
    """A deliberation of two agents, to which this then happened."""
    now = time.time()
    request = Requested(task_id, seq=1, at=now, deadline=now + 60, role="DEV", num_agents=2)
    await TallyStore(bench.wire, keep_seconds=60).apply(
        task_id, [(event, now) for event in (request, *events)]
    )


async def again(bench: Bench, count: int = 1) -> list[Delivery[Any]]:
    """Work that was handed out before and came back: old enough to be looked up."""
    for delivery in await bench.taken(DISPATCH, count):
        await delivery.nak()
    return await bench.taken(DISPATCH, count)


# ── handed over ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_work_is_handed_over_as_it_is_to_settle(bench: Bench, dispatch: Dispatch, pool: Hands) -> None:
    await bench.publish(topology.AGENT_REQUESTED, work(), {"traceparent": TRACE})
    (delivery,) = await bench.taken(DISPATCH)
    await dispatch([delivery])
    assert pool.handed == [[AgentJob(key=delivery.msg.reply, body=delivery.data, traceparent=TRACE)]]
    assert not delivery.msg.is_acked
    info = await bench.js.consumer_info(DISPATCH.stream, DISPATCH.name)
    assert info.num_ack_pending == 1
    # Its reply subject is all a worker needs, on a connection of its own.
    await bench.nc.publish(pool.handed[0][0].key, b"+ACK")
    await bench.settled(DISPATCH)


async def test_what_came_together_goes_together(bench: Bench, dispatch: Dispatch, pool: Hands) -> None:
    for number in range(1, 6):
        await bench.publish(topology.AGENT_REQUESTED, work(agent=f"agent-dev-{number:03d}"))
    await dispatch(await bench.taken(DISPATCH, 5))
    (jobs,) = pool.handed
    assert [json.loads(job.body)["agent_id"] for job in jobs] == [
        f"agent-dev-{number:03d}" for number in range(1, 6)
    ]


async def test_a_fresh_job_is_submitted_without_reading_its_tally(bench: Bench, pool: Hands) -> None:
    class Blind(JetStream):
        """Must not be asked."""

        async def get_last(self, stream: str, subject: str) -> StoredMessage | None:
            raise AssertionError("asked for a tally")

    await bench.publish(topology.AGENT_REQUESTED, work())
    await dispatch_of(bench, pool, Blind(bench.nc))(await bench.taken(DISPATCH))
    assert len(pool.handed) == 1


async def test_work_that_came_back_is_handed_over_again_while_its_agent_is_missing(
    bench: Bench, dispatch: Dispatch, pool: Hands
) -> None:
    await record(bench, Reported(TWO, 1, 5))
    await bench.publish(topology.AGENT_REQUESTED, work())
    await dispatch(await again(bench))
    assert [len(jobs) for jobs in pool.handed] == [1]


# ── dropped ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_work_of_a_cancelled_one_is_dropped(bench: Bench, dispatch: Dispatch, pool: Hands) -> None:
    dispatch.cancel(AgentCancel(task_id="t-1", reason="changed my mind").encode())
    for name in ("t-1", "t-2"):
        await bench.publish(topology.AGENT_REQUESTED, work(name))
    await dispatch(await bench.taken(DISPATCH, 2))
    ((job,),) = pool.handed
    assert json.loads(job.body)["task_id"] == "t-2"
    await bench.nc.publish(job.key, b"+ACK")
    await bench.settled(DISPATCH)
    assert await bench.dead_letters() == []


@pytest.mark.parametrize("junk", [b"", b"nope", b'{"task_id": ">"}', b"[]"])
async def test_a_bad_cancel_drops_nothing(bench: Bench, dispatch: Dispatch, pool: Hands, junk: bytes) -> None:
    dispatch.cancel(junk)
    await bench.publish(topology.AGENT_REQUESTED, work())
    await dispatch(await bench.taken(DISPATCH))
    assert len(pool.handed) == 1


@pytest.mark.parametrize(
    ("happened", "fields"),
    [
        ((CancelRequested(),), {}),
        ((Reported(ONE, 1, 5),), {}),
        ((Reported(ONE, 1, 5), Reported(TWO, 1, 6)), {}),
        ((), {"agent_id": "agent-dev-003"}),
        ((), {"round": 2}),
        (None, {}),
    ],
    ids=["ended", "has reported", "all have reported", "no such agent", "another round", "forgotten"],
)
async def test_a_redelivered_job_that_is_no_longer_wanted_is_dropped(
    bench: Bench, dispatch: Dispatch, pool: Hands, happened: Sequence[Any] | None, fields: dict[str, Any]
) -> None:
    if happened is not None:
        await record(bench, *happened)
    await bench.publish(topology.AGENT_REQUESTED, work(**fields))
    await dispatch(await again(bench))
    assert pool.handed == []
    await bench.settled(DISPATCH)
    assert await bench.dead_letters() == []


async def test_the_tally_of_a_job_that_waited_long_is_read_too(
    bench: Bench, dispatch: Dispatch, pool: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatching, "STALE_SECONDS", 0.05)
    await record(bench, CancelRequested())
    await bench.publish(topology.AGENT_REQUESTED, work())
    (delivery,) = await bench.taken(DISPATCH)
    await until(lambda: time.time() > delivery.at + 0.06, "it is stale")
    await dispatch([delivery])
    assert (delivery.count, pool.handed) == (1, [])
    await bench.settled(DISPATCH)


async def test_a_cached_tally_of_an_earlier_deliberation_of_the_same_name_drops_no_job(
    bench: Bench, dispatch: Dispatch, pool: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatching, "STALE_SECONDS", 0.05)
    former = Requested("t-1", seq=1, at=0.0, deadline=time.time() + 60, role="DEV", num_agents=3)
    await dispatch._tallies.apply("t-1", [(former, 0.0), (Reported(ONE, 1, 5), 1.0)], new=True)
    bucket = await bench.js.key_value(topology.TALLIES_BUCKET)
    await bucket.purge("t-1")
    await TallyStore(bench.wire, keep_seconds=60).apply("t-1", [(replace(former, seq=9), 2.0)])
    await bench.publish(topology.AGENT_REQUESTED, work())
    (delivery,) = await bench.taken(DISPATCH)
    await until(lambda: time.time() > delivery.at + 0.06, "it is stale")
    await dispatch([delivery])
    assert [len(jobs) for jobs in pool.handed] == [1]


# ── set aside ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_job_that_kills_its_worker_each_time_is_dead_lettered_and_its_agent_fails(
    bench: Bench, dispatch: Dispatch, pool: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatching, "MAX_JOB_DELIVERIES", 2)
    await record(bench)
    await bench.publish(topology.AGENT_REQUESTED, work())
    for count in (1, 2):
        (delivery,) = await bench.taken(DISPATCH)
        assert delivery.count == count
        await dispatch([delivery])
        await delivery.nak()  # as the server does when the worker is gone
    await dispatch(await bench.taken(DISPATCH))
    assert [len(jobs) for jobs in pool.handed] == [1, 1]
    (stored,) = await bench.all_of(topology.AGENT_RESPONSES, topology.AGENT_FAILED)
    outcome = decode(AgentFailed, stored.data)
    assert (outcome.task_id, outcome.agent_id, outcome.round) == ("t-1", ONE, 1)
    assert (outcome.error_type, outcome.metadata) == (ErrorType.INTERNAL_ERROR, {"a": "b"})
    assert "handed out 2 times and never finished" in outcome.error
    assert stored.headers["Nats-Msg-Id"] == f"t-1:{ONE}:1"
    (letter,) = await bench.dead_letters()
    assert letter.subject == "deadletter.agent.requested"
    assert decode(AgentRequested, letter.data).agent_id == ONE
    assert letter.headers["Parley-Deliveries"] == "3"
    await bench.settled(DISPATCH)


async def test_the_answer_of_an_agent_stands_when_its_job_is_dead_lettered(
    bench: Bench, dispatch: Dispatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatching, "MAX_JOB_DELIVERIES", 1)
    first = (await bench.wire.publish(topology.AGENT_COMPLETED, b"{}", msg_id=f"t-1:{ONE}:1")).seq
    await bench.publish(topology.AGENT_REQUESTED, work())
    await dispatch(await again(bench))
    assert (await bench.js.stream_info(topology.AGENT_RESPONSES)).state.last_seq == first


def test_losing_a_worker_is_forgiven_more_often_than_a_bug() -> None:
    assert MAX_JOB_DELIVERIES > MAX_DELIVERIES


@pytest.mark.parametrize("body", [b"", b"nope", b"{}", b'{"task_id": "t-1"}', b"\xff"])
async def test_a_bad_job_is_dead_lettered(bench: Bench, dispatch: Dispatch, pool: Hands, body: bytes) -> None:
    await bench.publish(topology.AGENT_REQUESTED, body)
    await bench.publish(topology.AGENT_REQUESTED, work())
    await dispatch(await bench.taken(DISPATCH, 2))
    (letter,) = await bench.dead_letters()
    assert letter.data == body
    assert [len(jobs) for jobs in pool.handed] == [1]
    assert bench.notes.lines == ["dead-lettered agent.requested"]


async def test_work_whose_tally_cannot_be_read_now_is_given_back(bench: Bench, pool: Hands) -> None:
    await bench.publish(topology.AGENT_REQUESTED, work())
    await dispatch_of(bench, pool, UnreadableBucket(bench.nc))(await again(bench))
    assert pool.handed == []
    (delivery,) = await asyncio.wait_for(bench.taken(DISPATCH), 10)
    assert delivery.count == 3
    assert await bench.dead_letters() == []
