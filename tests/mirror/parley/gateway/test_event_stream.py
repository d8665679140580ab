"""Events over HTTP: each once, also where the gateway dies and another goes on."""

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from parley.gateway import event_stream, http_server
from tests.harness import ModelServer, Running, fresh, until
from tests.mirror.parley.gateway import door

QUESTION = {"task_description": "x", "num_agents": 4}


async def read(
    program: httpx.AsyncClient, where: str, after: str | None = None, most: int = 1000
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    headers = {"Last-Event-ID": after} if after else {}
    async with program.stream("GET", f"{where}/events", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                found.append(json.loads(line.removeprefix("data: ")))
                if len(found) == most:
                    break
    return found


async def test_each_event_comes_with_an_id_and_the_ending_last(program: httpx.AsyncClient) -> None:
    where = (await program.post("/v1/deliberations", json=QUESTION)).headers["location"]
    events = await read(program, where)
    assert [event["type"] for event in events] == ["phase", *["answer"] * 4, "ending"]
    assert all(event["result"]["proposal"]["content"] for event in events[1:-1])
    assert events[-1]["ending"]["status"] == "completed"


async def test_another_gateway_goes_on_behind_the_last_id(
    program: httpx.AsyncClient, local_service: Running, model: ModelServer
) -> None:
    await model.behave(latency_ms=200)
    where = (await program.post("/v1/deliberations", json=QUESTION)).headers["location"]
    first = await read(program, where, most=2)
    async with door(local_service) as other:
        rest = await read(other, where, after=first[-1]["id"])
        told = [(event["type"], event.get("agent_id")) for event in (*first, *rest)]
        assert len(told) == len(set(told)) == 6
        over = await other.get(f"{where}/events", headers={"Last-Event-ID": rest[-1]["id"]})
        assert over.status_code == 204


async def test_where_nothing_happens_a_comment_says_so(
    program: httpx.AsyncClient, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "COMMENT_SECONDS", 0.05)
    await model.behave(faults={"hang": 1.0})
    where = (await program.post("/v1/deliberations", json={**QUESTION, "timeout_seconds": 60})).headers[
        "location"
    ]
    async with program.stream("GET", f"{where}/events") as answer:
        comments = 0
        async for line in answer.aiter_lines():
            comments += line.startswith(":")
            if comments == 3:
                break
    await program.delete(where)


@pytest.mark.parametrize("after", ["x", "2.A", "1." + "A" * 5_000])
async def test_what_is_no_id_is_refused(program: httpx.AsyncClient, after: str) -> None:
    refused = await program.get(f"/v1/deliberations/{fresh()}/events", headers={"Last-Event-ID": after})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "Last-Event-ID")


async def test_a_listener_that_goes_away_leaves_nothing_behind(
    program: httpx.AsyncClient, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_stream, "COMMENT_SECONDS", 0.05)
    following: list[int] = []
    original = event_stream.with_pauses

    async def counted(found: Any) -> Any:
        following.append(1)
        try:
            async for item in original(found):
                yield item
        finally:
            following.pop()

    monkeypatch.setattr(event_stream, "with_pauses", counted)
    await model.behave(faults={"hang": 1.0})
    where = (await program.post("/v1/deliberations", json={**QUESTION, "timeout_seconds": 60})).headers[
        "location"
    ]
    await read(program, where, most=1)
    await until(lambda: not following, "nobody is followed")
    await program.delete(where)


async def test_a_reader_that_does_not_read_is_cut(
    program: httpx.AsyncClient,
    model: ModelServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(http_server, "READ_SECONDS", 0.3)
    await model.behave(tokens=60_000)
    large = {**QUESTION, "num_agents": 4}
    where = (await program.post("/v1/deliberations?wait=30", json=large)).headers["location"]
    with socket.socket() as reader:
        reader.settimeout(30)
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect((program.base_url.host, program.base_url.port))
        reader.sendall(
            f"GET {where}/events HTTP/1.1\r\nHost: localhost:1\r\nConnection: close\r\n\r\n".encode()
        )
        await asyncio.sleep(2.0)  # it reads nothing for longer than it may

        def rest() -> int:
            size = 0
            while chunk := reader.recv(65_536):
                size += len(chunk)
            return size

        read_late = await asyncio.to_thread(rest)
    whole = sum([len(line) async for line in _lines(program, where)])
    assert 0 < read_late < whole
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def _lines(program: httpx.AsyncClient, where: str) -> AsyncIterator[str]:
    async with program.stream("GET", f"{where}/events") as answer:
        async for line in answer.aiter_lines():
            yield line
