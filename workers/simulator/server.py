"""The simulated server's HTTP side: `/v1/chat/completions` plain and streamed, `/v1/models`, `/health`, `/metrics`.

`POST /simulator` {"latency_ms": 50, "faults": {"500": 0.2}, "script": ["400", "ok"]} changes the behaviour while the
server runs. `GET /simulator` returns what the server has counted.
"""

import asyncio
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from aiohttp import web
from anyio import CapacityLimiter

from parley.workers.simulator.answers import choose_words, prompt_tokens, usage
from parley.workers.simulator.behaviour import FAULTS, Behaviour, FaultPicker

# How many of the latest requests `GET /simulator` returns.
LATEST = 64
# A larger body is refused. Requests of this service hold at most 256 KiB of task and 64 KiB of constraints.
MAX_REQUEST_BYTES = 8 * 1024 * 1024
# The fields of a request that `GET /simulator` returns: nothing that a caller wrote.
_REPORTED = ("model", "temperature", "max_tokens", "seed", "stop", "stream")


@dataclass(slots=True)
class Stats:
    """What the server has counted since its start. `running` counts the requests that wait for a slot, too."""

    requests: int = 0
    running: int = 0
    most_running: int = 0
    completed: int = 0
    aborted: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    # The latest requests' parameters and trace context, for tests.
    latest: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class SimulatedAnswer:
    words: Sequence[str]
    usage: Mapping[str, int]
    # The fault that shows in an answer, or None.
    fault: str | None

    @property
    def finish_reason(self) -> str:
        return "length" if self.fault == "length" else "stop"


class Simulator:
    """One simulated server: its behaviour, which can be changed, and what it has counted."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.stats = Stats()
        # Requests that generate now hold a slot; the rest wait, first come, first served.
        self._slots = CapacityLimiter(behaviour.slots or math.inf)
        self._faults = FaultPicker(behaviour)

    def app(self) -> web.Application:
        app = web.Application(client_max_size=MAX_REQUEST_BYTES)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/simulator", self._show_stats)
        app.router.add_post("/simulator", self._change)
        return app

    # ── completions ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        stats = self.stats
        stats.requests += 1
        stats.running += 1
        stats.most_running = max(stats.most_running, stats.running)
        try:
            response = await self._serve(request)
            stats.completed += response.status == 200
            return response
        except (asyncio.CancelledError, ConnectionResetError):
            stats.aborted += 1
            raise
        finally:
            stats.running -= 1

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if self._lacks_key(request):
            return _unauthorized()
        try:
            body = await request.json()
            messages, stream = body["messages"], bool(body.get("stream"))
        except (ValueError, KeyError, TypeError):
            return _error(400, "body must be JSON with `messages`")
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            return _error(400, "`messages` must be a list of objects")
        if body.get("model") != self.behaviour.model:
            return _error(404, f"The model `{body.get('model')}` does not exist.")
        self._record(request, body)
        limit, prompt = self.behaviour.max_model_len, prompt_tokens(messages)
        if prompt + (body.get("max_tokens") or 1) > limit:
            return _too_long(limit, prompt)
        fault = self._faults.pick(self.behaviour.faults)
        refusal = await _refuse(request, fault)
        if refusal is not None:
            return refusal
        async with self._slots:
            await asyncio.sleep(self.behaviour.latency_ms / 1000)
            answer = self._answer(body, messages, fault)
            return await (self._stream if stream else self._reply)(request, answer)

    def _lacks_key(self, request: web.Request) -> bool:
        key = self.behaviour.api_key
        return bool(key) and request.headers.get("authorization") != f"Bearer {key}"

    def _record(self, request: web.Request, body: Mapping[str, Any]) -> None:
        reported = {key: body[key] for key in _REPORTED if key in body}
        self.stats.latest.append({**reported, "traceparent": request.headers.get("traceparent")})
        del self.stats.latest[:-LATEST]

    def _answer(
        self, body: Mapping[str, Any], messages: Sequence[Mapping[str, str]], fault: str | None
    ) -> SimulatedAnswer:
        words = choose_words(body, self.behaviour)
        counted = usage(messages, words)
        self.stats.prompt_tokens += counted["prompt_tokens"]
        self.stats.generation_tokens += counted["completion_tokens"]
        return SimulatedAnswer(words, counted, fault)

    async def _reply(self, request: web.Request, answer: SimulatedAnswer) -> web.StreamResponse:
        if self.behaviour.tokens_per_second:
            await asyncio.sleep(len(answer.words) / self.behaviour.tokens_per_second)
        content = None if answer.fault == "null" else " ".join(answer.words)
        message = {"role": "assistant", "content": content}
        completion = {
            "id": "chatcmpl-simulated",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self.behaviour.model,
            "choices": [{"index": 0, "message": message, "finish_reason": answer.finish_reason}],
            "usage": answer.usage,
        }
        body = json.dumps(completion).encode()
        if answer.fault == "garbage":
            body = b"<html>not what you asked for</html>"
        if answer.fault == "truncated":
            headers = {"content-type": "application/json", "content-length": str(len(body))}
            response = web.StreamResponse(headers=headers)
            await response.prepare(request)
            await response.write(body[: len(body) // 2])
            _cut(request)
        return web.Response(body=body, content_type="application/json")

    async def _stream(self, request: web.Request, answer: SimulatedAnswer) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        head = {"id": "chatcmpl-simulated", "object": "chat.completion.chunk", "model": self.behaviour.model}

        async def send(**event: Any) -> None:
            await response.write(b"data: " + json.dumps({**head, **event}).encode() + b"\n\n")

        async def send_choice(delta: Mapping[str, str], finish_reason: str | None = None) -> None:
            await send(choices=[{"index": 0, "delta": delta, "finish_reason": finish_reason}])

        for place, word in enumerate(answer.words):
            if place == len(answer.words) // 2 and answer.fault == "truncated":
                _cut(request)
            if place == len(answer.words) // 2 and answer.fault == "stream-error":
                error = {"message": "EngineCore encountered an issue", "code": 500}
                await response.write(b"data: %b\n\ndata: [DONE]\n\n" % json.dumps({"error": error}).encode())
                return response
            content = word if place == 0 else f" {word}"
            await send_choice({} if answer.fault == "null" else {"content": content})
            if self.behaviour.tokens_per_second:
                await asyncio.sleep(1 / self.behaviour.tokens_per_second)
        await send_choice({}, answer.finish_reason)
        await send(choices=[], usage=answer.usage)
        await response.write(b"data: [DONE]\n\n")
        return response

    # ── everything else ───────────────────────────────────────────────────────────────────────────────────────────

    async def _models(self, request: web.Request) -> web.Response:
        if self._lacks_key(request):
            return _unauthorized()
        entry = {"id": self.behaviour.model, "object": "model", "owned_by": "parley-simulator"}
        limit = {"max_model_len": self.behaviour.max_model_len}
        return web.json_response({"object": "list", "data": [{**entry, **limit}]})

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _metrics(self, _: web.Request) -> web.Response:
        stats, waiting = self.stats, self._waiting()
        lines = []
        for name, kind, value in (
            ("num_requests_running", "gauge", stats.running - waiting),
            ("num_requests_waiting", "gauge", waiting),
            ("prompt_tokens_total", "counter", stats.prompt_tokens),
            ("generation_tokens_total", "counter", stats.generation_tokens),
        ):
            lines.append(f"# TYPE vllm:{name} {kind}\n")
            lines.append(f'vllm:{name}{{model_name="{self.behaviour.model}"}} {value}\n')
        return web.Response(text="".join(lines))

    async def _show_stats(self, _: web.Request) -> web.Response:
        return web.json_response({**asdict(self.stats), "waiting": self._waiting()})

    def _waiting(self) -> int:
        return self._slots.statistics().tasks_waiting

    async def _change(self, request: web.Request) -> web.Response:
        change = await request.json()
        steps = set(change.get("script", ())) - {"ok"}
        unknown = ({*change.get("faults", {})} | steps) - {*FAULTS}
        unknown = unknown or set(change) - {known.name for known in fields(Behaviour)}
        if unknown:
            return _error(400, f"unknown: {sorted(unknown)}")
        self.behaviour = replace(self.behaviour, **change)
        self._slots.total_tokens = self.behaviour.slots or math.inf
        if "script" in change:
            self._faults.restart_script(change["script"])
        return web.json_response({})


async def _refuse(request: web.Request, fault: str | None) -> web.StreamResponse | None:
    """Carry out a fault that comes instead of an answer. None if the request is to be answered."""
    match fault:
        case "429":
            return _error(429, "too many requests")
        case "429-retry-after":
            return _error(429, "too many requests", {"Retry-After": "1"})
        case "500" | "503" | "400" | "404":
            return _error(int(fault), "simulated fault")
        case "401":
            return _unauthorized()
        case "context":
            return _too_long(2048, 9000)
        case "hang":
            await asyncio.Event().wait()
        case "reset":
            _cut(request)
        case "drip":
            response = web.StreamResponse(headers={"content-type": "application/json"})
            await response.prepare(request)
            while True:
                await response.write(b" ")
                await asyncio.sleep(1)
    return None


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
    raise ConnectionResetError("cut on purpose")


def _unauthorized() -> web.Response:
    return web.json_response({"error": "Unauthorized"}, status=401)


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response({"error": {"message": message, "code": status}}, status=status, headers=headers)


def _too_long(limit: int, prompt: int) -> web.Response:
    limited = f"This model's maximum context length is {limit} tokens."
    return _error(400, f"{limited} However, your request has {prompt} input tokens.")
