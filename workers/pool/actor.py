"""The actor: a `Worker` with its own connections, in a process of its own. Knows nothing of what runs it (`parley.workers.pool.ray_pool` has Ray do it)."""

import asyncio
import logging
import os
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack, suppress

from nats.aio.client import Client
from nats.aio.msg import Msg

from parley.broker.core.errors import InvalidMessage
from parley.broker.host import tune_gc, use_batch_scheduling
from parley.broker.jetstream.connection import close, connect
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.nats_client import NatsClient
from parley.workers.job import Job, unpack
from parley.workers.model.breaker import BreakerStatus
from parley.workers.pool.pool import WorkerConfig, start_worker
from parley.workers.worker import Worker

log = logging.getLogger("parley.workers")

# Settled jobs are reported together: a call an outcome would take the driver's time just when it folds that outcome. A freed slot
# is known at most this late, and at once when a share of this size of an actor's slots has been freed.
COMPANY_SECONDS = 0.05
FULL_SHARE = 8
# Nobody who counts slots sends more than there are; an inbox may be known to others, too. Twice, for a slot is free here before it is known to be.
MOST_SHARE = 2
# How often an actor looks whether its connection is closed for good (a wrong token after a server's reload, say).
LIFELINE_SECONDS = 1.0
# For what was sent to arrive, when it ends: with NATS away there is nothing to wait for.
FLUSH_SECONDS = 1


class WorkerActor:
    """Jobs come to its inbox, or as calls of `begin`."""

    def __init__(self, config: WorkerConfig, name: str) -> None:
        self._config = config
        self._name = name
        self._stack = AsyncExitStack()
        self._worker: Worker | None = None
        self._nc: Client | None = None

    async def start(self) -> tuple[int, str]:
        """Connect. Returns the process id and the inbox, which is listened to by then."""
        nc = self._nc = await connect(self._config.nats_url, self._name)
        self._stack.push_async_callback(close, nc)
        lifeline = asyncio.create_task(self._lifeline(nc))
        self._stack.callback(lifeline.cancel)
        self._worker = await start_worker(self._config, JetStream(nc), self._stack)
        inbox = nc.new_inbox()
        assert isinstance(nc, NatsClient)
        await nc.subscribe_inline(inbox, self._take)
        await nc.flush()
        tune_gc()
        use_batch_scheduling()
        return os.getpid(), inbox

    async def _lifeline(self, nc: Client) -> None:
        """An actor whose connection is closed for good can neither store nor acknowledge: better none, and another instead."""
        while not nc.is_closed:  # noqa: ASYNC110  # nats-py has no event for it, only a callback set as it connects
            await asyncio.sleep(LIFELINE_SECONDS)
        log.error("actor %s: NATS closed the connection for good; ending", self._name)
        os._exit(1)

    def _take(self, message: Msg) -> None:
        assert self._worker is not None
        if self._worker.running >= MOST_SHARE * self._config.slots:
            log.warning("actor %s has more jobs than slots and takes no more for now", self._name)
            return
        try:
            self._worker.begin([unpack(message.data)])
        except InvalidMessage as error:
            log.warning("what came to the inbox of actor %s is ignored: %s", self._name, error)

    async def begin(self, jobs: Sequence[Job]) -> None:
        assert self._worker is not None
        self._worker.begin(jobs)

    async def missing(self, keys: Iterable[str]) -> list[str]:
        """Of these jobs those that never came."""
        assert self._worker is not None
        return self._worker.missing(keys)

    async def finished(self) -> tuple[list[str], tuple[BreakerStatus, ...]]:
        """Keys of the jobs settled since the last call, and how the endpoints look from here. Waits for company: nobody is in a
        hurry while slots are free."""
        assert self._worker is not None
        enough = max(1, self._config.slots // FULL_SHARE)
        return await self._worker.finished(enough, COMPANY_SECONDS), self._worker.breaker_statuses

    async def close(self, posted: Sequence[str] = ()) -> None:
        """Take what has been sent, let it finish within the grace that the config gives, give the rest back. `posted`: what may have been lost on
        its way here; nobody will seek it any more."""
        with suppress(Exception):  # whatever keeps it from coming, what is here is to finish
            if self._nc is not None:
                await self._nc.flush(FLUSH_SECONDS)
        if self._worker is not None:
            await self._worker.give_back(self._worker.missing(posted))
        await self._stack.aclose()
