"""Whether a Ray cluster's head can be reached and looks like one, by plain TCP: Ray itself takes minutes to say so."""

import asyncio
import os
from urllib.parse import urlsplit

from parley.broker.core.url_masking import masked
from parley.workers.pool.ray_errors import RayUnavailable

# A connection attempt takes at most this. Ray tries a wrong address for over 200 s (2.60).
REACH_SECONDS = 3.0
# A head's greeting comes from a thread that does nothing else.
GREETING_SECONDS = 5.0
# What a gRPC client says first: HTTP/2's preface, and a frame of settings with none in it.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
# A frame's header; its fourth byte is the frame's type.
_FRAME_HEADER_BYTES, _SETTINGS_TYPE = 9, 4
# How others begin.
_OTHERS = {
    b"HTTP": "an HTTP/1 server (8265 is Ray's dashboard)",
    b"INFO": "a nats-server",
    b"-ERR": "a Redis server",
}

A_HEAD_LISTENS = "A Ray head listens on port 6379 unless told otherwise: RAY_ADDRESS=HOST:6379"
START_OR_NAME = "Start Ray here with `ray start`, or name the head of the cluster: RAY_ADDRESS=HOST:6379"
ON_A_NODE = (
    "Run the dispatcher on a node of that cluster with RAY_ADDRESS=auto; "
    "`ray start --address=HOST:6379 --num-cpus=0` makes this machine one"
)

Address = tuple[str, int]


def is_local(address: str | None) -> bool:
    """Whether a Ray of our own is asked for. The word is Ray's, for where RAY_ADDRESS is set for something else."""
    return address is None or address == "local"


def parse_address(address: str) -> Address | None:
    """Host and port of `host:port`; None for an address without them (`auto`).

    Raises ConnectionError for a port that is not a port number.
    """
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        return (parts.hostname, parts.port) if parts.hostname is not None and parts.port is not None else None
    except ValueError as error:
        raise ConnectionError(str(error)) from error


def check_form(address: str) -> None:
    """Raises RayUnavailable for an address that no dispatcher can join. Asks nobody."""
    if address.startswith("ray://"):
        reason = "ray:// (Ray Client) is not supported, a dispatcher must run on a node of the cluster"
        raise RayUnavailable(masked(address), reason, ON_A_NODE)
    if "://" in address:
        raise RayUnavailable(masked(address), "that is not an address of Ray's", A_HEAD_LISTENS)
    if address in ("auto", "local"):
        return
    try:
        place = parse_address(address)
    except (ConnectionError, ValueError) as error:
        raise RayUnavailable(masked(address), str(error) or "that is not an address") from error
    if place is None:
        raise RayUnavailable(masked(address), "it names no host and port", A_HEAD_LISTENS)


async def check_head(address: str) -> None:
    """Raises RayUnavailable when nothing listens at `address`, or something that does not speak gRPC, as Ray's head
    does."""
    place = parse_address(address)
    assert place is not None, "check_form"
    try:
        async with asyncio.timeout(REACH_SECONDS):
            reader, writer = await asyncio.open_connection(*place)
    except (OSError, TimeoutError) as error:
        why = str(error) or f"no answer within {REACH_SECONDS:g} s"
        raise RayUnavailable(address, f"nobody listens there ({why})") from error
    try:
        if os.environ.get("RAY_USE_TLS") in ("1", "true"):  # it would not answer this in plain words
            return
        writer.write(_PREFACE)
        async with asyncio.timeout(GREETING_SECONDS):
            greeting = await reader.read(_FRAME_HEADER_BYTES)
    except (OSError, TimeoutError):
        greeting = b""
    finally:
        writer.close()
    if len(greeting) < _FRAME_HEADER_BYTES or greeting[3] != _SETTINGS_TYPE:
        what = _OTHERS.get(greeting[:4], "something that does not answer as Ray does")
        raise RayUnavailable(address, f"what listens there is not Ray's head but {what}", A_HEAD_LISTENS)


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
