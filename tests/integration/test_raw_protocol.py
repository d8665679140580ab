"""NATS's text protocol over a bare TCP socket, no client library: what the contract promises to any language."""

import asyncio
import json
from urllib.parse import urlsplit

from parley.broker.core.messages import DeliberationCompleted
from tests.harness import Running, fresh
from tests.integration.test_deliberations import COMPLETED_FIELDS


class Socket:
    """Just enough of the protocol: CONNECT, SUB, PUB, and reading MSG."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, url: str) -> "Socket":
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        assert (await reader.readline()).startswith(b"INFO ")
        options = {"verbose": False, "pedantic": False, "auth_token": parts.username}
        writer.write(b"CONNECT " + json.dumps(options).encode() + b"\r\nPING\r\n")
        assert await reader.readline() == b"PONG\r\n"
        return cls(reader, writer)

    async def say(self, line: str, payload: bytes | None = None) -> None:
        self._writer.write(line.encode() + b"\r\n" + (b"" if payload is None else payload + b"\r\n"))
        await self._writer.drain()

    async def hear(self) -> tuple[str, bytes]:
        """(subject, payload) of the next plain message; HMSG's headers are skipped."""
        while True:
            words = (await self._reader.readline()).split()
            if words[0] == b"PING":
                await self.say("PONG")
            elif words[0] == b"MSG":
                return words[1].decode(), (await self._reader.readexactly(int(words[-1]) + 2))[:-2]
            elif words[0] == b"HMSG":
                total, headers = int(words[-1]), int(words[-2])
                return words[1].decode(), (await self._reader.readexactly(total + 2))[headers:-2]
            else:
                raise AssertionError(words)

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


async def test_a_bare_pub_starts_a_deliberation_and_a_plain_subscriber_gets_its_ending(on: Running) -> None:
    socket = await Socket.open(on.service.nats_url)
    try:
        async with asyncio.timeout(20):
            task_id = fresh("raw")
            request = json.dumps(
                {"task_id": task_id, "task_description": "Write a factorial function"}
            ).encode()
            await socket.say("SUB deliberation.completed 1")
            await socket.say(f"PUB deliberation.requested {len(request)}", request)
            while True:
                subject, payload = await socket.hear()
                if json.loads(payload)["task_id"] == task_id:
                    break
    finally:
        await socket.close()
    assert subject == "deliberation.completed"
    assert set(json.loads(payload)) >= COMPLETED_FIELDS
    ending = DeliberationCompleted.model_validate_json(payload)
    assert not ending.degraded
    assert len(ending.results) == 3


async def test_status_is_asked_for_by_request_and_reply(on: Running) -> None:
    ending = await on.client.deliberate("x")
    socket = await Socket.open(on.service.nats_url)
    try:
        async with asyncio.timeout(20):
            question = json.dumps({"task_id": ending.task_id}).encode()
            await socket.say("SUB _INBOX.mine 1")
            await socket.say(f"PUB deliberation.get _INBOX.mine {len(question)}", question)
            _, payload = await socket.hear()
    finally:
        await socket.close()
    status = json.loads(payload)
    assert status["status"] == "COMPLETED"
    assert set(status) >= {
        "task_id", "status", "results", "error_message", "duration_ms", "total_agents", "received_count", "failed_count",
        "winner_id", "metadata",
    }  # fmt: skip
