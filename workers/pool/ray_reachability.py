"""Whether a Ray cluster's head can be reached, by plain TCP: Ray itself takes minutes to say so."""

import asyncio
import socket
from urllib.parse import urlsplit

# A connection attempt takes at most this. Ray tries a wrong address for over 200 s (2.60).
REACH_SECONDS = 3.0

Address = tuple[str, int]


def parse_address(address: str) -> Address | None:
    """Host and port of `host:port` or `ray://host:port`; None for an address without them (`auto`).

    Raises ConnectionError for a port that is not a port number.
    """
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        return (parts.hostname, parts.port) if parts.hostname is not None and parts.port is not None else None
    except ValueError as error:
        raise ConnectionError(str(error)) from error


def check_reachable(address: str) -> None:
    """Raises ConnectionError when nothing listens at `address`. An address without host and port is left to Ray."""
    place = parse_address(address)
    if place is None:
        return
    try:
        socket.create_connection(place, timeout=REACH_SECONDS).close()
    except OSError as error:
        raise ConnectionError(f"nobody listens there ({error})") from error


async def unreachable(head: Address) -> str | None:
    """Why Ray's head cannot be reached, for readiness; None when it can."""
    host, port = head
    try:
        async with asyncio.timeout(REACH_SECONDS):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return f"Ray's head at {host}:{port} cannot be reached"
    writer.close()
    return None
