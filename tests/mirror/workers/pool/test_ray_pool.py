"""The pool on real Ray: what becomes of its jobs when an actor is killed, or when they are lost on their way."""

import logging
import os
import signal
import time
from collections.abc import Collection

import pytest

from parley.broker.core.messages import DeliberationCompleted
from parley.workers.job_message import MAX_JOB_BYTES
from parley.workers.pool import ray_pool as ray_pool_module
from parley.workers.pool.job_book import RESEND_SECONDS
from parley.workers.pool.ray_pool import RayPool
from parley.workers.pool.ray_room import Lack
from tests.harness import ACK_WAIT_SECONDS, ModelServer, Running, until
from tests.mirror.workers.pool.test_actor_logs import CONFIG

# With the last sign of life a third of `ack_wait` old, redelivery alone would not come before this.
WITHOUT_GIVING_BACK_SECONDS = ACK_WAIT_SECONDS * 2 / 3


def ray_pool(on: Running) -> RayPool:
    assert isinstance(on.service.pool, RayPool)
    return on.service.pool


async def pids(pool: RayPool) -> list[int]:
    """The process id of each actor."""
    return [await slot.actor.__ray_call__.remote(lambda _: os.getpid()) for slot in pool._actor_slots]


@pytest.mark.ray
async def test_the_pool_has_the_slots_of_all_its_actors_in_processes(ray_service: Running) -> None:
    pool = ray_pool(ray_service)
    settings = ray_service.settings
    assert pool.slots == settings.pool_actors * settings.pool_slots
    assert pool.unready_reason is None
    assert len({*await pids(pool), os.getpid()}) == settings.pool_actors + 1


@pytest.mark.ray
async def test_a_killed_actor_loses_no_job_and_is_replaced(ray_service: Running, model: ModelServer) -> None:
    pool = ray_pool(ray_service)
    slots, before, (victim, other) = pool.slots, pool._actor_slots[0].generation, await pids(pool)
    await model.behave(faults={"hang": 1.0})
    # Eight calls over two actors, the least loaded first: four each. Only the four that are lost can answer, the
    # others hang on.
    submitted = await ray_service.client.submit(
        "x", agents=8, min_responses=4, finish_early=True, timeout_seconds=60
    )
    await model.runs(8)
    assert pool.busy == 8
    await model.behave()
    os.kill(victim, signal.SIGKILL)
    killed = time.monotonic()
    ending = await ray_service.client.ending(submitted)
    assert time.monotonic() - killed < WITHOUT_GIVING_BACK_SECONDS, (
        "the jobs waited for ack_wait instead of going back at once"
    )
    assert isinstance(ending, DeliberationCompleted), ending
    assert len(ending.results) == 4
    assert ending.failed_agents == ()
    await until(lambda: (pool.slots, pool.busy) == (slots, 0), "all slots are there again, and free")
    assert pool._actor_slots[0].generation == before + 1, "the actor is replaced once"
    assert victim not in await pids(pool)
    assert other in await pids(pool)
    await model.idle()


@pytest.mark.ray
async def test_a_pool_whose_actors_die_says_so_and_recovers(ray_service: Running, model: ModelServer) -> None:
    pool = ray_pool(ray_service)
    await model.behave(faults={"hang": 1.0})
    submitted = await ray_service.client.submit("x", agents=4, timeout_seconds=60)
    await model.runs(4)
    await model.behave()
    for pid in await pids(pool):
        os.kill(pid, signal.SIGKILL)
    assert await until(lambda: pool.unready_reason, "the pool is not ready") == "no Ray actor is up"
    ending = await ray_service.client.ending(submitted)
    assert isinstance(ending, DeliberationCompleted), ending
    assert not ending.degraded
    assert pool.unready_reason is None


@pytest.mark.ray
async def test_a_job_that_is_lost_on_its_way_to_an_actor_is_soon_sent_again(
    ray_service: Running, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = ray_pool(ray_service)
    started = time.monotonic()
    with monkeypatch.context() as patched:
        for slot in pool._actor_slots:
            patched.setattr(slot, "inbox", "nobody.listens.here")
        ending = await ray_service.client.deliberate("x", agents=4, timeout_seconds=60)
    assert isinstance(ending, DeliberationCompleted), ending
    assert not ending.degraded
    # Redelivery alone takes longer.
    assert time.monotonic() - started < min(WITHOUT_GIVING_BACK_SECONDS, 3 * RESEND_SECONDS)
    await until(lambda: pool.busy == 0, "all slots are free again")


@pytest.mark.ray
async def test_a_too_large_job_goes_as_a_call(ray_service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = ray_pool(ray_service)
    with monkeypatch.context() as patched:
        for slot in pool._actor_slots:
            patched.setattr(slot, "inbox", "nobody.listens.here")
        started = time.monotonic()
        ending = await ray_service.client.deliberate("x" * MAX_JOB_BYTES, agents=1, timeout_seconds=60)
        assert time.monotonic() - started < RESEND_SECONDS, "it was sent over NATS, lost, and resent"
    assert isinstance(ending, DeliberationCompleted), ending


@pytest.mark.ray
async def test_a_job_not_sent_goes_as_a_call(ray_service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = ray_pool(ray_service)
    assert pool._nc is not None

    async def refuse(*_: object, **__: object) -> None:
        raise OSError("the socket is closed")

    with monkeypatch.context() as patched:
        patched.setattr(pool._nc, "publish", refuse)
        ending = await ray_service.client.deliberate("x", agents=4, timeout_seconds=60)
    assert isinstance(ending, DeliberationCompleted), ending
    assert not ending.degraded
    await until(lambda: pool.busy == 0, "all slots are free again")


@pytest.mark.ray
async def test_what_an_actor_logs_is_logged_here_with_its_time_and_level(
    ray_service: Running, caplog: pytest.LogCaptureFixture
) -> None:
    pool = ray_pool(ray_service)
    slot = pool._actor_slots[0]
    before = time.time()
    await slot.actor.__ray_call__.remote(
        lambda _: list(map(logging.getLogger("parley.workers").warning, ["same words"] * 3))
    )
    after = time.time()

    def found() -> list[logging.LogRecord]:
        return [record for record in caplog.records if "same words" in record.getMessage()]

    await until(lambda: len(found()) == 3, "each of them came")
    for record in found():
        assert (record.name, record.levelname) == ("parley.workers", "WARNING")
        assert record.getMessage() == f"{slot.name(pool._name)}: same words"
        assert before <= record.created <= after


class CrowdedCluster:
    """A cluster in which nothing finds a place."""

    def __init__(self, found: Lack | None) -> None:
        self.found = found

    async def lack(self, unstarted: Collection[object]) -> Lack | None:
        assert unstarted
        return self.found


@pytest.mark.parametrize("lasting", [True, False])
async def test_a_pool_whose_actors_find_no_place_any_more_says_so(
    lasting: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pool = RayPool(CONFIG, name="x", actors=1, address="auto")
    cluster = CrowdedCluster(Lack("no CPUs are free", "Add some", lasting))
    monkeypatch.setattr(pool, "_cluster", cluster)
    assert pool.unready_reason == "no Ray actor is up"
    await pool._look_for_room()
    pool._actor_slots[0].starting = object()
    await pool._look_for_room()
    if not lasting:
        assert pool.unready_reason == "no Ray actor is up", "its process may still be starting"
        monkeypatch.setattr(ray_pool_module, "PROCESS_SECONDS", 0.0)
        await pool._look_for_room()
    await pool._look_for_room()
    assert pool.unready_reason == "no Ray actor is up: no CPUs are free. Add some"
    assert caplog.text.count("no new actor yet: no CPUs are free. Add some") == 1
