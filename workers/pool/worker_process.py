"""The actor: a `Worker` with its own connections, in a process of its own.

Knows nothing of Ray; `parley.workers.pool.ray_pool` runs it there.
"""

import asyncio
import logging
import os
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack, suppress

from nats.aio.msg import Msg

from parley.broker.core.errors import InvalidMessage
from parley.broker.core.reply_subjects import WORKER_INBOX
from parley.broker.jetstream.connection import close, connect
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.nats_client import NatsClient
from parley.broker.process_tuning import tune_gc, use_batch_scheduling
from parley.workers.job_message import AgentJob, unpack
from parley.workers.model.breaker import BreakerStatus
from parley.workers.model.model_server import ModelServer
from parley.workers.pool.pool import start_worker
from parley.workers.pool.worker_config import WorkerConfig
from parley.workers.pool.worker_servers import WorkerServers
from parley.workers.worker import Worker

log = logging.getLogger("parley.workers")

# Settled jobs are reported together: a call for each outcome would take the driver's time just when it folds that
# outcome. The driver hears of a freed slot this late at most, and at once when one slot in `BATCH_SHARE` is freed.
LINGER_SECONDS = 0.05
BATCH_SHARE = 8
# Safety limit: this many times the slots. The dispatcher never sends more jobs than slots, but others may know the
# inbox. Twice the slots, because a slot is freed here before the dispatcher hears of it.
MAX_LOAD = 2
# When an actor closes, it waits this long for messages on their way. While NATS is away there are none.
FLUSH_SECONDS = 1


class WorkerActor:
    """Takes jobs from its inbox, and as calls of `start_jobs`."""

    def __init__(self, config: WorkerConfig, name: str) -> None:
        self._config = config
        self._name = name
        # Closes the worker and its connection.
        self._stack = AsyncExitStack()
        # None until `start`.
        self._worker: Worker | None = None
        self._servers: WorkerServers | None = None
        self._nc: NatsClient | None = None

    async def start(self) -> str:
        """Connect. Returns the inbox, to which the actor is subscribed by then."""
        nc = self._nc = await connect(
            self._config.nats_url, self._name, WORKER_INBOX, self._config.nats_access
        )
        self._stack.push_async_callback(close, nc)
        lifeline = asyncio.create_task(self._lifeline(nc))
        self._stack.callback(lifeline.cancel)
        self._worker, self._servers = await start_worker(self._config, JetStream(nc), self._stack)
        inbox = nc.new_inbox()
        await nc.subscribe_inline(inbox, self._take)
        await nc.flush()
        tune_gc()
        use_batch_scheduling()
        return inbox

    async def _lifeline(self, nc: NatsClient) -> None:
        """End the process once its connection is closed for good (a wrong token after a server's reload, say).

        Such an actor can neither store nor acknowledge anything; the pool replaces it.
        """
        await nc.wait_closed()
        log.error("actor %s: NATS closed the connection for good; ending", self._name)
        os._exit(1)

    def _take(self, message: Msg) -> None:
        assert self._worker is not None
        if self._worker.running >= MAX_LOAD * self._config.slots:
            log.warning("actor %s has more jobs than slots and takes no more for now", self._name)
            return
        try:
            self._worker.start_jobs([unpack(message.data)])
        except InvalidMessage as error:
            log.warning("what came to the inbox of actor %s is ignored: %s", self._name, error)

    async def use_servers(self, servers: Sequence[ModelServer]) -> None:
        assert self._worker is not None
        assert self._servers is not None
        await self._servers.replace(self._worker, servers)

    async def start_jobs(self, jobs: Sequence[AgentJob]) -> None:
        assert self._worker is not None
        self._worker.start_jobs(jobs)

    async def missing(self, keys: Iterable[str]) -> list[str]:
        """Those of these jobs that never arrived here."""
        assert self._worker is not None
        return self._worker.missing(keys)

    async def finished(self) -> tuple[list[str], tuple[BreakerStatus, ...]]:
        """Wait for settled jobs or a breaker's change. Returns the keys settled since, and each endpoint's status."""
        assert self._worker is not None
        batch_size = max(1, self._config.slots // BATCH_SHARE)
        return await self._worker.finished(batch_size, LINGER_SECONDS), self._worker.breaker_statuses

    async def close(self, unconfirmed: Sequence[str] = ()) -> None:
        """Take what has been sent, let it finish within the config's `drain_seconds`, give the rest back.

        `unconfirmed`: keys of jobs sent here that may not have arrived. Those that have not are given back, too.
        """
        with suppress(Exception):  # whatever it is, the jobs that are here must finish
            if self._nc is not None:
                await self._nc.flush(FLUSH_SECONDS)
        if self._worker is not None:
            await self._worker.give_back(self._worker.missing(unconfirmed))
        await self._stack.aclose()
