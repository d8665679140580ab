"""Takes in what 0.1.0 left: its requests and cancels were in DELIBERATIONS, under consumers of their own there.

Nothing new comes there. Parts of 0.1.0 may run beside and take from the same consumers. When nothing is left the
consumers are deleted.
"""

import asyncio
import logging
from collections.abc import Sequence

import nats.js.errors
from nats.js.api import ConsumerInfo

from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.topology import Durable
from parley.handlers.pull import HandleBatch, PullSubscriber
from parley.handlers.routes import ROUTES

log = logging.getLogger("parley.handlers")

# How often it is asked whether something is left.
CHECK_SECONDS = 2.0


def old_puller(durable: Durable, handle: HandleBatch) -> PullSubscriber:
    """A subscriber of an old consumer, with the limits of the new one for the same subject."""
    (route,) = (route for route in ROUTES if route.durable.filter == durable.filter)
    assert route.limit is not None
    return PullSubscriber(
        durable, handle, batch=route.batch, limit=route.limit, limit_bytes=route.limit_bytes
    )


class OldConsumers:
    def __init__(self, jetstream: JetStream, pullers: Sequence[PullSubscriber]) -> None:
        self._jetstream = jetstream
        self._pullers = list(pullers)

    async def run(self) -> None:
        """Pull for as long as one of the consumers exists. Raises BrokerUnavailable."""
        while True:
            infos = {puller: await self._info(puller.durable) for puller in self._pullers}
            for puller in [puller for puller, info in infos.items() if info is None]:
                self._pullers.remove(puller)
                await puller.stop(None)
            # Both at once: a cancel waits for its request for as long as that may be under the other consumer.
            if not await self._left():
                return
            for puller in self._pullers:
                await puller.start(self._jetstream.nc)
            await asyncio.sleep(CHECK_SECONDS)

    async def _left(self) -> bool:
        """Whether an old consumer still has messages. If none has, they are deleted."""
        durables = (topology.OLD_INTAKE, topology.OLD_CANCELLER)
        infos = {durable: await self._info(durable) for durable in durables}
        if any(info is not None and (info.num_pending or info.num_ack_pending) for info in infos.values()):
            return True
        for puller in self._pullers:
            await puller.stop(None)
        for durable, info in infos.items():
            if info is not None:
                with self._jetstream.translate_errors():
                    await self._jetstream.js.delete_consumer(durable.stream, durable.name)
                log.info("nothing is left of consumer %s/%s of 0.1.0: deleted", durable.stream, durable.name)
        return False

    async def _info(self, durable: Durable) -> ConsumerInfo | None:
        with self._jetstream.translate_errors():
            try:
                info: ConsumerInfo = await self._jetstream.js.consumer_info(durable.stream, durable.name)
            except nats.js.errors.NotFoundError:
                return None
            return info

    async def stop(self, grace_seconds: float | None) -> None:
        for puller in self._pullers:
            await puller.stop(grace_seconds)
