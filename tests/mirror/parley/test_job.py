"""A deliberation in a program's hands: it is waited for, looked at, stopped; by whoever knows its name."""

import asyncio
from contextlib import aclosing

import pytest

import parley
from parley import job as job_module
from parley.broker.core.errors import InvalidMessage
from parley.broker.core.messages import DeliberationCompleted
from parley.client import Client
from parley.client_errors import ClientClosed, NoEnding, UnknownDeliberation
from parley.job import Job
from parley.job_events import AgentAnswered, Ended, JobEvent
from tests.harness import ModelServer, Running, fresh, until


async def all_of(job: Job, after: str | None = None) -> list[JobEvent]:
    async with asyncio.timeout(20):
        return [event async for event in job.events(after=after)]


async def test_a_job_knows_its_name_its_status_and_its_ending(
    local_service: Running, model: ModelServer
) -> None:
    await model.behave(latency_ms=100)
    job = await local_service.client.submit("x", agents=2)
    assert job.task_id == job.own_name
    assert (await job.status()).status in ("PENDING", "IN_PROGRESS")
    ending = await job.ending(timeout=20)
    assert (await job.status()).status == "COMPLETED"
    assert await job.ending() is ending


async def test_a_job_is_cancelled(local_service: Running, model: ModelServer) -> None:
    await model.behave(faults={"hang": 1.0})
    job = await local_service.client.submit("x", timeout_seconds=60)
    await job.cancel("enough")
    assert (await job.ending()).status == "cancelled"


async def test_another_process_waits_for_what_this_one_has_submitted(
    local_service: Running, model: ModelServer
) -> None:
    await model.behave(latency_ms=300)
    submitted = await local_service.client.submit("x", agents=2)
    async with parley.connect(local_service.settings.nats_url or "") as other:
        job = other.job(submitted.task_id)
        assert (await job.ending()) == await submitted.ending()
        assert (await other.job(submitted.task_id).ending(timeout=5)).task_id == submitted.task_id


async def test_a_name_that_nobody_has_asked_under_is_unknown_and_not_running(local_service: Running) -> None:
    job = local_service.client.job(fresh("unknown"))
    for attempt in (job.status(), job.ending(), all_of(job), local_service.client.find(job.task_id)):
        with pytest.raises(UnknownDeliberation, match=f"^{job.task_id}: never stored, or forgotten$"):
            await attempt
    with pytest.raises(InvalidMessage):
        local_service.client.job("a b")


async def test_waiting_has_a_limit_and_several_may_wait(local_service: Running, model: ModelServer) -> None:
    await model.behave(faults={"hang": 1.0})
    job = await local_service.client.submit("x", timeout_seconds=60)
    waits = await asyncio.gather(*(job.ending(timeout=0.2) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(each, NoEnding) for each in waits)
    waiting = [asyncio.create_task(job.ending()) for _ in range(3)]
    await job.cancel()
    assert {ending.status for ending in await asyncio.gather(*waiting)} == {"cancelled"}


async def test_closing_wakes_all_who_wait(local_service: Running, model: ModelServer) -> None:
    await model.behave(faults={"hang": 1.0})
    async with parley.connect(local_service.settings.nats_url or "") as client:
        job = await client.submit("x", timeout_seconds=60)
        waiting = [
            asyncio.create_task(wait)
            for wait in (job.ending(), client.job(job.task_id).ending(), all_of(job))
        ]
        await until(lambda: _status(client, job), "it has begun")
    for task in waiting:
        with pytest.raises(ClientClosed):
            await task
    await local_service.client.cancel(job.task_id)


async def _status(client: Client, job: Job) -> bool:
    return (await job.status()).status == "IN_PROGRESS"


# ── events ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_events_tell_each_report_once_with_its_words_and_the_ending_last(
    local_service: Running, model: ModelServer
) -> None:
    await model.behave(script=["ok", "400", "ok"])
    job = await local_service.client.submit("x", agents=3)
    events = await all_of(job)
    assert events[0].type == "phase"
    assert sorted(event.type for event in events[1:-1]) == ["answer", "answer", "failure"]
    last = events[-1]
    assert isinstance(last, Ended)
    assert isinstance(last.ending, DeliberationCompleted)
    told = {event.agent_id: event.result for event in events if isinstance(event, AgentAnswered)}
    assert told == {result.agent_id: result for result in last.ending.results}


async def test_an_answer_is_told_before_the_others_have_answered(
    local_service: Running, model: ModelServer
) -> None:
    await model.behave(script=["ok", "hang"])
    job = await local_service.client.submit("x", agents=2, timeout_seconds=60)
    async with asyncio.timeout(20), aclosing(job.events()) as events:
        async for event in events:
            if isinstance(event, AgentAnswered):
                assert event.result is not None
                assert event.result.proposal.content
                break
    await job.cancel()


async def test_of_a_choice_each_ballot_is_told(local_service: Running, model: ModelServer) -> None:
    job = await local_service.client.submit("x", agents=3, select="judge", judges=3)
    events = await all_of(job)
    assert [event.phase for event in events if event.type == "phase"] == ["answer", "judge"]
    assert sorted(event.agent_id for event in events if event.type in ("ballot", "failure"))[-3:] == [
        "judge-001", "judge-002", "judge-003",
    ]  # fmt: skip


async def test_another_goes_on_behind_any_event_and_none_comes_twice(
    local_service: Running, model: ModelServer
) -> None:
    await model.behave(latency_ms=100)
    job = await local_service.client.submit("x", agents=4)
    events = await all_of(job)
    async with parley.connect(local_service.settings.nats_url or "") as other:
        for place, event in enumerate(events):
            rest = await all_of(other.job(job.task_id), after=event.id)
            assert rest == events[place + 1 :]


@pytest.mark.parametrize("after", ["2", "x", "1.é", "1.!", "1." + "A" * 5_000])
async def test_what_is_no_id_of_an_event_is_refused(local_service: Running, after: str) -> None:
    with pytest.raises(ValueError, match="no id of an event"):
        await all_of(local_service.client.job("t-1"), after=after)


# ── many ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_first_that_ends_comes_first(local_service: Running, model: ModelServer) -> None:
    await model.behave(faults={"hang": 1.0})
    slow = await local_service.client.submit("slow", agents=1, timeout_seconds=1.5)
    fast = await local_service.client.submit("fast", agents=1, timeout_seconds=0.5)
    ended = [job async for job in local_service.client.as_completed([slow, fast])]
    assert ended == [fast, slow]
    assert (await fast.ending()).status == "timeout"


async def test_a_job_that_cannot_be_waited_for_comes_with_its_error(
    local_service: Running, model: ModelServer
) -> None:
    unknown = local_service.client.job(fresh("unknown"))
    asked = await local_service.client.submit("x", agents=1)
    jobs = [job async for job in local_service.client.as_completed([unknown, asked])]
    assert set(jobs) == {unknown, asked}
    with pytest.raises(UnknownDeliberation):
        await unknown.ending()


async def test_many_questions_come_back_in_their_order_so_many_at_a_time(
    local_service: Running, model: ModelServer
) -> None:
    names = [fresh() for _ in range(12)]
    asked = ({"task_description": "x", "task_id": name} for name in names)
    endings = [ending async for ending in local_service.client.map(asked, limit=4, agents=1)]
    assert [ending.task_id for ending in endings] == names
    texts = local_service.client.map(["a", "b"], agents=2)
    assert [ending.total_agents async for ending in texts] == [2, 2]
    with pytest.raises(InvalidMessage, match="agents"):
        await anext(local_service.client.map([{"task_description": "x", "agents": 0}]))
    with pytest.raises(ValueError, match="limit"):
        await anext(local_service.client.map(["x"], limit=0))


async def test_a_wait_without_a_limit_ends_some_time_after_the_deadline(
    local_service: Running, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for who has not asked itself: the tally says when."""
    monkeypatch.setattr(job_module, "GRACE_SECONDS", 0.3)
    await model.behave(faults={"hang": 1.0})
    asked = await local_service.client.submit("x", agents=1, timeout_seconds=60)
    await until(lambda: local_service.client.tally(asked.task_id), "it is taken in")
    assert await local_service.client.job(asked.task_id)._patience() == pytest.approx(60.3)
    await asked.cancel()
