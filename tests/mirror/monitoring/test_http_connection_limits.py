"""Idle connections are closed, those with a request are not, and those too many are refused."""

import asyncio
import resource
from contextlib import suppress

import aiohttp
import pytest
from aiohttp import web

from parley.monitoring import http_connection_limits
from parley.monitoring.http import application, serving
from parley.monitoring.http_connection_limits import BACKLOG, Connections
from parley.monitoring.metrics import Metrics


def address(url: str) -> tuple[str, int]:
    host, port = url.removeprefix("http://").split(":")
    return host, int(port)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connection_limits, "IDLE_SECONDS", 0.2)
    monkeypatch.setattr(http_connection_limits, "CHECK_SECONDS", 0.05)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("sent", [b"", b"GET /livez HT", b"GET /livez HTTP/1.1\r\nhost: x\r\n"])
async def test_a_connection_without_a_whole_request_is_closed(sent: bytes) -> None:
    async with serving(application(Metrics("m"), {}, {}), "127.0.0.1", 0) as url:
        reader, writer = await asyncio.open_connection(*address(url))
        writer.write(sent)
        async with asyncio.timeout(10):
            assert await reader.read() == b""
        writer.close()


@pytest.mark.usefixtures("hasty")
async def test_a_kept_connection_is_closed_after_its_answer() -> None:
    async with serving(application(Metrics("m"), {}, {}), "127.0.0.1", 0) as url:
        reader, writer = await asyncio.open_connection(*address(url))
        writer.write(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        async with asyncio.timeout(10):
            assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()


@pytest.mark.usefixtures("hasty")
async def test_a_slow_answer_is_not_cut_off() -> None:
    released = asyncio.Event()

    async def slow(_: web.Request) -> web.Response:
        await released.wait()
        return web.Response(text="whole")

    app = web.Application()
    app.router.add_get("/slow", slow)
    async with serving(app, "127.0.0.1", 0) as url, aiohttp.ClientSession() as http:
        # An idle connection of the same age shows that the time of both is up.
        reader, writer = await asyncio.open_connection(*address(url))
        asked = asyncio.create_task(http.get(f"{url}/slow"))
        await reader.read()
        writer.close()
        released.set()
        assert await (await asked).text() == "whole"


async def test_connections_too_many_are_refused_and_the_next_is_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_connection_limits, "MAX_CONNECTIONS", 4)
    async with (
        serving(application(Metrics("m"), {}, {}), "127.0.0.1", 0) as url,
        aiohttp.ClientSession() as http,
    ):
        held = [await asyncio.open_connection(*address(url)) for _ in range(4 + BACKLOG + 4)]
        refused = []
        for reader, writer in held:
            with suppress(TimeoutError, ConnectionError):
                async with asyncio.timeout(0.1):
                    await reader.read()
            if reader.at_eof() or reader.exception() is not None:
                refused.append(writer)
        assert len(refused) >= 4
        for _, writer in held:
            writer.close()
        async with asyncio.timeout(10):
            while True:
                with suppress(aiohttp.ClientError):
                    async with http.get(f"{url}/livez") as response:
                        assert response.status == 200
                        return


def test_the_bound_is_a_share_of_the_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    for descriptors, limit in ((1024, 64), (256, 32), (4, 1)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=descriptors: (soft, soft))
        assert Connections().limit == limit
