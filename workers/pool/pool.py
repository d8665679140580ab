"""What a pool of workers is, and how a worker is started.

A pool has slots. The dispatcher asks how many are free, takes that many messages from the work queue and submits them
as jobs. Everything else waits in the stream, where another replica can take it. Pools: `local_pool` and `ray_pool`.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Protocol

from parley.broker.asyncio_helpers import BackgroundLoop, Capacity
from parley.broker.jetstream.jetstream import JetStream
from parley.workers.job_message import AgentJob
from parley.workers.model.model_server import ModelServer
from parley.workers.model.pool_endpoint_status import EndpointStatus, EndpointStatuses
from parley.workers.pool.job_book import RESEND_SECONDS, JobBook
from parley.workers.pool.worker_config import WorkerConfig
from parley.workers.pool.worker_servers import WorkerServers
from parley.workers.worker import Worker


class Pool(Protocol):
    @property
    def slots(self) -> int:
        """How many jobs can run at once. Fewer while an actor is being replaced."""
        ...

    @property
    def busy(self) -> int:
        """How many jobs run."""
        ...

    def free_slots(self) -> int:
        """How many jobs `submit` takes now."""
        ...

    async def wait_free_slots(self) -> int:
        """Wait until at least one slot is free. Returns how many are."""
        ...

    async def submit(self, jobs: Sequence[AgentJob]) -> None:
        """Take these jobs over. Never more than there are free slots."""
        ...

    async def use_servers(self, servers: Sequence[ModelServer]) -> None:
        """From now on ask these model servers. Calls that run go on where they are."""
        ...

    @property
    def endpoint_statuses(self) -> Mapping[str, EndpointStatus]:
        """How the workers see each endpoint, by `host:port`."""
        ...

    @property
    def unready_reason(self) -> str | None:
        """Why the pool cannot work at the moment, for readiness; None when it can."""
        ...

    @property
    def fatal_reason(self) -> str | None:
        """Why the pool will not work again in this process, for its supervisor; None while it may."""
        ...


class WorkerPool:
    """What all pools share: workers with `slots_each` slots, a job book, and a slot taken for each job in it."""

    def __init__(
        self, servers: Iterable[ModelServer], *, slots_each: int, resend_seconds: float = RESEND_SECONDS
    ) -> None:
        self._book = JobBook(resend_seconds)
        # The slots of the workers that are up.
        self._capacity = Capacity(0)
        self._slots_each = slots_each
        self._statuses = EndpointStatuses(_labels(servers))

    @property
    def slots(self) -> int:
        return self._capacity.total

    @property
    def busy(self) -> int:
        return self._capacity.taken

    def free_slots(self) -> int:
        return self._capacity.free

    async def wait_free_slots(self) -> int:
        return await self._capacity.wait_free()

    async def use_servers(self, servers: Sequence[ModelServer]) -> None:
        self._statuses.set_endpoints(_labels(servers))

    @property
    def endpoint_statuses(self) -> Mapping[str, EndpointStatus]:
        return self._statuses.by_endpoint

    def _add_worker(self, worker: int) -> None:
        self._book.add_worker(worker)
        self._statuses.add_worker(worker)
        self._capacity.resize(self._capacity.total + self._slots_each)

    def _remove_worker(self, worker: int) -> list[AgentJob]:
        """Returns the jobs to be given back."""
        jobs = self._book.remove_worker(worker)
        self._statuses.remove_worker(worker)
        self._capacity.resize(self._capacity.total - self._slots_each)
        self._capacity.give(len(jobs))
        return jobs

    def _assign(self, jobs: Sequence[AgentJob]) -> tuple[dict[int, list[AgentJob]], list[AgentJob]]:
        """Returns what each worker is to be sent, and the jobs to be given back."""
        shares, unplaced = self._book.assign(jobs)
        self._capacity.take(sum(map(len, shares.values())))
        return shares, unplaced

    def _settle(self, worker: int, keys: Iterable[str]) -> None:
        self._capacity.give(self._book.settle(worker, keys))


def _labels(servers: Iterable[ModelServer]) -> list[str]:
    return [server.endpoint.label for server in servers]


async def start_worker(
    config: WorkerConfig, wire: JetStream, stack: AsyncExitStack
) -> tuple[Worker, WorkerServers]:
    """A started worker, and the model servers that it asks; `stack` closes both."""
    await wire.clock.measure()
    stack.callback(BackgroundLoop(wire.clock.run, "the clock").cancel)
    servers = WorkerServers(config, wire)
    stack.push_async_callback(servers.close)
    worker = Worker(wire, await servers.open(config.servers), config.ack_wait_seconds)
    await worker.start()
    stack.push_async_callback(worker.close, config.drain_seconds)
    return worker, servers
