"""Answers `deliberation.service`: each process of the service says what it serves and whether it is ready."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from nats.aio.msg import Msg

from parley.broker.core.errors import BrokerUnavailable
from parley.broker.core.messages import ServiceProcess
from parley.broker.core.reply_subjects import DEFAULT_PREFIXES, may_answer
from parley.broker.jetstream import topology
from parley.broker.jetstream.forgery_counts import Forgery
from parley.broker.jetstream.jetstream import JetStream

log = logging.getLogger("parley.handlers")

# Its checks ask NATS and the model servers: many questions cost one round of them a second.
KEPT_SECONDS = 1.0


class ServiceResponder:
    """`describe` looks at this process. `prefixes`: the reply subjects that this deployment allows."""

    def __init__(
        self,
        jetstream: JetStream,
        describe: Callable[[], Awaitable[ServiceProcess]],
        *,
        prefixes: Sequence[str] = DEFAULT_PREFIXES,
    ) -> None:
        self._jetstream = jetstream
        self._describe = describe
        self._prefixes = tuple(prefixes)
        # The latest answer, and until when (on the loop's clock) it is given.
        self._body = b""
        self._kept_until = 0.0

    async def __call__(self, question: Msg) -> None:
        """Answer. NATS delivers one question after the other, and drops what is too many. Raises nothing."""
        if not may_answer(question.reply, self._prefixes):
            self._jetstream.nc.forgeries.note(Forgery.REPLY_SUBJECT, topology.SERVICE)
            return
        try:
            loop = asyncio.get_running_loop()
            if loop.time() >= self._kept_until:
                self._body = (await self._describe()).encode()
                self._kept_until = loop.time() + KEPT_SECONDS
            await self._jetstream.broadcast(question.reply, self._body)
        except BrokerUnavailable as error:
            log.debug("a question is not answered: %s", error)
        except Exception:
            log.exception("a question is not answered")
