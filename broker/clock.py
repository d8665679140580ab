"""Instants on the wire: RFC 3339 in UTC with `Z`. Inside, an instant is seconds since the epoch as a float."""

from datetime import UTC, datetime


def rfc3339(instant: float) -> str:
    """`1763800000.5` → `2025-11-22T08:26:40.500Z`, to the millisecond."""
    return datetime.fromtimestamp(instant, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def epoch(timestamp: str) -> float:
    """The instant an RFC 3339 timestamp names. Raises ValueError for anything else."""
    moment = datetime.fromisoformat(timestamp)
    if moment.tzinfo is None:
        raise ValueError(f"{timestamp!r} has no time zone")
    return moment.timestamp()
