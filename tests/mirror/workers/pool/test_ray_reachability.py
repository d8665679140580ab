"""Whether there is a Ray head at an address is known in seconds, and what is there instead is named."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from parley.workers.pool import ray_reachability
from parley.workers.pool.ray_errors import CHECK_ADDRESS, RayUnavailable
from parley.workers.pool.ray_reachability import (
    A_HEAD_LISTENS,
    ON_A_NODE,
    check_form,
    check_head,
    is_local,
    parse_address,
    unreachable,
)

# What a gRPC server says at once: a frame of settings.
SETTINGS = b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64"


@asynccontextmanager
async def server(greeting: bytes | None) -> AsyncIterator[str]:
    """Something that listens and begins with `greeting`; None: it closes at once."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if greeting:
            writer.write(greeting)
            await writer.drain()
        if greeting is not None:
            await reader.read()
        writer.close()

    listening = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with listening:
        yield f"127.0.0.1:{listening.sockets[0].getsockname()[1]}"


@pytest.fixture
def nobody() -> int:
    with socket.socket() as gone:
        gone.bind(("127.0.0.1", 0))
        return int(gone.getsockname()[1])


@pytest.mark.parametrize(
    ("address", "local"), [(None, True), ("local", True), ("auto", False), ("h:1", False)]
)
def test_a_local_ray_is_asked_for_by_no_address_or_by_rays_word(address: str | None, local: bool) -> None:
    assert is_local(address) == local


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("head:6379", ("head", 6379)),
        ("10.0.0.1:6379", ("10.0.0.1", 6379)),
        ("[::1]:6379", ("::1", 6379)),
        ("auto", None),
        ("local", None),
    ],
)
def test_an_address_has_host_and_port_or_is_left_to_ray(address: str, place: tuple[str, int] | None) -> None:
    assert parse_address(address) == place
    if place is not None:
        check_form(address)


REFUSED = {
    "Ray Client": ("ray://head:10001", "ray:// (Ray Client) is not supported", ON_A_NODE),
    "Ray Client with a password": (
        "ray://user:hush@head:10001",
        "ray:// (Ray Client) is not supported",
        ON_A_NODE,
    ),
    "a URL": ("http://head:8265", "that is not an address of Ray's", A_HEAD_LISTENS),
    "no port": ("head", "it names no host and port", A_HEAD_LISTENS),
    "no host": (":6379", "it names no host and port", A_HEAD_LISTENS),
    "a word as port": ("head:port", "Port could not be cast", CHECK_ADDRESS),
    "a port too high": ("head:99999", "Port out of range", CHECK_ADDRESS),
    "half an address": ("[::1", "Invalid IPv6 URL", CHECK_ADDRESS),
}


@pytest.mark.parametrize(("address", "reason", "remedy"), REFUSED.values(), ids=REFUSED)
def test_an_address_that_cannot_be_joined_is_refused_without_a_look(
    address: str, reason: str, remedy: str
) -> None:
    with pytest.raises(RayUnavailable) as caught:
        check_form(address)
    assert caught.value.reason.startswith(reason)
    assert caught.value.remedy == remedy
    assert "hush" not in str(caught.value)


OTHERS = {
    "HTTP": (b"HTTP/1.1 400 Bad Request\r\n\r\n", "an HTTP/1 server (8265 is Ray's dashboard)"),
    "NATS": (b'INFO {"server_id":"x"}\r\n', "a nats-server"),
    "Redis": (b"-ERR unknown command\r\n", "a Redis server"),
    "SSH": (b"SSH-2.0-OpenSSH_9.7\r\n", "something that does not answer as Ray does"),
    "closed": (None, "something that does not answer as Ray does"),
    "silence": (b"", "something that does not answer as Ray does"),
    "a few bytes": (b"\x00\x00", "something that does not answer as Ray does"),
}


@pytest.mark.parametrize(("greeting", "what"), OTHERS.values(), ids=OTHERS)
async def test_what_listens_there_instead_is_named(
    greeting: bytes | None, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_reachability, "GREETING_SECONDS", 0.3)
    async with server(greeting) as address:
        with pytest.raises(RayUnavailable) as caught:
            await check_head(address)
    assert caught.value.reason == f"what listens there is not Ray's head but {what}"
    assert caught.value.remedy == A_HEAD_LISTENS


async def test_what_greets_as_grpc_may_be_a_head() -> None:
    async with server(SETTINGS) as address:
        await check_head(address)
        host, _, port = address.partition(":")
        assert await unreachable((host, int(port))) is None


async def test_with_tls_the_greeting_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USE_TLS", "1")
    async with server(b"\x15\x03\x01\x00\x02\x02\x46") as address:
        await check_head(address)


async def test_a_head_that_does_not_listen_is_unreachable(nobody: int) -> None:
    with pytest.raises(RayUnavailable, match="nobody listens there"):
        await check_head(f"127.0.0.1:{nobody}")
    with pytest.raises(RayUnavailable, match="nobody listens there"):
        await check_head("no-such-host.invalid:6379")
    assert await unreachable(("127.0.0.1", nobody)) == f"Ray's head at 127.0.0.1:{nobody} cannot be reached"
