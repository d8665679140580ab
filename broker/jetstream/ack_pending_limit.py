"""Fits a consumer to an account or a server that allows fewer unacknowledged messages (max_ack_pending) than Parley asks
for. That is safe: no more work is handed out than is allowed, and the rest waits in the stream.

A consumer that was fitted says so in its metadata: its lower limit is no difference, and a later start tries for more.
"""

import logging
import re

from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig
from nats.js.errors import APIError

from parley.broker.jetstream.topology import Durable

log = logging.getLogger("parley.broker")

# "consumer max ack pending exceeds system limit of 1000": the server says so of its own limit and of the account's.
ACK_PENDING_EXCEEDED = 10121
_LIMIT = re.compile(r"limit of ([0-9]{1,18})")
# In the metadata of a fitted consumer: the limit that it was fitted to.
FITTED = "parley_fitted_max_ack_pending"


def is_fitted(config: ConsumerConfig) -> bool:
    """Whether its limit is the most that was allowed when it was made. One that somebody changed since is not."""
    return (config.metadata or {}).get(FITTED) == str(config.max_ack_pending)


async def add_consumer(
    js: JetStreamContext, stream: str, config: ConsumerConfig, name: str
) -> ConsumerConfig:
    """As nats-py's, with as many unacknowledged messages as are allowed. Returns what was asked for. Raises as
    nats-py's."""
    try:
        # With a name nats-py asks under a subject of the consumer's own, to which a service has the right.
        await js.add_consumer(stream, config, name=name)
        return config
    except APIError as error:
        limit = _allowed(error)
        if limit is None or limit >= (config.max_ack_pending or 0):
            raise
    log.warning(
        "consumer %s/%s: NATS allows %d unacknowledged messages (max_ack_pending of the account or the server), "
        "Parley asks for %d: so many are in hand at a time, and the rest waits",
        stream, name, limit, config.max_ack_pending,
    )  # fmt: skip
    metadata = {**(config.metadata or {}), FITTED: str(limit)}
    fitted = config.evolve(max_ack_pending=limit, metadata=metadata)
    await js.add_consumer(stream, fitted, name=name)
    return fitted


async def raise_limit(
    js: JetStreamContext, durable: Durable, live: ConsumerConfig | None, wanted: ConsumerConfig
) -> list[str]:
    """Try for more where a consumer was fitted: more may be allowed by now. Returns what was changed, a line each."""
    most = wanted.max_ack_pending or 0
    if live is None or not is_fitted(live) or (live.max_ack_pending or 0) >= most:
        return []
    metadata = {key: value for key, value in (live.metadata or {}).items() if key != FITTED}
    asked = live.evolve(max_ack_pending=most, metadata=metadata)
    try:
        now = await add_consumer(js, durable.stream, asked, durable.name)
    except APIError as error:
        log.warning("consumer %s/%s: not changed: %s", durable.stream, durable.name, error.description)
        return []
    if now.max_ack_pending == live.max_ack_pending:
        return []
    what = f"consumer {durable.stream}/{durable.name}"
    return [f"{what}: max_ack_pending {live.max_ack_pending} → {now.max_ack_pending}"]


def _allowed(error: APIError) -> int | None:
    found = _LIMIT.search(error.description or "") if error.err_code == ACK_PENDING_EXCEEDED else None
    return int(found[1]) if found else None
