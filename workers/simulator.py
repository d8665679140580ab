"""An OpenAI-compatible server without a model: for demos, tests and benchmarks.

It speaks what vLLM speaks (`/v1/chat/completions` plain and streamed, `/v1/models`, `/health`, `/metrics`), takes as long as it is
told, and fails as it is told. Its text is made from the request and its seed: the same request gives the same text, and every
answer says that it is simulated. It stands in for a server, never for an answer: a real deployment does not contain it.

`POST /simulator` {"latency_ms": 50, "faults": {"500": 0.2}, "script": ["400", "ok"]} changes its ways while it runs, `GET
/simulator` tells what it has seen.
"""

import argparse
import asyncio
import json
import random
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import uvloop
from aiohttp import web

from parley.broker.host import tune_gc
from parley.workers.turns import Turns

# As vLLM's own default for a model whose name nobody cares about here.
DEFAULT_MODEL = "simulated-model"
# Faults, by name: what share of requests (0 to 1) meets each.
FAULTS = (
    "429",  # shed, without Retry-After
    "429-retry-after",  # shed, with Retry-After: 1
    "500",
    "503",
    "400",
    "401",  # with `error` as a plain string, as vLLM does for a missing key
    "404",
    "context",  # 400, as for a prompt longer than the model allows
    "hang",  # headers never come
    "drip",  # one byte a second, for ever
    "reset",  # the connection is cut
    "null",  # `content` is null
    "length",  # cut by max_tokens: finish_reason "length"
    "truncated",  # the body ends in the middle
    "garbage",  # 200, but not JSON
    "stream-error",  # an error line inside a 200 stream, and still [DONE]
)
LATEST = 64
# Larger request bodies are refused, as any server would: 8 MiB is ample for 256 KiB of task and 64 KiB of constraints.
MAX_REQUEST_BYTES = 8 * 1024 * 1024
_TEXT = (
    "the a one we this that each first then next result input output value state check edge case limit test queue message retry bound "
    "cache order time deadline agent design choice reason cost risk simple small clear measure prove keep drop split join write read store "
    "send wait"
)
_WORDS = _TEXT.split()


@dataclass(frozen=True, slots=True)
class Manner:
    """How it behaves. `latency_ms` before the first token, then `tokens_per_second` (0: all at once). At most `slots` answers are
    made at a time (0: any number), the rest wait their turn: vLLM's `max_num_seqs`. `max_model_len`: tokens, prompt and answer together;
    a token is a word here."""

    model: str = DEFAULT_MODEL
    api_key: str | None = None
    latency_ms: float = 300.0
    tokens_per_second: float = 0.0
    tokens: int = 48
    slots: int = 0
    max_model_len: int = 32_768
    faults: Mapping[str, float] = field(default_factory=dict)
    script: Sequence[str] = ()
    seed: int = 0


@dataclass(slots=True)
class Seen:
    """`running`: here and not answered, those that wait for a slot among them."""

    requests: int = 0
    running: int = 0
    most_running: int = 0
    completed: int = 0
    aborted: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    # Of the latest requests, for who wants to know what reached the server.
    latest: list[dict[str, Any]] = field(default_factory=list)


class Simulator:
    def __init__(self, manner: Manner) -> None:
        self.manner = manner
        self.seen = Seen()
        self._turns = Turns(manner.slots)
        self._dice = random.Random(manner.seed)
        self._script = list(manner.script)

    def app(self) -> web.Application:
        app = web.Application(client_max_size=MAX_REQUEST_BYTES)
        app.add_routes(
            [
                web.post("/v1/chat/completions", self._chat),
                web.get("/v1/models", self._models),
                web.get("/health", self._health),
                web.get("/metrics", self._metrics),
                web.get("/simulator", self._tell),
                web.post("/simulator", self._change),
            ]
        )
        return app

    # ── completions ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        seen = self.seen
        seen.requests += 1
        seen.running += 1
        seen.most_running = max(seen.most_running, seen.running)
        try:
            response = await self._serve(request)
            seen.completed += response.status == 200
            return response
        except (asyncio.CancelledError, ConnectionResetError):
            seen.aborted += 1
            raise
        finally:
            seen.running -= 1

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if self._locked(request):
            return _unauthorized()
        try:
            body = await request.json()
            messages, stream = body["messages"], bool(body.get("stream"))
        except (ValueError, KeyError, TypeError):
            return _error(400, "body must be JSON with `messages`")
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            return _error(400, "`messages` must be a list of objects")
        if body.get("model") != self.manner.model:
            return _error(404, f"The model `{body.get('model')}` does not exist.")
        self._note(request, body)
        longest, prompt = self.manner.max_model_len, _prompt_tokens(messages)
        if prompt + (body.get("max_tokens") or 1) > longest:
            return _too_long(longest, prompt)
        fault = self._fault()
        refused = await self._refuse(request, fault)
        if refused is not None:
            return refused
        async with self._turns.mine():
            return await self._answer(request, body, messages, stream, fault)

    async def _answer(
        self,
        request: web.Request,
        body: Mapping[str, Any],
        messages: Sequence[Mapping[str, str]],
        stream: bool,
        fault: str | None,
    ) -> web.StreamResponse:
        await asyncio.sleep(self.manner.latency_ms / 1000)
        words, finish_reason = _text(body, self.manner), "length" if fault == "length" else "stop"
        usage = _usage(messages, words)
        self.seen.prompt_tokens += usage["prompt_tokens"]
        self.seen.generation_tokens += usage["completion_tokens"]
        if stream:
            return await self._streamed(request, words, finish_reason, usage, fault)
        if self.manner.tokens_per_second:
            await asyncio.sleep(len(words) / self.manner.tokens_per_second)
        return await self._plain(request, words, finish_reason, usage, fault)

    def _locked(self, request: web.Request) -> bool:
        return (
            bool(self.manner.api_key)
            and request.headers.get("authorization") != f"Bearer {self.manner.api_key}"
        )

    def _note(self, request: web.Request, body: Mapping[str, Any]) -> None:
        known = ("model", "temperature", "max_tokens", "seed", "stop", "stream")
        seen = {key: body[key] for key in known if key in body}
        self.seen.latest.append({**seen, "traceparent": request.headers.get("traceparent")})
        del self.seen.latest[:-LATEST]

    def _fault(self) -> str | None:
        if self._script:
            step = self._script.pop(0)
            return None if step == "ok" else step
        roll = self._dice.random()
        for name, share in self.manner.faults.items():
            if roll < share:
                return name
            roll -= share
        return None

    async def _refuse(self, request: web.Request, fault: str | None) -> web.StreamResponse | None:
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

    async def _plain(
        self,
        request: web.Request,
        words: Sequence[str],
        finish_reason: str,
        usage: Mapping[str, int],
        fault: str | None,
    ) -> web.StreamResponse:
        content = None if fault == "null" else " ".join(words)
        answer = {
            "id": "chatcmpl-simulated",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self.manner.model,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": content},
                    "finish_reason": finish_reason,
                }
            ],
            "usage": usage,
        }
        body = json.dumps(answer).encode()
        if fault == "garbage":
            body = b"<html>not what you asked for</html>"
        if fault == "truncated":
            response = web.StreamResponse(
                headers={"content-type": "application/json", "content-length": str(len(body))}
            )
            await response.prepare(request)
            await response.write(body[: len(body) // 2])
            _cut(request)
        return web.Response(body=body, content_type="application/json")

    async def _streamed(
        self,
        request: web.Request,
        words: Sequence[str],
        finish_reason: str,
        usage: Mapping[str, int],
        fault: str | None,
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)

        async def say(**fields: Any) -> None:
            event = {
                "id": "chatcmpl-simulated",
                "object": "chat.completion.chunk",
                "model": self.manner.model,
                **fields,
            }
            await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")

        for place, word in enumerate(words):
            if fault in ("stream-error", "truncated") and place == len(words) // 2:
                if fault == "truncated":
                    _cut(request)
                await response.write(
                    b'data: {"error": {"message": "EngineCore encountered an issue", "code": 500}}\n\ndata: [DONE]\n\n'
                )
                return response
            delta = {} if fault == "null" else {"content": word if place == 0 else f" {word}"}
            await say(choices=[{"index": 0, "delta": delta, "finish_reason": None}])
            if self.manner.tokens_per_second:
                await asyncio.sleep(1 / self.manner.tokens_per_second)
        await say(choices=[{"index": 0, "delta": {}, "finish_reason": finish_reason}])
        await say(choices=[], usage=usage)
        await response.write(b"data: [DONE]\n\n")
        return response

    # ── everything else ───────────────────────────────────────────────────────────────────────────────────────────

    async def _models(self, request: web.Request) -> web.Response:
        if self._locked(request):
            return _unauthorized()
        entry = {
            "id": self.manner.model,
            "object": "model",
            "owned_by": "parley-simulator",
            "max_model_len": self.manner.max_model_len,
        }
        return web.json_response({"object": "list", "data": [entry]})

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _metrics(self, _: web.Request) -> web.Response:
        seen, label, waiting = self.seen, f'{{model_name="{self.manner.model}"}}', self._turns.waiting
        lines = [
            "# TYPE vllm:num_requests_running gauge",
            f"vllm:num_requests_running{label} {seen.running - waiting}",
            "# TYPE vllm:num_requests_waiting gauge",
            f"vllm:num_requests_waiting{label} {waiting}",
            "# TYPE vllm:prompt_tokens_total counter",
            f"vllm:prompt_tokens_total{label} {seen.prompt_tokens}",
            "# TYPE vllm:generation_tokens_total counter",
            f"vllm:generation_tokens_total{label} {seen.generation_tokens}",
        ]
        return web.Response(text="\n".join(lines) + "\n")

    async def _tell(self, _: web.Request) -> web.Response:
        return web.json_response({**asdict(self.seen), "waiting": self._turns.waiting})

    async def _change(self, request: web.Request) -> web.Response:
        change = await request.json()
        unknown = set(change.get("faults", {})) | (set(change.get("script", ())) - {"ok"})
        unknown -= set(FAULTS)
        if unknown or not set(change) <= set(Manner.__dataclass_fields__):
            return _error(
                400, f"unknown: {sorted(unknown) or sorted(set(change) - set(Manner.__dataclass_fields__))}"
            )
        self.manner = replace(self.manner, **change)
        self._turns.resize(self.manner.slots)
        if "script" in change:
            self._script = list(change["script"])
        return web.json_response({})


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
    raise ConnectionResetError("cut on purpose")


def _unauthorized() -> web.Response:
    return web.json_response({"error": "Unauthorized"}, status=401)


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response({"error": {"message": message, "code": status}}, status=status, headers=headers)


def _too_long(longest: int, prompt: int) -> web.Response:
    return _error(
        400,
        f"This model's maximum context length is {longest} tokens. However, your request has {prompt} input tokens.",
    )


_ANY = random.Random()


def _text(body: Mapping[str, Any], manner: Manner) -> list[str]:
    """Words from the request and the seed. Temperature 0 means the seed does not matter, as with a real model."""
    temperature = body.get("temperature", 1.0)
    seed = body.get("seed") if temperature else None
    free = temperature and seed is None
    dice = _ANY if free else random.Random(json.dumps([body["messages"], temperature, seed, manner.seed]))
    # Answers differ in length, as a model's do.
    count = min(dice.randint(manner.tokens // 2, manner.tokens), body.get("max_tokens") or manner.tokens)
    return ["[simulated", "answer]", *dice.choices(_WORDS, k=count)][: max(1, count)]


def _prompt_tokens(messages: Sequence[Mapping[str, str]]) -> int:
    return sum(len(str(message.get("content", "")).split()) for message in messages)


def _usage(messages: Sequence[Mapping[str, str]], words: Sequence[str]) -> dict[str, int]:
    prompt = _prompt_tokens(messages)
    return {"prompt_tokens": prompt, "completion_tokens": len(words), "total_tokens": prompt + len(words)}


async def serve(manner: Manner, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT. Prints the address as the first line of output."""
    # handler_cancellation: a client that leaves cancels its request, as vLLM aborts it.
    runner = web.AppRunner(
        Simulator(manner).app(), handler_cancellation=True, access_log=None, shutdown_timeout=1.0
    )
    await runner.setup()
    site = web.TCPSite(runner, host, port)
    await site.start()
    (address,) = (socket.getsockname() for socket in site._server.sockets)  # type: ignore[union-attr]
    print(f"http://{address[0]}:{address[1]}", flush=True)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await runner.cleanup()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m parley.workers.simulator", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--api-key", default=None)
    parser.add_argument("--latency-ms", type=float, default=Manner().latency_ms)
    parser.add_argument("--tokens-per-second", type=float, default=0.0, help="0: all at once")
    parser.add_argument("--tokens", type=int, default=Manner().tokens)
    parser.add_argument(
        "--slots", type=int, default=0, help="answers made at a time, the rest wait; 0: any number"
    )
    parser.add_argument(
        "--max-model-len", type=int, default=Manner().max_model_len, help="words, prompt and answer together"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--fault", action="append", default=[], metavar="NAME=SHARE", help=f"one of {', '.join(FAULTS)}"
    )
    options = parser.parse_args(argv)
    faults = {}
    for text in options.fault:
        name, _, share = text.partition("=")
        if name not in FAULTS:
            parser.error(f"--fault {name}: not one of {', '.join(FAULTS)}")
        faults[name] = float(share or 1)
    manner = Manner(
        model=options.model,
        api_key=options.api_key,
        latency_ms=options.latency_ms,
        tokens_per_second=options.tokens_per_second,
        tokens=options.tokens,
        slots=options.slots,
        max_model_len=options.max_model_len,
        faults=faults,
        seed=options.seed,
    )
    tune_gc()
    uvloop.run(serve(manner, options.host, options.port))
    return 0


if __name__ == "__main__":
    sys.exit(main())
