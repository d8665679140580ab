"""Timestamps in messages are RFC 3339 in UTC with `Z`. In the program an instant is a float: seconds since the
epoch."""

from datetime import UTC, datetime
from functools import lru_cache


def format_timestamp(instant: float) -> str:
    """`1763800000.5` → `2025-11-22T08:26:40.500Z`, to the millisecond."""
    second, micros = divmod(round(instant * 1e6), 1_000_000)
    return f"{_second(second)}.{micros // 1000:03d}Z"


# A small cache is enough: instants repeat. Most lie within a few seconds, or are deadlines a few timeouts ahead.
@lru_cache(maxsize=1024)
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


# Each is read several times: in a request, in its agents' work, and for their deadline.
@lru_cache(maxsize=1024)
def parse_timestamp(timestamp: str) -> float:
    """The instant that an RFC 3339 timestamp names. Raises ValueError for any other text."""
    moment = datetime.fromisoformat(timestamp)
    if moment.tzinfo is None:
        raise ValueError(f"{timestamp!r} has no time zone")
    return moment.timestamp()
