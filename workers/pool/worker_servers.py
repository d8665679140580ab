"""The model servers that a worker asks, which may be replaced while it runs."""

import asyncio
import secrets
from collections.abc import Collection, Sequence
from contextlib import AsyncExitStack

from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.limit_store import LimitStore
from parley.workers.agent import Agent
from parley.workers.model.endpoint_failover import FailoverClient
from parley.workers.model.model_server import ModelServer
from parley.workers.model.model_servers import ModelServers, SharedLimits
from parley.workers.model.served_models import ServedModels
from parley.workers.pool.worker_config import WorkerConfig
from parley.workers.worker import Worker


class WorkerServers:
    """Close it with `close`, once no call runs."""

    def __init__(self, config: WorkerConfig, wire: JetStream) -> None:
        self._config = config
        self._wire = wire
        # Closes the connections to the servers in use.
        self._stack = AsyncExitStack()
        # Those that wait for their last calls.
        self._leaving: set[asyncio.Task[None]] = set()

    async def open(self, servers: Sequence[ModelServer]) -> Agent:
        """What asks these from now on."""
        config, now = self._config, self._wire.clock.now
        limited = any(server.limited for server in servers)
        # Another name each time: calls that still run with the servers before have a share of their own.
        limits = SharedLimits(LimitStore(self._wire), secrets.token_hex(6), now) if limited else None
        called = ModelServers(
            servers,
            timeouts=config.timeouts,
            stream=config.stream,
            connections=config.slots,
            limits=limits,
        )
        stack = AsyncExitStack()
        model = await stack.enter_async_context(called)
        served = ServedModels(model, model.endpoints, config.model)
        served.start()
        balancer = FailoverClient(
            model,
            model.endpoints,
            config.retry,
            config.breaker_policy,
            config.timeouts.probe,
            now=now,
            served=served,
            weights={server.endpoint: server.weight for server in servers if server.weight != 1.0},
            limited=model if limited else None,
        )
        stack.push_async_callback(balancer.close)
        self._stack = stack
        return Agent(balancer, config.model, now, config.roles)

    async def replace(self, worker: Worker, servers: Sequence[ModelServer]) -> None:
        """Have the worker ask these. What runs goes on where it is; after it those connections are closed."""
        before = self._stack
        running = worker.use(await self.open(servers))
        leaving = asyncio.create_task(_close_after(running, before), name="leaving-servers")
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

    async def close(self) -> None:
        await asyncio.gather(*self._leaving, return_exceptions=True)
        await self._stack.aclose()


async def _close_after(running: Collection["asyncio.Task[None]"], stack: AsyncExitStack) -> None:
    if running:
        await asyncio.wait(running)
    await stack.aclose()
