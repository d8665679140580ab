"""Whether the NATS users of this process and of its workers have the rights that they need, for /readyz and doctor."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from parley.broker.asyncio_helpers import BackgroundLoop
from parley.broker.core.errors import Unavailable
from parley.broker.core.reply_subjects import WORKER_INBOX
from parley.broker.jetstream.connection import close, connect
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.rights import needed_by_service, needed_by_worker
from parley.broker.jetstream.rights_watch import RightsWatch
from parley.handlers.routes import Part
from parley.settings import Settings

# Seconds between two looks at the workers' rights, each on a connection of its own; and while one lacks.
WORKER_SECONDS, LACKING_SECONDS = 60.0, 10.0


class RightsCheck:
    """`limited`: whether a model server has a limit by now."""

    def __init__(
        self,
        settings: Settings,
        jetstream: JetStream,
        parts: frozenset[Part],
        limited: Callable[[], bool] = lambda: False,
    ) -> None:
        nc, prefixes = jetstream.nc, settings.allowed_reply_prefixes
        needed = needed_by_service(parts, inbox=nc.inbox_prefix, reply_prefixes=prefixes)
        self._own = RightsWatch(nc, needed)
        # The workers' NATS, if this process has workers.
        self._worker_url = settings.worker_nats_url or settings.nats_url if Part.DISPATCH in parts else None
        self._worker_access = settings.worker_nats_access
        self._limited = limited
        # What the workers lack, or None.
        self._workers: str | None = None

    async def problem(self) -> str | None:
        return "; ".join(filter(None, (self._own.problem, self._workers))) or None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look now and then while the block lasts."""
        loops = [BackgroundLoop(self._own.run, "the watch over rights")]
        if self._worker_url is not None:
            loops.append(BackgroundLoop(self._watch_workers, "the watch over the workers' rights"))
        try:
            yield
        finally:
            for loop in loops:
                loop.cancel()

    async def _watch_workers(self) -> None:
        while True:
            await self._look_at_workers()
            await asyncio.sleep(WORKER_SECONDS if self._workers is None else LACKING_SECONDS)

    async def _look_at_workers(self) -> None:
        assert self._worker_url is not None, "only then does it run"
        try:
            nc = await connect(self._worker_url, "parley-worker-rights", WORKER_INBOX, self._worker_access)
        except Unavailable:
            return  # the pool says why its workers cannot connect
        nc.is_second = True
        try:
            needed = needed_by_worker(nc.inbox_prefix, limited=self._limited())
            self._workers = await RightsWatch(nc, needed, "workers").look()
        finally:
            await close(nc)
