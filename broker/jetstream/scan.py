"""Reading what a stream holds now, from one sequence to its end, without guessing when that is.

A push consumer sends before anybody knows how much there is: nats-py's `watchall` asks for the count after its subscription, and
takes "nothing is pending" for "nothing is there" when all of it is on its way already. Here nothing is sent before it is asked for:
the answer that creates the consumer has the count, and each message says how many come after it.
"""

from collections.abc import AsyncGenerator
from contextlib import suppress

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from parley.broker.core.errors import BrokerUnavailable, StreamNotFound
from parley.broker.jetstream.acks import next_subject, pull_request
from parley.broker.jetstream.connection import PUBLISH_TIMEOUT_SECONDS
from parley.broker.jetstream.jetstream import JetStream

# Messages asked for at a time. nats-py drops what it holds beyond 128 MiB; with the usual 1 MiB a message this stays below.
BATCH = 100
# The server forgets a reader that has not asked for so long: one that died.
FORGOTTEN_SECONDS = 60.0

_NO_SUCH_STREAM = 10059
# No messages, and no more messages.
_AT_THE_END = frozenset({"404", "408"})


async def walk(
    wire: JetStream, stream: str, subject: str, *, first: int = 1, batch: int = BATCH
) -> AsyncGenerator[Msg, None]:
    """Every message under `subject` from sequence `first` on, oldest first, until there is none left.

    What changes meanwhile is seen if it changes ahead of the reader. Close it (`contextlib.aclosing`) if it may be left early.
    Raises StreamNotFound, BrokerUnavailable.
    """
    # Messages come whole. Never ask for headers_only: nats-server 2.15.1 dies of a stored message whose headers are a single byte.
    config = ConsumerConfig(
        deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
        opt_start_seq=max(1, first),
        filter_subject=subject,
        ack_policy=AckPolicy.NONE,
        inactive_threshold=FORGOTTEN_SECONDS,
        mem_storage=True,
    )
    with wire.translate_errors():
        try:
            info = await wire.js.add_consumer(stream, config)
        except nats.js.errors.NotFoundError as error:
            if error.err_code == _NO_SUCH_STREAM:
                raise StreamNotFound(stream) from error
            raise
    try:
        async for message in _asked_for(wire, stream, info.name, info.num_pending or 0, batch):
            yield message
    finally:
        with suppress(nats.errors.Error, TimeoutError):  # the server forgets it anyway
            await wire.js.delete_consumer(stream, info.name)


async def _asked_for(
    wire: JetStream, stream: str, consumer: str, pending: int, batch: int
) -> AsyncGenerator[Msg, None]:
    inbox = wire.nc.new_inbox()
    with wire.translate_errors():
        subscription = await wire.nc.subscribe(inbox)
    try:
        while pending:
            wanted = min(pending, batch)
            with wire.translate_errors():
                await wire.nc.publish(next_subject(stream, consumer), pull_request(wanted), reply=inbox)
            for _ in range(wanted):
                with wire.translate_errors():
                    message = await subscription.next_msg(timeout=PUBLISH_TIMEOUT_SECONDS)
                if not message.reply:
                    status = (message.headers or {}).get("Status", "")
                    if status in _AT_THE_END:
                        return  # others removed what was still to come
                    raise BrokerUnavailable(
                        "the connected server", f"reading {stream} was ended with status {status}"
                    )
                pending = message.metadata.num_pending
                yield message
    finally:
        with suppress(nats.errors.Error):
            await subscription.unsubscribe()
