"""The pool without Ray: one worker in this process, for tests and laptops."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Self

from parley.broker.asyncio_helpers import BackgroundLoop
from parley.broker.core.reply_subjects import WORKER_INBOX
from parley.broker.jetstream.connection import close, connect
from parley.broker.jetstream.jetstream import JetStream
from parley.workers.job_message import AgentJob
from parley.workers.model.model_server import ModelServer
from parley.workers.pool.pool import WorkerPool, start_worker
from parley.workers.pool.worker_config import WorkerConfig
from parley.workers.pool.worker_servers import WorkerServers
from parley.workers.worker import Worker

# The number of the only worker.
ONLY = 0


class LocalPool(WorkerPool):
    """Use as an async context manager."""

    def __init__(self, config: WorkerConfig) -> None:
        super().__init__(config.servers, slots_each=config.slots)
        self._config = config
        # Closes the worker and its connection.
        self._stack = AsyncExitStack()
        # Both None until the pool has started.
        self._worker: Worker | None = None
        self._servers: WorkerServers | None = None

    async def __aenter__(self) -> Self:
        nc = await connect(
            self._config.nats_url, "parley-worker-local", WORKER_INBOX, self._config.nats_access
        )
        nc.is_second = True  # beside the service's own
        self._stack.push_async_callback(close, nc)
        worker, self._servers = await start_worker(self._config, JetStream(nc), self._stack)
        self._worker = worker
        self._add_worker(ONLY)
        self._stack.callback(BackgroundLoop(partial(self._watch, worker), "the pool's watch").cancel)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    @property
    def unready_reason(self) -> str | None:
        return None if self._worker is not None else "the pool has not started"

    @property
    def fatal_reason(self) -> str | None:
        return None

    async def use_servers(self, servers: Sequence[ModelServer]) -> None:
        await super().use_servers(servers)
        if self._worker is not None and self._servers is not None:
            await self._servers.replace(self._worker, servers)

    async def submit(self, jobs: Sequence[AgentJob]) -> None:
        assert self._worker is not None
        shares, _ = self._assign(jobs)
        for share in shares.values():
            self._worker.start_jobs(share)

    async def _watch(self, worker: Worker) -> None:
        while True:
            settled = await worker.finished()
            self._statuses.update(ONLY, worker.breaker_statuses)
            self._settle(ONLY, settled)
