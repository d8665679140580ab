"""Ray's head, seen from outside: where it is, and whether anybody answers there. Plain TCP; Ray itself takes minutes to say so."""

import asyncio
import socket
from urllib.parse import urlsplit

# To find out that nobody listens. Ray tries a wrong address for over 200 s (2.60).
REACH_SECONDS = 3.0

Place = tuple[str, int]


def parse_address(address: str) -> Place | None:
    """Of `host:port` or `ray://host:port`; None for what holds neither (`auto`). Raises ConnectionError for a port that is none."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        return (parts.hostname, parts.port) if parts.hostname is not None and parts.port is not None else None
    except ValueError as error:
        raise ConnectionError(str(error)) from error


def check_reachable(address: str) -> None:
    """Raises ConnectionError when nobody listens there. What names no place is Ray's to resolve."""
    place = parse_address(address)
    if place is None:
        return
    try:
        socket.create_connection(place, timeout=REACH_SECONDS).close()
    except OSError as error:
        raise ConnectionError(f"nobody listens there ({error})") from error


async def unreachable(place: Place) -> str | None:
    """What is wrong, for readiness; None when somebody answers."""
    host, port = place
    try:
        async with asyncio.timeout(REACH_SECONDS):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return f"Ray's head at {host}:{port} cannot be reached"
    writer.close()
    return None
