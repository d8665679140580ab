"""The whole service in front of servers with habits: no secret leaves it, and a server that asks for a pause holds nobody."""

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from parley.app import Service, service
from parley.broker.core.messages import DeliberationCompleted, ErrorType
from parley.broker.jetstream.embedded import EmbeddedNats
from parley.client import Client, connect
from parley.settings import load
from tests.rig.habit_server import Heard, Reply, either, habit_server, refusal

KEY = "sk-swordfish/0123456789"


@asynccontextmanager
async def served(nats: EmbeddedNats, home: Path, **settings: Any) -> AsyncIterator[tuple[Client, Service]]:
    common = {"nats_url": nats.url, "http_port": 0, "home": home, "pool": "local", "vllm_model": "m"}
    loaded = load(**{**common, **settings})
    async with service(loaded) as started, connect(nats.url) as client:
        yield client, started


async def readiness(started: Service) -> str:
    async with aiohttp.ClientSession() as http, http.get(f"{started.http_url}/readyz") as response:
        return await response.text()


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500])
async def test_a_server_that_quotes_what_it_was_sent_makes_no_secret_public(
    empty_nats: EmbeddedNats, tmp_path: Path, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    caplog.set_level(logging.DEBUG)

    def quote(heard: Heard) -> Reply:
        return refusal(status, f"no: {heard.headers} {heard.target}")

    async with habit_server(quote) as server:
        url = f"{server.url}/v1?code=query-secret-1"
        more = {"vllm_api_key": KEY, "vllm_headers": "X-Auth: header-secret-2", "retry_attempts": 1}
        async with served(empty_nats, tmp_path, vllm_url=url, **more) as (client, started):
            ending = await client.deliberate("x", agents=2, timeout_seconds=20)
            texts = [str(ending), await readiness(started), caplog.text]
    assert [agent.error_type for agent in ending.failed_agents] == [ending.failed_agents[0].error_type] * 2
    for secret in (KEY, "query-secret-1", "header-secret-2"):
        assert not any(secret in text for text in texts)


async def test_one_of_two_servers_that_asks_for_a_minute_fails_no_agent(
    empty_nats: EmbeddedNats, tmp_path: Path
) -> None:
    def busy(heard: Heard) -> Reply:
        return either(heard) if heard.method == "GET" else refusal(429, "later", retry_after="60")

    async with habit_server(busy) as one, habit_server() as other:
        urls = f"{one.url},{other.url}"
        async with served(empty_nats, tmp_path, vllm_url=urls) as (client, _):
            began = time.monotonic()
            endings = [await client.deliberate("x", agents=8, timeout_seconds=10) for _ in range(4)]
            took = time.monotonic() - began
    assert all(isinstance(ending, DeliberationCompleted) and not ending.degraded for ending in endings)
    assert took < 10
    assert len([heard for heard in one.heard if heard.method == "POST"]) <= 8


async def test_the_only_server_that_asks_for_an_hour_ends_the_deliberation_early_with_the_reason(
    empty_nats: EmbeddedNats, tmp_path: Path
) -> None:
    def busy(heard: Heard) -> Reply:
        return either(heard) if heard.method == "GET" else refusal(429, "later", retry_after="3600")

    async with habit_server(busy) as server, served(empty_nats, tmp_path, vllm_url=server.url) as (client, _):
        began = time.monotonic()
        endings = [await client.deliberate("x", agents=3, timeout_seconds=60) for _ in range(2)]
        assert time.monotonic() - began < 20
    agents = [agent for ending in endings for agent in ending.failed_agents]
    assert {agent.error_type for agent in agents} == {ErrorType.RATE_LIMITED}
    assert all("HTTP 429 from the model server" in agent.error for agent in agents)
