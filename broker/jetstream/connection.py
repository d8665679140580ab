"""One connection to NATS: its options, opening it, checking the server behind it, closing it."""

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import nats
import nats.errors
import nats.js.errors

from parley.broker.asyncio_helpers import cancel_all
from parley.broker.core.errors import (
    AccessRefused,
    BrokerUnavailable,
    BrokerUnsuitable,
    LimitReached,
    NoQuorum,
    RightMissing,
)
from parley.broker.core.reply_subjects import CLIENT_INBOX
from parley.broker.core.url_masking import masked
from parley.broker.jetstream.connection_refusals import NotAcceptable
from parley.broker.jetstream.nats_access import PLAIN, NatsAccess
from parley.broker.jetstream.nats_address import servers
from parley.broker.jetstream.nats_client import NatsClient, NotAllowed
from parley.broker.jetstream.nats_limit_errors import limit_reached
from parley.broker.jetstream.quorum import told_no_quorum

log = logging.getLogger("parley.broker")

# Message schedules (`@at`) came with this version: deadlines need them.
OLDEST_SERVER = (2, 12)
# A PubAck that takes longer counts as lost, and the message that the caller handles is redelivered.
PUBLISH_TIMEOUT_SECONDS = 5.0
CONNECT_TIMEOUT_SECONDS = 2
_LOGIN_UNANSWERED = (
    "it greets and did not answer the login within {} s: "
    "it is overloaded, or who decides about logins (auth callout) is slow or away"
)
RECONNECT_WAIT_SECONDS = 1
# A server that vanishes silently is noticed after about 10 s. With nats-py's defaults it took six minutes (measured:
# 359 s).
PING_SECONDS = 5
MAX_OUTSTANDING_PINGS = 2
# What may wait to be written. nats-py's own bound is 2 MiB; one large fan-out is more.
PENDING_BYTES = 16 * 1024 * 1024


def connect_options(url: str, name: str, inbox: str = CLIENT_INBOX) -> dict[str, Any]:
    """The options of every connection. It never stops reconnecting; nats-py's default gives up after 60 attempts.

    `inbox`: the prefix of its inboxes, by its role (`parley.broker.core.reply_subjects`).
    """
    return {
        "servers": servers(url),
        "name": name,
        "inbox_prefix": inbox,
        "allow_reconnect": True,
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": RECONNECT_WAIT_SECONDS,
        "connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "pending_size": PENDING_BYTES,
        "ping_interval": PING_SECONDS,
        "max_outstanding_pings": MAX_OUTSTANDING_PINGS,
    }


async def connect(url: str, name: str, inbox: str = CLIENT_INBOX, access: NatsAccess = PLAIN) -> NatsClient:
    """Open a connection. `inbox`: as for `connect_options`.

    Raises AccessRefused as soon as each server has refused it for good, BrokerUnavailable when no server answers
    within seconds, SettingsError.
    """
    options = connect_options(url, name, inbox)
    client = NatsClient(access)
    try:
        # The first connection is not retried for ever: a wrong URL must be reported now.
        await _within(2 * CONNECT_TIMEOUT_SECONDS + 1, client.connect(**options))
    except (TimeoutError, OSError, ValueError, nats.errors.Error) as error:
        with suppress(Exception):  # nats-py cannot close a connection that it never began to open
            await client.close()
        if client.refusal_at_start is not None:
            raise AccessRefused(masked(url), client.refusal_at_start) from error
        if client.is_login_unanswered and client.last_words is None:
            raise AccessRefused(masked(url), _LOGIN_UNANSWERED.format(CONNECT_TIMEOUT_SECONDS)) from error
        # The last error says more than a timeout.
        raise unavailable(masked(url), client.last_words or client.last_error or error) from error
    return client


async def _within(seconds: float, work: Coroutine[None, None, None]) -> None:
    """As `asyncio.wait_for`, but work that swallows its cancellation ends, too."""
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task}, timeout=seconds)
        if not task.done():
            raise TimeoutError
        task.result()
    finally:
        await cancel_all([task])


async def close(nc: NatsClient) -> None:
    """Close a connection, whatever state it is in."""
    with suppress(OSError, nats.errors.Error):
        await nc.close()


def reason(error: BaseException) -> str:
    """What an operator should read instead of nats-py's error."""
    if isinstance(error, nats.js.errors.ServiceUnavailableError) and error.err_code is None:
        return "its JetStream is switched off, or starting"  # nobody listens to JetStream's questions
    said = str(error) or type(error).__name__
    return limit_reached(said) or said


def unavailable(url: str, error: BaseException) -> BrokerUnavailable:
    """What nats-py's `error` is to Parley. `url`: masked."""
    if isinstance(error, NotAcceptable):
        return AccessRefused(url, str(error))
    if isinstance(error, NotAllowed):
        return RightMissing(url, reason(error))
    lacking = told_no_quorum(error)
    if lacking is not None:
        return NoQuorum(url, lacking)
    kind = LimitReached if limit_reached(str(error)) else BrokerUnavailable
    return kind(url, reason(error))


async def check_server(nc: NatsClient, url: str) -> str:
    """The server's version. Raises BrokerUnsuitable for one too old for schedules or without JetStream,
    BrokerUnavailable."""
    version = nc.connected_server_version
    if (version.major, version.minor) < OLDEST_SERVER:
        raise BrokerUnsuitable(
            masked(url),
            f"is version {version.major}.{version.minor}.{version.patch}; "
            "Parley needs 2.12 or newer for durable deadlines",
        )
    try:
        await nc.jetstream(timeout=PUBLISH_TIMEOUT_SECONDS).account_info()
    except (nats.errors.NoRespondersError, nats.js.errors.APIError) as error:
        if told_no_quorum(error):
            raise unavailable(masked(url), error) from error
        raise BrokerUnsuitable(masked(url), _no_jetstream(nc)) from error
    except (nats.errors.Error, TimeoutError) as error:
        if isinstance(error, TimeoutError) and nc.cluster is not None:
            raise NoQuorum(masked(url), "its JetStream did not answer, so it has no leader now") from error
        raise unavailable(masked(url), error) from error
    return f"{version.major}.{version.minor}.{version.patch}"


def _no_jetstream(nc: NatsClient) -> str:
    """What lacks, and what to do about it."""
    own = f"; the server's own domain is {nc.domain}" if nc.domain else ""
    if nc.jetstream_domain is not None:
        remedy = "PARLEY_NATS_JETSTREAM_DOMAIN is wrong, or that server is away, or has no JetStream for this account"
        return f"has no JetStream in the domain {nc.jetstream_domain}{own}: {remedy}"
    remedy = "start it with -js, or enable JetStream for the account"
    return f"has no JetStream for this account; {remedy}; at a leaf node set PARLEY_NATS_JETSTREAM_DOMAIN"
