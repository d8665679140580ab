"""From request to ending, as a client sees it: real NATS, real HTTP, agents in this process and in Ray actors."""

import asyncio
import json
import time
from typing import Any

from parley.broker.core.messages import DeliberationCompleted, DeliberationFailed, Ending
from parley.broker.jetstream import topology
from tests.harness import ModelServer, Running, fresh, until

COMPLETED_FIELDS = {
    "task_id", "status", "degraded", "missing_agents", "failed_agents", "results", "total_agents", "successful_responses",
    "failed_responses", "winner_id", "duration_ms", "completed_at", "metadata",
}  # fmt: skip
FAILED_FIELDS = {
    "task_id", "status", "error", "failed_agents", "missing_agents", "results", "total_agents", "successful_responses",
    "failed_responses", "duration_ms", "timestamp", "metadata",
}  # fmt: skip
THREE = ["agent-dev-001", "agent-dev-002", "agent-dev-003"]


def completed(ending: Ending) -> DeliberationCompleted:
    assert isinstance(ending, DeliberationCompleted), ending
    return ending


def failed(ending: Ending) -> DeliberationFailed:
    assert isinstance(ending, DeliberationFailed), ending
    return ending


async def test_all_agents_fail(on: Running, model: ModelServer) -> None:
    await model.behave(faults={"400": 1.0})
    ending = failed(await on.client.deliberate("x"))
    assert ending.status == "failed"
    assert ending.error == "0 of 3 agents answered, 1 needed"
    assert [agent.agent_id for agent in ending.failed_agents] == THREE
    assert set(await on.ending_of(ending.task_id)) >= FAILED_FIELDS


async def test_finishing_early_ends_at_the_quorum_and_stops_the_rest(on: Running, model: ModelServer) -> None:
    await model.behave(script=["ok", "hang", "hang"])
    ending = completed(
        await on.client.deliberate("x", min_responses=1, finish_early=True, timeout_seconds=60)
    )
    assert not ending.degraded  # as asked
    assert len(ending.results) == 1
    assert (len(ending.stopped_agents), ending.missing_agents) == (2, ())
    await model.idle()  # the two hanging calls are closed before their deadline


async def test_the_deadline_with_enough_answers_completes_degraded(on: Running, model: ModelServer) -> None:
    await model.behave(script=["ok", "hang", "hang"])
    started = time.monotonic()
    ending = completed(await on.client.deliberate("x", timeout_seconds=1.0))
    assert ending.degraded
    assert len(ending.results) == 1
    assert len(ending.missing_agents) == 2
    assert ending.failed_agents == ()
    assert 1.0 <= time.monotonic() - started < 1.0 + 1.0
    await model.idle()


async def test_no_agent_answers(on: Running, model: ModelServer) -> None:
    await model.behave(faults={"hang": 1.0})
    ending = failed(await on.client.deliberate("x", timeout_seconds=0.8))
    assert ending.status == "timeout"
    assert list(ending.missing_agents) == THREE
    assert ending.results == ()
    assert ending.failed_agents == ()
    assert 800 <= ending.duration_ms < 1_800
    await model.idle()


async def test_temporary_failures_are_retried_within_the_deadline(on: Running, model: ModelServer) -> None:
    await model.behave(script=["500", "429", "503", "reset", "truncated", "garbage"])
    ending = completed(await on.client.deliberate("x"))
    assert not ending.degraded
    assert (await model.seen())["completed"] >= 3


async def test_diverse_agents_differ_and_say_how(on: Running, model: ModelServer) -> None:
    submitted = await on.client.submit("x", agents=4, diversity=True)
    ending = completed(await on.client.ending(submitted))
    assert len({result.proposal.content for result in ending.results}) == 4
    assert len({result.proposal.temperature for result in ending.results}) == 4
    mine = [json.loads(msg.data) for msg in await on.outcomes_of(submitted.task_id)]
    assert len({outcome["persona"] for outcome in mine}) == 4
    assert len({outcome["seed"] for outcome in mine}) == 4
    latest = (await model.seen())["latest"][-4:]
    assert {call["seed"] for call in latest} == {outcome["seed"] for outcome in mine}


async def test_a_seed_makes_a_deliberation_repeatable(on: Running) -> None:
    first = completed(await on.client.deliberate("x", seed=7))
    second = completed(await on.client.deliberate("x", seed=7))
    assert [r.proposal.content for r in first.results] == [r.proposal.content for r in second.results]
    assert len({r.proposal.content for r in first.results}) == 3


async def test_the_trace_travels_in_every_message_and_model_call(on: Running, model: ModelServer) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    task_id = fresh()
    await on.publish({"task_description": "x", "task_id": task_id}, headers={"traceparent": trace})
    await on.ending_of(task_id)
    (ending,) = await on.endings_of(task_id)
    assert (ending.headers or {})["traceparent"] == trace
    mine = await on.outcomes_of(task_id)
    assert {(msg.headers or {}).get("traceparent") for msg in mine} == {trace}
    assert [call["traceparent"] for call in (await model.seen())["latest"][-3:]] == [trace] * 3


async def test_a_plain_subscriber_hears_each_ending_once(on: Running) -> None:
    heard: list[str] = []

    async def hear(msg: Any) -> None:
        heard.append(json.loads(msg.data)["task_id"])

    subscription = await on.nats.subscribe("deliberation.completed", cb=hear)
    await on.nats.flush()
    names = [fresh() for _ in range(20)]
    await asyncio.gather(*(on.client.deliberate("x", task_id=name) for name in names))
    await until(lambda: set(names) <= set(heard), "all endings were heard")
    assert sorted(name for name in heard if name in names) == sorted(names)
    await subscription.unsubscribe()


async def test_work_is_gone_from_the_queue_when_the_deliberation_has_ended(on: Running) -> None:
    await on.client.deliberate("x")

    async def empty() -> bool:
        info = await on.nats.jetstream().stream_info(topology.AGENT_REQUESTS)
        return bool(info.state.messages == 0)

    await until(empty, "the work queue is empty")
