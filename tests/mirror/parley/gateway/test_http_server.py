"""What a stranger may send, and hold open: bare sockets against the real port."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from parley.gateway import http_server
from parley.gateway.http_server import Bounded, listening, open_socket


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = await Request(scope, receive).body()
    await PlainTextResponse(f"{len(body)} bytes")(scope, receive, send)


@asynccontextmanager
async def served() -> AsyncIterator[tuple[str, int]]:
    with open_socket("127.0.0.1", 0) as opened:
        async with listening(Bounded(echo, 1_000), opened):
            yield opened.getsockname()


@asynccontextmanager
async def connected(
    place: tuple[str, int],
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(*place)
    try:
        async with asyncio.timeout(20):
            yield reader, writer
    finally:
        writer.close()


HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"


async def test_a_body_that_fits_is_read() -> None:
    async with served() as place, connected(place) as (reader, writer):
        writer.write(HEAD + b"Content-Length: 5\r\nConnection: close\r\n\r\nhello")
        assert (await reader.read()).endswith(b"5 bytes")


@pytest.mark.parametrize("sent", [b"", b"GET", HEAD, HEAD + b"X: y\r\n"])
async def test_a_head_that_does_not_come_is_cut(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "HEAD_SECONDS", 0.2)
    async with served() as place, connected(place) as (reader, writer):
        writer.write(sent)
        assert await reader.read() == b""


async def test_a_head_that_drips_is_cut_too_also_after_another_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_server, "HEAD_SECONDS", 0.4)
    async with served() as place, connected(place) as (reader, writer):
        writer.write(HEAD + b"Content-Length: 0\r\n\r\n")
        assert b"0 bytes" in await reader.readuntil(b"0 bytes")

        async def drip() -> None:
            for letter in HEAD * 10:
                writer.write(bytes([letter]))
                await asyncio.sleep(0.05)

        dripping = asyncio.create_task(drip())
        assert await reader.read() == b""
        dripping.cancel()


async def test_a_kept_connection_may_rest_for_longer_than_a_head_may_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_server, "HEAD_SECONDS", 0.2)
    async with served() as place, connected(place) as (reader, writer):
        for _ in range(2):
            writer.write(HEAD + b"Content-Length: 0\r\n\r\n")
            await reader.readuntil(b"0 bytes")
            await asyncio.sleep(0.5)


async def test_a_body_that_drips_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "BODY_SECONDS", 0.2)
    async with served() as place, connected(place) as (reader, writer):
        writer.write(HEAD + b"Content-Length: 5\r\n\r\nhel")
        assert b" 408 " in await reader.readline()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (HEAD + b"Content-Length: 1001\r\n\r\n" + b"x" * 1001, b" 413 "),
        (
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"3e9\r\n" + b"x" * 1001 + b"\r\n0\r\n\r\n",
            b" 413 ",
        ),
        (HEAD + b"X: " + b"y" * 400_000 + b"\r\n\r\n", b" 400 "),
        (HEAD + b"X: y\r\n" * 20_000, b" 400 "),
        (b"\x16\x03\x01\x02\x00", b" 400 "),
        (b"POST / HTTP/1.1\r\n\r\n", b" 400 "),
        (HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", b" 400 "),
        (HEAD + b"A: b\nContent-Length: 5\r\n\x00: y\r\n\r\n", b" 400 "),
    ],
)
async def test_what_is_too_much_or_no_http_is_refused(sent: bytes, status: bytes) -> None:
    async with served() as place, connected(place) as (reader, writer):
        writer.write(sent)
        assert status in await reader.readline()


async def test_bodies_are_bounded_together_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "MAX_HELD_BYTES", 1_500)
    async with served() as place, connected(place) as (_, first), connected(place) as (reader, writer):
        first.write(HEAD + b"Content-Length: 1000\r\n\r\n" + b"x" * 999)
        await first.drain()
        await asyncio.sleep(0.1)
        writer.write(HEAD + b"Content-Length: 900\r\n\r\n" + b"x" * 900)
        assert b" 503 " in await reader.readline()
        first.close()

    async with served() as place, connected(place) as (reader, writer):
        for _ in range(3):
            writer.write(HEAD + b"Content-Length: 900\r\n\r\n" + b"x" * 900)
            assert b"900 bytes" in await reader.readuntil(b"900 bytes")


async def test_who_hangs_up_in_the_middle_of_a_body_leaves_nothing() -> None:
    async with served() as place:
        async with connected(place) as (_, writer):
            writer.write(HEAD + b"Content-Length: 5\r\n\r\nhe")
            await writer.drain()
        async with httpx.AsyncClient() as program:
            answer = await program.post(f"http://127.0.0.1:{place[1]}/", content=b"x")
            assert answer.text == "1 bytes"


async def test_a_port_that_is_taken_is_an_error_at_once() -> None:
    async with served() as (host, port):
        with pytest.raises(OSError, match="in use"):
            open_socket(host, port)
