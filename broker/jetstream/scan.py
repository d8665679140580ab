"""Read a stream from one sequence to its end.

nats-py's `watchall` subscribes first and asks for the count later. If all messages are on their way by then, it
reports an empty stream. Here the reader pulls. The answer that creates the consumer has the count, and each message
says how many are left.
"""

from collections.abc import AsyncGenerator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from parley.broker.core.errors import BrokerUnavailable, StreamNotFound
from parley.broker.jetstream.acks_and_pulls import batch_limit, next_subject, pull_request
from parley.broker.jetstream.connection import PUBLISH_TIMEOUT_SECONDS
from parley.broker.jetstream.forgery_counts import Forgery
from parley.broker.jetstream.jetstream import JetStream

# Messages a request. nats-py drops what a subscription holds beyond 128 MiB; with the usual limit of 1 MiB a message
# this stays below.
BATCH = 100
# The server removes the consumer of a reader that has died after this long without a request.
INACTIVE_SECONDS = 60.0

_STREAM_NOT_FOUND = 10059
# "No messages" and "request timeout": the stream's end.
_AT_THE_END = frozenset({"404", "408"})


async def scan(
    jetstream: JetStream,
    stream: str,
    subject: str,
    *,
    first: int = 1,
    since: float | None = None,
    batch: int = BATCH,
) -> AsyncGenerator[Msg, None]:
    """Every message under `subject` from sequence `first` on, oldest first, up to the stream's end.

    `since`: from this instant (seconds since the epoch, by the server's clock) on, instead.

    Sees changes that other processes make ahead of the reader. Use `contextlib.aclosing` if it may be left early.
    Raises StreamNotFound, BrokerUnavailable.
    """
    # Never ask for headers_only: nats-server 2.15.1 crashes at a stored message whose headers are a single byte.
    start: dict[str, Any] = {
        "deliver_policy": DeliverPolicy.BY_START_SEQUENCE,
        "opt_start_seq": max(1, first),
    }
    if since is not None:
        at = datetime.fromtimestamp(since, UTC)
        start = {"deliver_policy": DeliverPolicy.BY_START_TIME, "opt_start_time": at}
    config = ConsumerConfig(
        **start,
        filter_subject=subject,
        ack_policy=AckPolicy.NONE,
        inactive_threshold=INACTIVE_SECONDS,
        mem_storage=True,
    )
    with jetstream.translate_errors():
        try:
            info = await jetstream.js.add_consumer(stream, config)
        except nats.js.errors.NotFoundError as error:
            if error.err_code == _STREAM_NOT_FOUND:
                raise StreamNotFound(stream) from error
            raise
    try:
        async for message in _pull(jetstream, stream, info.name, info.num_pending or 0, batch):
            yield message
    finally:
        with suppress(nats.errors.Error, TimeoutError):  # the server removes it anyway
            await jetstream.js.delete_consumer(stream, info.name)


async def _pull(
    jetstream: JetStream, stream: str, consumer: str, pending: int, batch: int
) -> AsyncGenerator[Msg, None]:
    inbox = jetstream.nc.new_inbox()
    with jetstream.translate_errors():
        subscription = await jetstream.nc.subscribe(inbox)
    is_allowed = False
    try:
        while pending:
            wanted = min(pending, batch)
            with jetstream.translate_errors():
                # A round trip more, until it is known to be allowed.
                send = jetstream.nc.publish if is_allowed else jetstream.nc.ask
                await send(next_subject(stream, consumer), pull_request(wanted), inbox)
            is_allowed = True
            for _ in range(wanted):
                with jetstream.translate_errors():
                    message = await subscription.next_msg(timeout=PUBLISH_TIMEOUT_SECONDS)
                if not message.reply:
                    headers = message.headers or {}
                    status, limit = headers.get("Status", ""), batch_limit(headers.get("Description", ""))
                    if limit is not None and limit < batch:
                        batch = limit
                        break
                    if status in _AT_THE_END:
                        return  # another process removed the rest
                    raise BrokerUnavailable(
                        "the connected server", f"reading {stream} was ended with status {status}"
                    )
                if not message.reply.startswith("$JS.ACK."):
                    jetstream.nc.forgeries.note(Forgery.DELIVERY, stream)
                    continue
                pending = message.metadata.num_pending
                yield message
    finally:
        with suppress(nats.errors.Error):
            await subscription.unsubscribe()
