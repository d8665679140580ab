"""An upgrade from 0.1.0 under load: its streams, tallies, messages and running parts. Nothing is lost or doubled."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from nats.js.api import DiscardPolicy

from parley.broker.core.errors import BrokerUnavailable
from parley.broker.jetstream import topology
from parley.broker.jetstream.connection import close, connect
from parley.broker.jetstream.embedded import EmbeddedNats
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.provision import Extent, provision
from parley.broker.jetstream.scan import scan
from parley.client import connect as connect_client
from tests.faults import upgrade
from tests.harness import ModelServer, fresh, until
from tests.rig.child import Child, answers, started
from tests.rig.proc import free_port

FULL, SHORT = 600, 90
# Deliberations a second.
PACE = 15.0
TIMEOUT_SECONDS = 60.0
PROMISED_SECONDS = 1.0


@dataclass
class Load:
    """Requests of three kinds: with a name of their own, without one, and without one and cancelled at once."""

    jetstream: JetStream
    named: set[str] = field(default_factory=set)
    unnamed: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)

    async def send(self, count: int) -> None:
        for number in range(count):
            await asyncio.sleep(1 / PACE)
            body: dict[str, Any] = {
                "task_description": "x", "num_agents": 3, "timeout_seconds": TIMEOUT_SECONDS,
                "metadata": {"number": str(number)},
            }  # fmt: skip
            if number % 3 == 0:
                body["task_id"] = fresh("up")
                self.named.add(body["task_id"])
                await self._publish(topology.REQUESTED, body)
                continue
            name = f"d-{await self._publish(topology.REQUESTED, body)}"
            if number % 9 == 1:
                self.cancelled.append(name)
                await self._publish(topology.CANCEL, {"task_id": name})
            else:
                self.unnamed.append(name)

    async def _publish(self, subject: str, body: dict[str, Any]) -> int:
        """Until NATS acknowledges, as a careful client does: for a moment no stream takes requests."""
        while True:
            try:
                return (await self.jetstream.publish(subject, json.dumps(body).encode())).seq
            except BrokerUnavailable:
                await asyncio.sleep(0.05)

    @property
    def names(self) -> list[str]:
        return [*self.named, *self.unnamed, *self.cancelled]


class Parts:
    """Processes of either version."""

    def __init__(self, folder: Path, nats_url: str, model_url: str, http: aiohttp.ClientSession) -> None:
        self._folder = folder
        self._http = http
        self._shared = {
            "NATS_URL": nats_url, "VLLM_URL": model_url, "PARLEY_POOL": "local", "PARLEY_POOL_SLOTS": "64",
            "PARLEY_LOG_LEVEL": "INFO", "PARLEY_DRAIN_SECONDS": "5",
        }  # fmt: skip
        self.running: dict[str, Child] = {}

    async def start(self, name: str, parts: str, old: Path | None = None, *, wait: bool = True) -> Child:
        port = free_port()
        command, environment = upgrade.serve(parts, old)
        everything = {**os.environ, **self._shared, **environment, "PARLEY_HTTP_PORT": str(port)}
        child = await started(command, self._folder / f"{name}.log", everything, folder=self._folder)
        self.running[name] = child
        if wait:
            await child.ready(lambda: answers(self._http, f"http://127.0.0.1:{port}/readyz"), 60)
        return child

    def log_ends(self) -> str:
        return "\n".join(f"── {name}\n{child.log_end()}" for name, child in self.running.items())


@pytest.fixture
async def parts(empty_nats: EmbeddedNats, model: ModelServer, tmp_path: Path) -> AsyncIterator[Parts]:
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)))
        processes = Parts(tmp_path, empty_nats.url, model.url, http)
        yield processes
        for child in processes.running.values():
            await child.stop()


@pytest.mark.timeout(300)
async def test_an_upgrade_from_0_1_0_under_load_loses_and_doubles_nothing(
    parts: Parts, empty_nats: EmbeddedNats, model: ModelServer, tmp_path: Path, full: bool
) -> None:
    old = tmp_path / "0.1.0"
    missing = upgrade.unpack(old)
    if missing is not None:
        print(missing)
        pytest.skip(missing)
    await model.behave(latency_ms=300)
    nc = await connect(empty_nats.url, "load")
    jetstream = JetStream(nc)
    load = Load(jetstream)
    count = (FULL if full else SHORT) // 3
    intake = await parts.start("old-intake", "intake,query", old)
    others = await parts.start("old-others", "dispatch,aggregate", old)
    await load.send(count)
    # A backlog that the old intake never takes in, with cancels, and work in hand of everybody else.
    intake.process.send_signal(signal.SIGSTOP)
    await load.send(count // 3)
    left = await jetstream.js.consumer_info(topology.DELIBERATIONS, topology.OLD_INTAKE.name)
    assert left.num_pending or left.num_ack_pending  # all this is 0.1.0's
    new = asyncio.gather(*(parts.start(f"new-{n}", "intake,dispatch,aggregate,query") for n in (1, 2)))
    await load.send(count)
    await new
    await load.send(count // 3)  # both versions run
    intake.process.send_signal(signal.SIGKILL)
    others.process.send_signal(signal.SIGTERM)
    await load.send(count // 3)
    try:
        await _judge(load)
        await _is_new(jetstream)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{parts.log_ends()}") from None
    finally:
        await close(nc)


async def test_back_to_0_1_0_as_the_documents_say(
    parts: Parts, empty_nats: EmbeddedNats, tmp_path: Path
) -> None:
    old = tmp_path / "0.1.0"
    missing = upgrade.unpack(old)
    if missing is not None:
        print(missing)
        pytest.skip(missing)
    async with connect_client(empty_nats.url) as client:
        new = await parts.start("new", "intake,dispatch,aggregate,query")
        assert (await client.deliberate("x", agents=2, task_id="of-the-new")).status == "completed"
        await new.stop()
        nc = await connect(empty_nats.url, "operator")
        js = nc.jetstream()
        await js.delete_stream(topology.REQUESTS)
        timers = (await js.stream_info(topology.DELIBERATIONS)).config
        subjects = [topology.REQUESTED, topology.CANCEL, *(timers.subjects or ())]
        await js.update_stream(timers, subjects=subjects)
        for name in (topology.AGENT_REQUESTS, topology.AGENT_RESPONSES, topology.DEAD_LETTERS):
            live = (await js.stream_info(name)).config
            await js.update_stream(live, discard=DiscardPolicy.OLD, max_bytes=-1)
        await close(nc)
        await parts.start("old", "intake,dispatch,aggregate,query", old)
        assert (await client.deliberate("x", agents=2)).status == "completed"
        assert (await client.status("of-the-new")).status == "COMPLETED"


async def _judge(load: Load) -> None:
    endings: dict[str, list[tuple[str, float]]] = {}

    async def all_ended() -> bool:
        endings.clear()
        for subject in (topology.COMPLETED, topology.FAILED):
            async for message in scan(load.jetstream, topology.DELIBERATIONS, subject):
                body = json.loads(message.data)
                at = message.metadata.timestamp.timestamp()
                endings.setdefault(body["task_id"], []).append((body["status"], at))
        return set(load.names) <= set(endings)

    try:
        await until(all_ended, "every deliberation has an ending", TIMEOUT_SECONDS + 15)
    except AssertionError:
        lost = [name for name in load.names if name not in endings]
        raise AssertionError(f"{len(lost)} of {len(load.names)} without an ending: {lost[:5]}") from None
    assert len(set(load.names)) == len(load.names)  # no name was given twice
    doubled = {name: found for name, found in endings.items() if len(found) > 1}
    assert doubled == {}
    assert set(endings) == set(load.names)
    statuses = {name: found[0][0] for name, found in endings.items()}
    assert {statuses[name] for name in (*load.named, *load.unnamed)} == {"completed"}
    assert {statuses[name] for name in load.cancelled} <= {"cancelled", "completed"}
    cancelled = [name for name in load.cancelled if statuses[name] == "cancelled"]
    assert len(cancelled) > len(load.cancelled) / 2  # the model answers in 0.3 s: a few were faster


async def _is_new(jetstream: JetStream) -> None:
    """The streams are this version's, and nothing is left of the old one."""
    assert await provision(jetstream.js, extent=Extent.LOOK) == []
    for stream in topology.streams():
        info = await jetstream.js.stream_info(stream.name or "")
        assert sorted(info.config.subjects or ()) == sorted(stream.subjects or ())
        assert ((info.config.max_bytes or -1) > 0) == (stream.name in topology.SHARES)

    async def gone() -> bool:
        consumers = await jetstream.js.consumers_info(topology.DELIBERATIONS)
        return not {"intake", "cancel"} & {consumer.name for consumer in consumers}

    await until(gone, "the consumers of 0.1.0 are deleted", 20)
