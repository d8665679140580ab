"""Fits a stream to a server that remembers a `Nats-Msg-Id` for less long (duplicate_window) than Parley asks for.

That is safe down to the time within which a message is repeated: after it, the tally's own mark prevents a second
ending.
"""

import logging
import re

from nats.js.api import StreamConfig
from nats.js.errors import APIError

from parley.broker.jetstream.stream_differences import LEAST_WINDOW_SECONDS

log = logging.getLogger("parley.broker")

# "duplicates window can not be larger then server limit of 1m0s": as Go writes a duration.
_WINDOW_LIMIT = re.compile(r"duplicates window .* limit of (?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9.]+)s)?$")


def window_limit(error: APIError) -> float | None:
    """The longest duplicate window that the server allows, in seconds, if it refuses a stream for it; else None."""
    found = _WINDOW_LIMIT.search(error.description or "")
    if found is None:
        return None
    hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return hours * 3_600 + minutes * 60 + seconds


def with_shorter_window(config: StreamConfig, error: APIError) -> StreamConfig | None:
    """`config` with the window that the server allows, if it is long enough for what is repeated; else None."""
    limit = window_limit(error)
    if limit is None or limit < LEAST_WINDOW_SECONDS or limit >= (config.duplicate_window or 0):
        return None
    told = "stream %s: NATS remembers a Nats-Msg-Id for %g s at most (duplicate_window of its limits), not for %g s"
    log.warning(told, config.name, limit, config.duplicate_window)
    return config.evolve(duplicate_window=limit)
