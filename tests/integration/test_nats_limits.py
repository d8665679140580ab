"""The whole service on a NATS with limits: it works within those that only make it slower, and names the others."""

import asyncio
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import nats
import pytest

from parley.broker.core.errors import LimitReached
from parley.broker.core.messages import DeliberationCompleted
from parley.broker.jetstream.connection import close, connect
from tests.harness import ModelServer, running
from tests.mirror.broker import limited_server
from tests.rig.service import plain_environment

USER = "users: [{ user: a, password: p }]"


def account(limits: str) -> str:
    return f"accounts {{ A {{ jetstream {{ {limits} }}, {USER} }} }}\n"


SLOWER = {
    "an account's max_ack_pending": ("1GB", account("max_ack_pending: 2")),
    "a server's max_ack_pending": ("1GB, limits { max_ack_pending: 2 }", ""),
    "a server's max_request_batch": ("1GB, limits { max_request_batch: 2 }", ""),
    "a server's duplicate_window": ('1GB, limits { duplicate_window: "10m" }', ""),
    "little storage": ("10MB", ""),
    "a small max_payload": ("1GB", "max_payload: 16KB\n"),
}


def url_of(server: str, more: str) -> str:
    return server.replace("nats://", "nats://a:p@") if "accounts" in more else server


@pytest.mark.parametrize("limit", SLOWER)
async def test_a_service_works_within_a_limit_that_only_makes_it_slower(
    limit: str, model: ModelServer, tmp_path: Path
) -> None:
    await model.behave()
    async with limited_server(tmp_path, *SLOWER[limit]) as server:
        url = url_of(server, SLOWER[limit][1])
        looking = await connect(url, "test")
        for _ in range(2):  # the second start finds what the first one made
            async with running(url, model, tmp_path / "home", looking, pool="local") as service:
                ending = await service.client.deliberate("why?", agents=9, timeout_seconds=20)
                assert isinstance(ending, DeliberationCompleted)
                assert ending.successful_responses == 9
        await close(looking)


NAMED = {
    "duplicate window": (
        'jetstream { limits { duplicate_window: "60s" } }\n',
        "duplicate_window of the server's",
    ),
    "streams": (account("max_streams: 3"), "its max_streams"),
    "consumers": (account("max_consumers: 1"), "its max_consumers"),
    "max_bytes_required": (account("max_bytes_required: true"), "switch max_bytes_required off"),
    "storage": (account("max_file: 100KB"), "max_file"),
    "subscriptions": ("max_subscriptions: 5\n", "max_subscriptions"),
}


@pytest.mark.parametrize("limit", NAMED)
async def test_a_limit_that_is_too_low_is_named_with_the_remedy_and_without_a_traceback(
    limit: str, model: ModelServer, tmp_path: Path
) -> None:
    more, named = NAMED[limit]
    async with limited_server(tmp_path, "1GB", more) as server:
        settings = {
            "NATS_URL": url_of(server, more), "VLLM_URL": model.url, "PARLEY_POOL": "local",
            "PARLEY_HTTP_PORT": "0", "PARLEY_GATEWAY_PORT": "0", "PARLEY_GATEWAY_GRPC_PORT": "0", "PARLEY_HOME": str(tmp_path / "home"),
        }  # fmt: skip
        command = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "parley",
            "serve",
            env=plain_environment(**settings),
            stdout=PIPE,
            stderr=PIPE,
        )
        _, told = await asyncio.wait_for(command.communicate(), 60)
    assert command.returncode == 3
    assert b"Traceback" not in told
    assert named in told.decode().splitlines()[-1]


async def test_a_server_that_has_too_many_connections_is_not_called_away(tmp_path: Path) -> None:
    async with limited_server(tmp_path, "1GB", "max_connections: 1\n") as server:
        first = await nats.connect(server)
        with pytest.raises(
            LimitReached, match="maximum connections exceeded: raise max_connections"
        ) as caught:
            await connect(server, "second")
        assert "Is it running" not in str(caught.value)
        await first.close()
