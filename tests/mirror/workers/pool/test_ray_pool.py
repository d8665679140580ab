"""The pool on real Ray: what happens to its jobs when an actor's process is killed, and to a service whose Ray is not there."""

import os
import signal
import socket
import time

import pytest

from parley.broker.core.messages import DeliberationCompleted
from parley.workers.job import MAX_JOB_BYTES
from parley.workers.model.call_policy import CallTimeouts, RetryPolicy
from parley.workers.pool.pool import WorkerConfig
from parley.workers.pool.ray_pool import RESEND_SECONDS, RayPool, RayUnavailable
from tests.harness import ACK_WAIT_SECONDS, ModelServer, Running, until

# With the last sign of life a third of `ack_wait` old, redelivery alone would not come before this.
WITHOUT_GIVING_BACK_SECONDS = ACK_WAIT_SECONDS * 2 / 3


def ray_pool(on: Running) -> RayPool:
    assert isinstance(on.service.pool, RayPool)
    return on.service.pool


async def calls(model: ModelServer, count: int) -> None:
    async def running() -> bool:
        return bool((await model.seen())["running"] == count)

    await until(running, f"{count} calls are at the model server")


@pytest.mark.ray
async def test_the_pool_has_the_slots_of_all_its_actors_each_a_process_of_its_own(
    ray_service: Running,
) -> None:
    pool = ray_pool(ray_service)
    settings = ray_service.settings
    assert pool.slots == settings.pool_actors * settings.pool_slots
    assert pool.problem is None
    assert len({*pool.pids.values(), os.getpid()}) == settings.pool_actors + 1


@pytest.mark.ray
async def test_an_actor_that_is_killed_loses_no_job_and_is_replaced(
    ray_service: Running, model: ModelServer
) -> None:
    pool = ray_pool(ray_service)
    slots, replaced, victim = pool.slots, pool.replaced, pool.pids[1]
    await model.behave(faults={"hang": 1.0})
    # Eight calls over two actors, the idlest first: four each. Only the four that are lost can answer, the others hang on.
    submitted = await ray_service.client.submit(
        "x", agents=8, min_responses=4, finish_early=True, timeout_seconds=60
    )
    await calls(model, 8)
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
    await until(lambda: pool.replaced == replaced + 1, "the actor is replaced")
    assert pool.pids[1] not in (0, victim)
    await model.idle()
    await until(lambda: (pool.slots, pool.busy) == (slots, 0), "all slots are there again, and free")


@pytest.mark.ray
async def test_when_every_actor_is_killed_the_pool_says_so_and_comes_back(
    ray_service: Running, model: ModelServer
) -> None:
    pool = ray_pool(ray_service)
    await model.behave(faults={"hang": 1.0})
    submitted = await ray_service.client.submit("x", agents=4, timeout_seconds=60)
    await calls(model, 4)
    await model.behave()
    for pid in pool.pids.values():
        os.kill(pid, signal.SIGKILL)
    assert await until(lambda: pool.problem, "the pool is not ready") == "no Ray actor is up"
    ending = await ray_service.client.ending(submitted)
    assert isinstance(ending, DeliberationCompleted), ending
    assert not ending.degraded
    assert pool.problem is None


@pytest.mark.ray
async def test_a_job_that_is_lost_on_its_way_to_an_actor_is_handed_over_again_soon(
    ray_service: Running, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = ray_pool(ray_service)
    started = time.monotonic()
    with monkeypatch.context() as patched:
        for member in pool._members:
            patched.setattr(member, "inbox", "nobody.listens.here")
        ending = await ray_service.client.deliberate("x", agents=4, timeout_seconds=60)
    assert isinstance(ending, DeliberationCompleted), ending
    assert not ending.degraded
    # Redelivery alone takes longer.
    assert time.monotonic() - started < min(WITHOUT_GIVING_BACK_SECONDS, 3 * RESEND_SECONDS)
    await until(lambda: pool.busy == 0, "all slots are free again")


@pytest.mark.ray
async def test_a_job_too_large_for_a_message_of_ours_goes_as_a_call(
    ray_service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = ray_pool(ray_service)
    with monkeypatch.context() as patched:
        for member in pool._members:
            patched.setattr(member, "inbox", "nobody.listens.here")
        started = time.monotonic()
        ending = await ray_service.client.deliberate("x" * MAX_JOB_BYTES, agents=2, timeout_seconds=60)
        assert time.monotonic() - started < RESEND_SECONDS, "it was not called, but sought"
    assert isinstance(ending, DeliberationCompleted), ending


@pytest.mark.ray
async def test_a_job_that_cannot_be_sent_is_called(
    ray_service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
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


@pytest.mark.parametrize(
    "address", ["127.0.0.1:{port}", "ray://127.0.0.1:{port}", "no-such-host.invalid:{port}", "127.0.0.1:port"]
)
async def test_a_ray_that_is_not_there_is_told_at_once_in_one_line_that_names_it(address: str) -> None:
    config = WorkerConfig(
        "nats://127.0.0.1:1",
        ("http://127.0.0.1:1",),
        "m",
        None,
        CallTimeouts(),
        RetryPolicy(),
        False,
        1,
        30.0,
        1.0,
    )
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        wrong = address.format(port=nobody.getsockname()[1])
        started = time.monotonic()
        with pytest.raises(RayUnavailable) as caught:
            async with RayPool(config, name="x", actors=1, address=wrong):
                pass
    assert time.monotonic() - started < 20  # Ray itself would try for minutes
    assert caught.value.address == wrong
    assert "\n" not in str(caught.value)
    for word in (wrong, "RAY_ADDRESS", "PARLEY_POOL=local"):
        assert word in str(caught.value)
