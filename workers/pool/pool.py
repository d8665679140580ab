"""What a pool of agents is, and the plain asyncio one.

A pool has slots. The dispatcher asks how many are free, takes that many messages from the work queue and hands them over;
whatever waits, waits in the stream, where another replica can take it. The Ray pool is in `parley.workers.pool.ray_pool`.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Protocol, Self

from parley.broker.jetstream.connection import close, connect
from parley.broker.jetstream.jetstream import JetStream
from parley.workers.agent import Agent
from parley.workers.job import Job
from parley.workers.model.balancer import EndpointBalancer
from parley.workers.model.breaker import BreakerPolicy
from parley.workers.model.call_policy import CallTimeouts, RetryPolicy
from parley.workers.model.client import ModelClient
from parley.workers.model.endpoint import Endpoint
from parley.workers.model.endpoint_status import EndpointStatus, EndpointStatuses
from parley.workers.worker import Worker


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """Everything a worker needs to know. Plain values: it crosses to Ray."""

    nats_url: str
    endpoints: tuple[str, ...]
    model: str
    api_key: str | None
    timeouts: CallTimeouts
    retry: RetryPolicy
    stream: bool
    slots: int
    ack_wait_seconds: float
    drain_seconds: float
    breaker_policy: BreakerPolicy = field(default_factory=BreakerPolicy)


class Pool(Protocol):
    @property
    def slots(self) -> int:
        """How many jobs can run at once."""
        ...

    @property
    def busy(self) -> int:
        """How many do."""
        ...

    @property
    def problem(self) -> str | None:
        """Why the pool cannot work at the moment, for readiness; None when it can."""
        ...

    @property
    def breakers(self) -> Mapping[str, EndpointStatus]:
        """How the workers see each endpoint, by `host:port`."""
        ...

    @property
    def lost(self) -> str | None:
        """Why the pool will not work again in this process, for its supervisor; None while it may."""
        ...

    async def room(self, wait: bool = True) -> int:
        """How many slots are free; with `wait`, not before there is at least one."""
        ...

    async def submit(self, jobs: Sequence[Job]) -> None:
        """Take these over. Never more than `room` said."""
        ...


class Slots:
    """Counts what is free and wakes who waits for it."""

    def __init__(self, slots: int) -> None:
        self.total = slots
        self.taken = 0
        self._freed = asyncio.Event()

    async def room(self, wait: bool = True) -> int:
        while wait and self.total - self.taken < 1:
            self._freed.clear()
            await self._freed.wait()
        return max(0, self.total - self.taken)

    def take(self, count: int) -> None:
        self.taken += count

    def free(self, count: int) -> None:
        self.taken -= count
        self._freed.set()

    def resize(self, total: int) -> None:
        self.total = total
        self._freed.set()


async def start_worker(config: WorkerConfig, wire: JetStream, stack: AsyncExitStack) -> Worker:
    """A started worker with a model client and a balancer of its own; `stack` closes them."""
    model = await stack.enter_async_context(
        ModelClient(
            api_key=config.api_key, timeouts=config.timeouts, stream=config.stream, connections=config.slots
        )
    )
    balancer = EndpointBalancer(
        model,
        tuple(Endpoint(url) for url in config.endpoints),
        config.retry,
        config.breaker_policy,
        config.timeouts.probe,
    )
    stack.push_async_callback(balancer.close)
    worker = Worker(wire=wire, agent=Agent(balancer, config.model), ack_wait_seconds=config.ack_wait_seconds)
    await worker.start()
    stack.push_async_callback(worker.close, config.drain_seconds)
    return worker


class LocalPool:
    """One worker in this process: for tests, and for a laptop without Ray. Use as an async context manager."""

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self._slots = Slots(config.slots)
        self._statuses = EndpointStatuses(Endpoint(url).label for url in config.endpoints)
        self._stack = AsyncExitStack()
        self._worker: Worker | None = None

    async def __aenter__(self) -> Self:
        nc = await connect(self._config.nats_url, "parley-worker-local")
        self._stack.push_async_callback(close, nc)
        self._worker = await start_worker(self._config, JetStream(nc), self._stack)
        self._statuses.add_worker(0)
        watch = asyncio.create_task(self._watch(self._worker), name="pool-watch")
        self._stack.callback(watch.cancel)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    @property
    def slots(self) -> int:
        return self._slots.total

    @property
    def busy(self) -> int:
        return self._slots.taken

    @property
    def problem(self) -> str | None:
        return None if self._worker is not None else "the pool has not started"

    @property
    def lost(self) -> str | None:
        return None

    @property
    def breakers(self) -> Mapping[str, EndpointStatus]:
        return self._statuses.by_endpoint

    async def room(self, wait: bool = True) -> int:
        return await self._slots.room(wait)

    async def submit(self, jobs: Sequence[Job]) -> None:
        assert self._worker is not None
        self._slots.take(len(jobs))
        self._worker.begin(jobs)

    async def _watch(self, worker: Worker) -> None:
        while True:
            settled = await worker.finished()
            self._statuses.update(0, worker.breaker_statuses)
            self._slots.free(len(settled))
