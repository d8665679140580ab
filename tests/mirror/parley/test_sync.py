"""The client without an event loop: the same words, from any thread."""

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import parley.sync
from parley.broker.core.errors import BrokerUnavailable, InvalidMessage
from parley.client_errors import ClientClosed, UnknownDeliberation
from tests.harness import ModelServer, Running, fresh


async def in_thread(work: object) -> object:
    assert callable(work)
    async with asyncio.timeout(30):
        return await asyncio.to_thread(work)


async def test_a_script_asks_waits_looks_and_cancels(local_service: Running, model: ModelServer) -> None:
    url = local_service.settings.nats_url

    def script() -> None:
        with parley.sync.connect(url) as client:
            ending = client.deliberate("x", agents=2)
            assert ending.status == "completed"
            job = client.submit("x", agents=1, task_id=fresh())
            assert [event.type for event in job.events()] == ["phase", "answer", "ending"]
            assert job.ending() == client.find(job.task_id)
            assert client.job(job.task_id).ending() == job.ending()
            assert job.status().status == client.status(job.task_id).status == "COMPLETED"
            assert job.task_id in [tally.task_id for tally in client.tallies()]
            assert [each.total_agents for each in client.map(["a", "b"], agents=2, limit=1)] == [2, 2]
            jobs = [client.submit("x", agents=1) for _ in range(3)]
            assert set(client.as_completed(jobs)) == set(jobs)
            with pytest.raises(UnknownDeliberation):
                client.job(fresh("unknown")).status()
            with pytest.raises(InvalidMessage):
                client.deliberate("x", agents=0)

    await in_thread(script)


async def test_reading_events_may_stop_early(local_service: Running, model: ModelServer) -> None:
    await model.behave(faults={"hang": 1.0})
    url = local_service.settings.nats_url

    def script() -> None:
        with parley.sync.connect(url) as client:
            job = client.submit("x", agents=1, timeout_seconds=60)
            for event in job.events():
                assert event.type == "phase"
                break
            job.cancel("enough")
            assert job.ending().status == "cancelled"

    await in_thread(script)


async def test_many_threads_share_one(local_service: Running, model: ModelServer) -> None:
    url = local_service.settings.nats_url

    def script() -> None:
        with parley.sync.connect(url) as client, ThreadPoolExecutor(8) as threads:
            endings = list(threads.map(lambda _: client.deliberate("x", agents=1), range(16)))
        assert len({ending.task_id for ending in endings}) == 16

    await in_thread(script)


async def test_closing_wakes_a_thread_that_waits_and_leaves_none(
    local_service: Running, model: ModelServer
) -> None:
    await model.behave(faults={"hang": 1.0})
    url = local_service.settings.nats_url

    def script() -> None:
        before = threading.active_count()
        client = parley.sync.connect(url)
        job = client.submit("x", agents=1, timeout_seconds=60)
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(job.ending)
            assert next(job.events()).type == "phase"
            client.close()
            with pytest.raises(ClientClosed):
                waiting.result(10)
        client.close()
        with pytest.raises(ClientClosed):
            client.status(job.task_id)
        assert threading.active_count() == before
        with parley.sync.connect(url) as other:
            other.cancel(job.task_id)

    await in_thread(script)


def test_where_nothing_listens_it_says_so_and_leaves_no_thread() -> None:
    before = threading.active_count()
    with pytest.raises(BrokerUnavailable):
        parley.sync.connect("nats://127.0.0.1:9")
    assert threading.active_count() == before


async def test_after_a_fork_it_says_what_to_do(
    local_service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = local_service.settings.nats_url

    def script() -> None:
        with parley.sync.connect(url) as client:
            monkeypatch.setattr(client, "_pid", os.getpid() + 1)
            with pytest.raises(RuntimeError, match="connect in each process"):
                client.status("t-1")
            monkeypatch.undo()

    await in_thread(script)
