"""What a user lacks is known before it is needed, whether or not the server tells a user's rights."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from parley.broker.core.errors import RightMissing
from parley.broker.jetstream import rights_watch
from parley.broker.jetstream.connection import close, connect
from parley.broker.jetstream.direct_reads import read_all
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.nats_client import NatsClient
from parley.broker.jetstream.provision import provision
from parley.broker.jetstream.rights import Right, Verb
from parley.broker.jetstream.rights_watch import RightsWatch, ask_permissions
from parley.broker.jetstream.scan import scan
from tests.harness import until
from tests.mirror.broker import limited_server

NEEDED = (
    Right(Verb.PUBLISH, "agent.requested"),
    Right(Verb.PUBLISH, "$KV.deliberations.*"),
    Right(Verb.SUBSCRIBE, "deliberation.get"),
)
NOT_TOLD = ["$SYS.REQ.USER.INFO"]


@asynccontextmanager
async def as_user(folder: Path, permissions: Any) -> AsyncIterator[NatsClient]:
    """A connection of a user with these permissions, on a server with our streams."""
    users = [{"user": "all", "password": "p"}, {"user": "u", "password": "p", "permissions": permissions}]
    account = f"accounts {{ A {{ jetstream: enabled, users: {json.dumps(users)} }} }}\n"
    async with limited_server(folder, "1GB", account) as url:
        nc = await connect(url.replace("nats://", "nats://all:p@"), "test")
        await provision(nc.jetstream())
        await close(nc)
        nc = await connect(url.replace("nats://", "nats://u:p@"), "test")
        try:
            yield nc
        finally:
            await close(nc)


@pytest.mark.parametrize(
    ("permissions", "lacks"),
    [
        ({}, None),
        ({"publish": {"deny": ["agent.requested"]}}, "publish to agent.requested"),
        ({"publish": {"deny": ["agent.requested", *NOT_TOLD]}}, "publish to agent.requested"),
        ({"publish": {"deny": ["$KV.>"]}}, "publish to $KV.deliberations.*"),
        ({"subscribe": {"deny": ["deliberation.get"]}}, "subscribe to deliberation.get"),
        ({"publish": {"deny": NOT_TOLD}}, None),
    ],
    ids=str,
)
async def test_what_lacks_is_known_without_need(permissions: Any, lacks: str | None, tmp_path: Path) -> None:
    async with as_user(tmp_path, permissions) as nc:
        found = await RightsWatch(nc, NEEDED).look()
        assert found == (lacks and f"the NATS user of the service has no right to {lacks} (docs/security.md has the rights of each role)")  # fmt: skip
        js = nc.jetstream()
        assert (await js.stream_info("AGENT_REQUESTS")).state.messages == 0  # looking stores nothing


async def test_what_the_server_refuses_is_noted_where_it_does_not_tell(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with as_user(tmp_path, {"publish": {"deny": [*NOT_TOLD, "$KV.>"]}}) as nc:
        watch = RightsWatch(nc, NEEDED)
        assert await watch.look() is None
        with caplog.at_level(logging.WARNING):
            for task in range(3):
                await nc.publish(f"$KV.deliberations.t-{task}", b"")
            await until(lambda: watch.problem, "it is refused")
        assert "publish to $KV.deliberations.*" in (watch.problem or "")
        assert [line for line in caplog.messages if "right" in line] == [
            "this NATS user has no right to publish to $KV.deliberations.> (docs/security.md has the rights of each role)"
        ]
        monkeypatch.setattr(rights_watch, "REFUSED_SECONDS", 0.0)
        assert watch.problem is None  # it may have the right by now


async def test_a_user_that_may_not_ask_is_told_nothing(tmp_path: Path) -> None:
    async with as_user(tmp_path, {"publish": {"deny": NOT_TOLD}}) as nc:
        assert await ask_permissions(nc) is None


async def test_a_question_with_many_answers_is_refused_at_once_and_by_name(tmp_path: Path) -> None:
    async with as_user(tmp_path, {"publish": {"deny": ["$JS.API.DIRECT.GET.KV_deliberations"]}}) as nc:
        began = asyncio.get_running_loop().time()
        for _ in range(2):
            with pytest.raises(RightMissing, match=r"publish to \$JS\.API\.DIRECT\.GET\.KV_deliberations"):
                _ = [each async for each in read_all(JetStream(nc), "KV_deliberations", ">")]
        assert asyncio.get_running_loop().time() - began < 2
        assert [each async for each in read_all(JetStream(nc), "REQUESTS", ">")] == []


async def test_a_scan_that_may_not_pull_is_refused_at_once_and_by_name(tmp_path: Path) -> None:
    async with as_user(tmp_path, {"publish": {"deny": ["$JS.API.CONSUMER.MSG.NEXT.>"]}}) as nc:
        await nc.jetstream().publish("deliberation.requested", b"{}")
        with pytest.raises(RightMissing, match=r"publish to \$JS\.API\.CONSUMER\.MSG\.NEXT\.REQUESTS"):
            _ = [each async for each in scan(JetStream(nc), "REQUESTS", ">")]


async def test_an_inbox_that_may_not_be_heard_is_named(tmp_path: Path) -> None:
    async with as_user(tmp_path, {"subscribe": {"deny": ["_INBOX.>"]}}) as nc:
        with pytest.raises(RightMissing, match=r"subscribe to _INBOX\.>"):
            _ = [each async for each in read_all(JetStream(nc), "REQUESTS", ">")]
