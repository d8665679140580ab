"""An HTTP server with one habit: a function that answers each request. For what model servers do beside the standard."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Heard:
    """A request as it came. `target`: path and query; a whole URL at a proxy. `headers`: names in small letters."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def fields(self) -> dict[str, Any]:
        return dict(json.loads(self.body)) if self.body else {}


# Any: a dict or a list is sent as JSON, bytes as they are.
Reply = tuple[int, Any, dict[str, str]]
Habit = Callable[[Heard], Reply]


def answer(text: str = "hi", **fields: Any) -> Reply:
    choice = {"message": {"content": text}, "finish_reason": "stop"}
    return 200, {"choices": [choice], "model": "m", **fields}, {}


def streamed(text: str = "hi") -> Reply:
    lines = [json.dumps({"choices": [{"delta": {"content": text}, "finish_reason": "stop"}]}), "[DONE]"]
    return 200, "".join(f"data: {line}\n\n" for line in lines).encode(), {"content-type": "text/event-stream"}


def either(heard: Heard) -> Reply:
    """An answer in the form that was asked for, or a list of one model."""
    if heard.method == "GET":
        return 200, {"data": [{"id": "m"}]}, {}
    return streamed() if heard.fields.get("stream") else answer()


def refusal(status: int, message: str = "no", **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, {"error": {"message": message}}, named


def having(*models: str, listed: Sequence[str] | None = None) -> Habit:
    """A server that has these models, and lists them or others."""

    def habit(heard: Heard) -> Reply:
        if heard.method == "GET":
            return 200, {"data": [{"id": name} for name in (models if listed is None else listed)]}, {}
        asked = str(heard.fields["model"])
        return answer(f"from {asked}") if asked in models else refusal(404, f"no model {asked}")

    return habit


@dataclass(slots=True)
class HabitServer:
    """`heard`: every request so far."""

    habit: Habit
    url: str = ""
    heard: list[Heard] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while (heard := await _read(reader)) is not None:
                self.heard.append(heard)
                writer.write(_reply(*self.habit(heard)))
                await writer.drain()
        writer.close()


async def _read(reader: asyncio.StreamReader) -> Heard | None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.strip().split("\r\n")
    method, target, _ = first.split(" ")
    headers = {
        name.strip().lower(): value.strip() for name, _, value in (one.partition(":") for one in lines)
    }
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Heard(method, target, headers, body)


def _reply(status: int, body: Any, headers: dict[str, str]) -> bytes:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {"content-length": str(len(raw)), **headers}
    lines = [f"HTTP/1.1 {status} As it is", *(f"{name}: {value}" for name, value in named.items() if value)]
    return "\r\n".join([*lines, "", ""]).encode() + raw


@asynccontextmanager
async def habit_server(
    habit: Habit = either, tls: ssl.SSLContext | None = None
) -> AsyncIterator[HabitServer]:
    server = HabitServer(habit)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    scheme, host = ("https", "localhost") if tls else ("http", "127.0.0.1")
    server.url = f"{scheme}://{host}:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()
