"""A store that is full is known, with why and what to do, and so is that it has room again."""

import asyncio
import logging
import time
from pathlib import Path
from typing import Any

import pytest

from parley.broker.asyncio_helpers import BackgroundLoop
from parley.broker.core.errors import BrokerUnavailable, StoreFull
from parley.broker.jetstream import topology
from parley.broker.jetstream.connection import close, connect
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.provision import provision
from parley.broker.jetstream.scan import scan
from parley.broker.jetstream.store_probe import PROBED, StoreProbe
from parley.client import Client
from tests.harness import until
from tests.mirror.broker import limited_server
from tests.rig.small_store import DISK, LIMITS, small_store


@pytest.mark.parametrize("kind", [*LIMITS, DISK])
async def test_a_full_store_is_known_without_traffic_and_so_is_its_end(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with small_store(kind, tmp_path) as store:
        if store is None:
            pytest.skip("a small disk is a tmpfs, which only root may mount")
        nc = await connect(store.url, "test")
        await provision(nc.jetstream())
        wire = JetStream(nc)
        probe = StoreProbe(wire)
        loop = BackgroundLoop(probe.run, "probe")
        try:
            await until(lambda: wire.health.count(topology.TALLIES) > 0, "probed")
            assert probe.refusal is None
            await store.fill()
            await until(lambda: probe.refusal is not None, "the refusal is known", 5.0)
            said = str(probe.refusal)
            assert said.startswith("JetStream stores nothing: no space left (")
            assert "max_file_store" in said
            assert "restarted" in said
            with pytest.raises(StoreFull) as caught:
                await wire.publish(topology.REQUESTED, b"{}")
            assert "cannot reach" not in str(caught.value)
            assert isinstance(caught.value, BrokerUnavailable)  # repeated, as when NATS is away
            restorations = wire.health.restorations
            await store.free()
            await until(lambda: probe.refusal is None, "room is known", 10.0)
            assert wire.health.restorations > restorations
        finally:
            loop.cancel()
            await close(nc)
        told = [record.message for record in caplog.records if record.levelno == logging.ERROR]
        for stream in PROBED:
            assert sum(line.startswith(f"{stream}: ") for line in told) == 1, told  # once, not once a probe


USERS = """
authorization { users: [
  { user: may, password: p },
  { user: not, password: p, permissions: { publish: { deny: ["$KV.deliberations.>"] } } }
] }
"""


async def test_a_right_that_lacks_is_not_taken_for_a_store_that_takes_everything(tmp_path: Path) -> None:
    async with limited_server(tmp_path, "1GB", USERS) as url:
        address = url.removeprefix("nats://")
        may, may_not = [await connect(f"nats://{user}:p@{address}", "test") for user in ("may", "not")]
        await provision(may.jetstream())
        assert await StoreProbe(JetStream(may)).probe() is None
        said = str(await StoreProbe(JetStream(may_not)).probe())
        assert "no right to publish to $KV.deliberations.!store" in said
        for nc in (may, may_not):
            await close(nc)


async def test_a_probe_leaves_nothing_behind_and_is_no_deliberation(wire: JetStream) -> None:
    assert await StoreProbe(wire).probe() is None

    async def left() -> int:
        found = 0
        for stream, subject in ((topology.TALLIES, ">"), (topology.DELIBERATIONS, ">")):
            found += len([message async for message in scan(wire, stream, subject)])
        return found

    assert await left() == 2
    assert await Client(wire).tallies() == []

    async def gone() -> bool:
        return await left() == 0

    await until(gone, "the server has removed them", 15.0)


async def test_nothing_is_written_where_something_else_was_stored(wire: JetStream) -> None:
    probe = StoreProbe(wire)
    await probe.probe()
    stored = {stream: wire.health.count(stream) for stream in PROBED}
    await wire.publish(topology.tally_subject("t-1"), b"{}")
    await probe.probe()
    assert wire.health.count(topology.TALLIES) == stored[topology.TALLIES] + 1
    assert wire.health.count(topology.DELIBERATIONS) == stored[topology.DELIBERATIONS] + 1
    await probe.probe()
    assert wire.health.count(topology.TALLIES) == stored[topology.TALLIES] + 2


async def test_a_server_that_does_not_answer_either_is_away_and_not_full(
    wire: JetStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(*_: object, **__: object) -> None:
        await asyncio.sleep(0)
        raise TimeoutError

    monkeypatch.setattr(wire.js, "publish", silent)
    with pytest.raises(StoreFull, match="acknowledged no write within 1 s"):
        await wire.publish(topology.COMPLETED, b"x", seconds=1.0)
    # Without the right to ask.
    monkeypatch.setattr(wire.nc, "request", silent)
    with pytest.raises(BrokerUnavailable, match="is connected and acknowledged no write"):
        await wire.publish(topology.COMPLETED, b"x", seconds=1.0)
    monkeypatch.setattr(wire.nc, "flush", silent)
    with pytest.raises(BrokerUnavailable, match="cannot reach NATS"):
        await wire.publish(topology.COMPLETED, b"x", seconds=1.0)


async def test_a_process_that_stood_still_takes_no_store_for_full(
    wire: JetStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thawed after six seconds it said that there was no space left: its own timeout had passed."""

    async def overdue(*_: Any, **__: Any) -> None:
        time.sleep(0.7)  # noqa: ASYNC251  # the process stands still
        raise TimeoutError

    monkeypatch.setattr(wire.js, "publish", overdue)
    with pytest.raises(BrokerUnavailable) as caught:
        await wire.publish(topology.REQUESTED, b"{}", seconds=0.05)
    assert not isinstance(caught.value, StoreFull)
    assert wire.health.refusal([topology.REQUESTS]) is None
    with pytest.raises(StoreFull):  # in time, it is the server's
        await wire.publish(topology.REQUESTED, b"{}", seconds=0.7)
