"""What tests share: real parts, started once, and ways to wait for facts."""

import json
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from nats.aio.msg import Msg

from parley.app import Service, service
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.nats_client import NatsClient as Nats
from parley.broker.jetstream.scan import scan
from parley.client import Client
from parley.client import connect as connect_client
from parley.local_nats_and_model import simulator
from parley.settings import Settings, load
from tests.rig.waiting import PATIENCE_SECONDS, until

__all__ = [
    "ACK_WAIT_SECONDS", "PATIENCE_SECONDS", "ModelServer", "Running", "fresh", "is_ending", "model_server",
    "running", "until",
]  # fmt: skip

# Shorter than production's 30 s, so that a test can wait for a redelivery. Longer than any pause of a busy test
# machine.
ACK_WAIT_SECONDS = 5.0


def fresh(prefix: str = "t") -> str:
    """A new task_id."""
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


class ModelServer:
    """The process of the simulated model server."""

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self.url = url
        self._http = http

    async def behave(self, **behaviour: Any) -> None:
        """Make it quick and without faults, except for `behaviour`."""
        calm = {"latency_ms": 20, "tokens_per_second": 0, "tokens": 12, "faults": {}, "script": []}
        async with self._http.post(f"{self.url}/simulator", json={**calm, **behaviour}) as response:
            assert response.status == 200, await response.text()

    async def seen(self) -> dict[str, Any]:
        async with self._http.get(f"{self.url}/simulator") as response:
            found: dict[str, Any] = await response.json()
            return found

    async def idle(self) -> None:
        """Wait until it has no request running."""
        await self.runs(0)

    async def runs(self, count: int) -> None:
        """Wait until it has that many requests running."""

        async def running() -> bool:
            return bool((await self.seen())["running"] == count)

        await until(running, f"{count} calls are at the model server")


@asynccontextmanager
async def model_server(*arguments: str) -> AsyncIterator[ModelServer]:
    async with simulator("--latency-ms", "20", *arguments) as url, aiohttp.ClientSession() as http:
        yield ModelServer(url, http)


@dataclass(frozen=True, slots=True)
class Running:
    """A whole service, a client, and a raw connection to look into the streams."""

    service: Service
    settings: Settings
    client: Client
    nats: Nats
    model: ModelServer

    @property
    def wire(self) -> JetStream:
        return JetStream(self.nats)

    async def publish(
        self, payload: Mapping[str, Any] | bytes, headers: Mapping[str, str] | None = None
    ) -> int:
        """Publish a request. Returns its sequence in the stream."""
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        return (await self.wire.publish(topology.REQUESTED, body, headers=headers)).seq

    async def ending_of(self, task_id: str, seconds: float = PATIENCE_SECONDS) -> dict[str, Any]:
        """The ending's payload, from the stream."""

        async def found() -> dict[str, Any]:
            endings = await self.endings_of(task_id)
            return dict(json.loads(endings[0].data)) if endings else {}

        return await until(found, f"an ending of {task_id}", seconds)

    async def endings_of(self, task_id: str) -> list[Msg]:
        """Every ending of a task in the stream. Two are a bug."""
        return [msg for msg in await self.all_of("deliberation.*") if is_ending(msg, task_id)]

    async def outcomes_of(self, task_id: str) -> list[Msg]:
        """Every agent's outcome of a task. Invalid messages of other tests are skipped."""
        return [
            msg
            for msg in await self.all_of("agent.response.*", topology.AGENT_RESPONSES)
            if task_id.encode() in msg.data
        ]

    async def all_of(self, subject: str, stream: str = topology.DELIBERATIONS) -> list[Msg]:
        """Every stored message under `subject`, oldest first."""
        return [message async for message in scan(self.wire, stream, subject)]


def is_ending(msg: Msg, task_id: str) -> bool:
    return msg.subject in (topology.COMPLETED, topology.FAILED) and json.loads(msg.data)["task_id"] == task_id


@asynccontextmanager
async def running(
    nats_url: str, model: ModelServer, home: Path, nats: Nats, **overrides: Any
) -> AsyncIterator[Running]:
    settings = load(
        nats_url=nats_url,
        vllm_url=model.url,
        http_port=0,
        home=home,
        ack_wait_seconds=ACK_WAIT_SECONDS,
        drain_seconds=5.0,
        retry_base_seconds=0.02,
        retry_cap_seconds=0.2,
        # Shorter than all backoffs together, as the defaults are: one test's dead server must not fail the next test.
        breaker_cooldown_seconds=0.05,
        **overrides,
    )
    async with service(settings) as started, connect_client(nats_url) as client:
        yield Running(started, settings, client, nats, model)
