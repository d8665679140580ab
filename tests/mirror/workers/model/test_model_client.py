"""One call to a model server: the simulator in its own process, and servers that answer with given bytes."""

import asyncio
import errno
import gzip
import json
import socket
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest

from parley.broker.core.agent_error_table import Signal
from parley.broker.core.messages import MAX_FIGURE, ErrorType, Usage
from parley.workers.model import responses
from parley.workers.model.call_policy import CallTimeouts
from parley.workers.model.endpoint_address import Endpoint
from parley.workers.model.model_client import ChatRequest, ModelClient
from parley.workers.model.model_error import MAX_ERROR_CHARACTERS, ModelError
from parley.workers.model.model_list import ServedModel
from parley.workers.model.responses import MAX_ANSWER_BYTES, Completion
from parley.workers.simulator import DEFAULT_MODEL, FAULTS
from tests.harness import ModelServer, model_server

ASK = ChatRequest(
    model=DEFAULT_MODEL, messages=[{"role": "user", "content": "Say something"}], temperature=0.5, seed=1
)
# What a call must come to for each fault of the simulator: its error, or how its answer ended. (plain,
# streamed)
OUTCOMES: dict[str, tuple[ErrorType | str, ErrorType | str]] = {
    "429": (ErrorType.RATE_LIMITED, ErrorType.RATE_LIMITED),
    "429-retry-after": (ErrorType.RATE_LIMITED, ErrorType.RATE_LIMITED),
    "500": (ErrorType.SERVER_ERROR, ErrorType.SERVER_ERROR),
    "503": (ErrorType.SERVER_ERROR, ErrorType.SERVER_ERROR),
    "400": (ErrorType.BAD_REQUEST, ErrorType.BAD_REQUEST),
    "401": (ErrorType.UNAUTHORIZED, ErrorType.UNAUTHORIZED),
    "404": (ErrorType.MODEL_NOT_FOUND, ErrorType.MODEL_NOT_FOUND),
    "context": (ErrorType.CONTEXT_TOO_LONG, ErrorType.CONTEXT_TOO_LONG),
    "hang": (ErrorType.TOTAL_TIMEOUT, ErrorType.FIRST_BYTE_TIMEOUT),
    "drip": (ErrorType.TOTAL_TIMEOUT, ErrorType.TOTAL_TIMEOUT),
    "reset": (ErrorType.CONNECTION_LOST, ErrorType.CONNECTION_LOST),
    "null": (ErrorType.EMPTY_ANSWER, ErrorType.EMPTY_ANSWER),
    "length": ("length", "length"),
    "truncated": (ErrorType.CONNECTION_LOST, ErrorType.CONNECTION_LOST),
    # These two are about one form of answer; the other form is not touched by them.
    "garbage": (ErrorType.MALFORMED_ANSWER, "stop"),
    "stream-error": ("stop", ErrorType.SERVER_ERROR),
}


class Canned:
    """A server that answers every connection with the same bytes and closes it; they need not be HTTP."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.heard: list[bytes] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(self.answer)
        writer.close()


@asynccontextmanager
async def canned(answer: bytes) -> AsyncIterator[Canned]:
    server = Canned(answer)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    async with listener:
        yield server


def ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body


def refusal(status: int, body: bytes, *headers: str) -> bytes:
    lines = "".join(
        f"{header}\r\n" for header in (f"HTTP/1.1 {status} No", *headers, f"Content-Length: {len(body)}", "")
    )
    return lines.encode() + body


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


class Clients:
    """Clients by their settings, shared by all tests: a new one reads the machine's certificates, 40 ms."""

    def __init__(self) -> None:
        self._open: dict[tuple[bool, CallTimeouts], ModelClient] = {}
        self._stack = AsyncExitStack()

    async def of(self, stream: bool, timeouts: CallTimeouts) -> ModelClient:
        if (stream, timeouts) not in self._open:
            client = ModelClient(stream=stream, timeouts=timeouts)
            self._open[stream, timeouts] = await self._stack.enter_async_context(client)
        return self._open[stream, timeouts]

    async def close(self) -> None:
        await self._stack.aclose()


CLIENTS = Clients()


@pytest.fixture(scope="module", autouse=True)
async def clients_are_closed() -> AsyncIterator[None]:
    yield
    await CLIENTS.close()


async def call(
    url: str,
    *,
    stream: bool = False,
    seconds: float = 20.0,
    timeouts: CallTimeouts | None = None,
    request: ChatRequest = ASK,
) -> Completion:
    client = await CLIENTS.of(stream, timeouts or CallTimeouts())
    return await client.complete(Endpoint(url), request, seconds=seconds)


async def refused(url: str, **how: Any) -> ModelError:
    with pytest.raises(ModelError) as caught:
        await call(url, **how)
    return caught.value


both = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])


# ── answers ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_plain_and_a_streamed_answer_agree(model: ModelServer) -> None:
    plain, streamed = await call(model.url), await call(model.url, stream=True)
    assert plain == streamed
    assert plain.content.startswith("[simulated answer]")
    assert (plain.finish_reason, plain.model) == ("stop", DEFAULT_MODEL)
    assert plain.usage.prompt_tokens == 2
    assert plain.usage.total_tokens == plain.usage.prompt_tokens + plain.usage.completion_tokens


async def test_a_long_answer_is_the_same_in_thousands_of_events_as_in_one_piece(model: ModelServer) -> None:
    await model.behave(tokens=50_000)
    plain, streamed = await call(model.url), await call(model.url, stream=True)
    assert plain == streamed
    # The events together are larger than the bound, which is about the answer.
    assert plain.usage.completion_tokens * 170 > MAX_ANSWER_BYTES


async def test_the_request_carries_its_fields_and_the_trace(model: ModelServer) -> None:
    asked = replace(ASK, max_tokens=5, stop=["END"], traceparent="00-a-b-01")
    await call(model.url, request=asked)
    await call(model.url, request=ChatRequest(model=DEFAULT_MODEL, messages=ASK.messages), stream=True)
    full, bare = (await model.seen())["latest"][-2:]
    assert full == {
        "model": DEFAULT_MODEL, "temperature": 0.5, "max_tokens": 5,
        "seed": 1, "stop": ["END"], "traceparent": "00-a-b-01",
    }  # fmt: skip
    assert bare == {"model": DEFAULT_MODEL, "stream": True, "traceparent": None}


@pytest.mark.parametrize("form", ["{}", "{}/", "{}/v1", "{}/v1/"])
async def test_a_url_may_be_given_with_and_without_its_v1(model: ModelServer, form: str) -> None:
    url = form.format(model.url)
    assert (await call(url)).finish_reason == "stop"
    async with ModelClient() as client:
        assert await client.models(Endpoint(url)) == [ServedModel(DEFAULT_MODEL, 32_768)]


async def test_half_an_emoji_does_not_make_an_answer_unstorable() -> None:
    async with canned(ok(b'{"choices": [{"message": {"content": "hi \\ud83d"}}]}')) as server:
        assert (await call(server.url)).content == "hi ?"


async def test_fields_that_a_server_leaves_out_get_plain_defaults() -> None:
    async with canned(ok(b'{"choices": [{"message": {"content": "hi"}}]}')) as server:
        assert await call(server.url) == Completion("hi", "unknown", DEFAULT_MODEL, Usage())


@pytest.mark.parametrize(
    "usage",
    [
        "5",
        "null",
        "[]",
        '{"prompt_tokens": true, "completion_tokens": -1, "total_tokens": 1e3}',
        f'{{"prompt_tokens": {2**60}, "completion_tokens": {MAX_FIGURE + 1}}}',  # no message carries these
    ],
)
async def test_an_invalid_usage_does_not_spoil_the_answer(usage: str) -> None:
    body = b'{"choices": [{"message": {"content": "hi"}}], "usage": ' + usage.encode() + b"}"
    async with canned(ok(body)) as server:
        assert (await call(server.url)).usage == Usage()


# ── faults ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_fault_of_the_simulator_is_tried_here() -> None:
    assert set(OUTCOMES) == set(FAULTS)


@both
@pytest.mark.parametrize("fault", FAULTS)
async def test_each_fault_has_its_documented_type(model: ModelServer, fault: str, stream: bool) -> None:
    await model.behave(faults={fault: 1.0})
    expected = OUTCOMES[fault][stream]
    # Short where the limit is what is looked for, and long where a slow machine would only seem to hang.
    timeouts = CallTimeouts(
        first_byte=0.2 if expected is ErrorType.FIRST_BYTE_TIMEOUT else 20,
        total=0.4 if expected is ErrorType.TOTAL_TIMEOUT else 20,
    )
    if isinstance(expected, ErrorType):
        error = await refused(model.url, stream=stream, timeouts=timeouts)
        assert error.error_type is expected, error
        assert str(error)
        assert error.retry_after == (1.0 if fault == "429-retry-after" else None)
    else:
        assert (await call(model.url, stream=stream, timeouts=timeouts)).finish_reason == expected


async def test_a_missing_and_a_wrong_key_are_refused_and_the_right_one_is_taken() -> None:
    async with model_server("--api-key", "open-sesame") as server:
        for stream in (False, True):
            error = await refused(server.url, stream=stream)
            assert error.error_type is ErrorType.UNAUTHORIZED
            assert str(error) == "HTTP 401: it wants a key, and VLLM_API_KEY is not set"
            async with ModelClient(api_key="open-sesame", stream=stream) as client:
                assert (await client.complete(Endpoint(server.url), ASK, seconds=5)).finish_reason == "stop"
            async with ModelClient(api_key="wrong", stream=stream) as client:
                with pytest.raises(ModelError, match="is VLLM_API_KEY right"):
                    await client.complete(Endpoint(server.url), ASK, seconds=5)


@both
async def test_an_unknown_model_is_named(model: ModelServer, stream: bool) -> None:
    error = await refused(model.url, stream=stream, request=replace(ASK, model="gpt-99"))
    assert error.error_type is ErrorType.MODEL_NOT_FOUND
    assert "gpt-99" in str(error)


@both
async def test_a_refused_connection_names_the_server(stream: bool) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # bound, so that no other process listens there
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        error = await refused(url, stream=stream)
    assert error.error_type is ErrorType.CONNECTION_FAILED
    assert url in str(error)


async def test_a_host_that_does_not_exist_cannot_be_connected_to() -> None:
    error = await refused("http://no-such-host.invalid:8000")
    assert error.error_type is ErrorType.CONNECTION_FAILED


async def test_connecting_has_a_limit_of_its_own() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        # The listener accepts no connection: once its queue is full, the kernel does not answer the next one.
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(address)
        started = time.monotonic()
        error = await refused(
            f"http://127.0.0.1:{address[1]}", timeouts=CallTimeouts(connect=0.3), seconds=20
        )
        assert error.error_type is ErrorType.CONNECTION_FAILED
        assert 0.3 <= time.monotonic() - started < 5
        for one in waiting:
            one.close()


@both
@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        ok(b"")[:-2] + b"X:" + b"a" * 70_000,
    ],
    ids=["another protocol", "bad chunk", "endless header"],
)
async def test_an_answer_that_is_not_http_is_a_model_error(answer: bytes, stream: bool) -> None:
    async with canned(answer + b"\r\n\r\n") as server:
        error = await refused(server.url, stream=stream)
        assert error.error_type is ErrorType.MALFORMED_ANSWER
        assert server.url in str(error)
        assert "\n" not in str(error)


@both
async def test_a_connection_that_closes_without_an_answer_is_lost_and_not_refused(stream: bool) -> None:
    async with canned(b"") as server:
        assert (await refused(server.url, stream=stream)).error_type is ErrorType.CONNECTION_LOST


class Closing:
    """Answers each call, and closes the connection right after it without saying so, as llama.cpp does with a stream."""

    def __init__(self, answers: int) -> None:
        self.answers = answers
        self.calls = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split()[0]))
        self.calls += 1
        if self.calls <= self.answers:
            body = b'{"choices": [{"message": {"content": "hi"}}]}'
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        writer.close()


async def test_a_kept_connection_that_the_server_has_closed_costs_no_call() -> None:
    server = Closing(answers=50)
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listener, ModelClient() as client:
        endpoint = Endpoint(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}")
        for _ in range(20):
            assert (await client.complete(endpoint, ASK, seconds=10)).content == "hi"


async def test_a_server_that_closes_every_connection_is_asked_twice_and_no_more() -> None:
    server = Closing(answers=0)
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listener, ModelClient() as client:
        endpoint = Endpoint(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}")
        with pytest.raises(ModelError) as caught:
            await client.complete(endpoint, ASK, seconds=10)
    assert (caught.value.error_type, server.calls) == (ErrorType.CONNECTION_LOST, 2)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"[]", b"{}", b'{"choices": []}', b'{"choices": 5}', b'{"choices": [null]}',
        b'{"choices": [{"message": "hi"}]}', b'{"choices": [{"message": {"content": 5}}]}', b"\xff\xfe", b"[" * 100_000,
        b'{"choices": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)  # fmt: skip
async def test_an_answer_of_another_shape_is_malformed(body: bytes) -> None:
    async with canned(ok(body)) as server:
        assert (await refused(server.url)).error_type is ErrorType.MALFORMED_ANSWER


@pytest.mark.parametrize(
    "content", [None, "", " \n\t", [], {}, [{"type": "image_url", "image_url": {"url": "x"}}]]
)
async def test_an_answer_without_text_is_empty(content: object) -> None:
    body = json.dumps({"choices": [{"message": {"content": content}, "finish_reason": "stop"}]}).encode()
    async with canned(ok(body)) as server:
        assert (await refused(server.url)).error_type is ErrorType.EMPTY_ANSWER


@pytest.mark.parametrize(
    "line",
    [
        b"data: {\n\n", b"data: 5\n\n", b"data: \xff\xfe\n\n", event(choices=5), event(choices=[None]),
        event(choices=[{"delta": "hi"}]), event(choices=[{"delta": {"content": 5}}]),
    ],
)  # fmt: skip
async def test_a_line_of_another_shape_makes_a_stream_malformed(line: bytes) -> None:
    async with canned(
        ok(line + event(choices=[{"delta": {}, "finish_reason": "stop"}]) + b"data: [DONE]\n\n")
    ) as server:
        assert (await refused(server.url, stream=True)).error_type is ErrorType.MALFORMED_ANSWER


async def test_a_stream_may_hold_comments_and_windows_line_ends() -> None:
    lines = b": ping\r\n\r\nevent: x\r\n" + event(
        choices=[{"delta": {"content": "hi"}, "finish_reason": "stop"}]
    )
    async with canned(ok(lines.replace(b"\n\n", b"\r\n\r\n") + b"data: [DONE]\r\n\r\n")) as server:
        assert (await call(server.url, stream=True)).content == "hi"


async def test_an_error_event_in_a_stream_is_an_error_even_after_text_and_before_done() -> None:
    lines = event(choices=[{"delta": {"content": "hi"}, "finish_reason": "stop"}]) + event(
        error={"message": "engine died"}
    )
    async with canned(ok(lines + b"data: [DONE]\n\n")) as server:
        error = await refused(server.url, stream=True)
        assert error.error_type is ErrorType.SERVER_ERROR
        assert "engine died" in str(error)


async def test_a_server_that_goes_away_in_the_middle_of_a_call_has_lost_it() -> None:
    """And is not one to which no connection could be opened, though the call is tried once more."""
    listeners: list[asyncio.Server] = []

    async def go_away(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        listeners[0].close()
        writer.close()

    listeners.append(await asyncio.start_server(go_away, "127.0.0.1", 0))
    async with ModelClient() as client:
        endpoint = Endpoint(f"http://127.0.0.1:{listeners[0].sockets[0].getsockname()[1]}")
        with pytest.raises(ModelError) as caught:
            await client.complete(endpoint, ASK, seconds=10)
    assert caught.value.error_type is ErrorType.CONNECTION_LOST


async def test_a_finished_answer_is_not_waited_on_though_its_connection_stays_open() -> None:
    closed = asyncio.Event()

    async def leave_open(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        writer.write(event(choices=[{"delta": {"content": "42"}, "finish_reason": "stop"}]))
        while await reader.read(1_024):  # until the client closes
            pass
        closed.set()
        writer.close()

    async with (
        await asyncio.start_server(leave_open, "127.0.0.1", 0) as listener,
        ModelClient(stream=True) as client,
    ):
        endpoint = Endpoint(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}")
        answer = await client.complete(endpoint, ASK, seconds=60)
        assert (answer.content, answer.finish_reason) == ("42", "stop")
        await asyncio.wait_for(closed.wait(), 10)


async def test_a_stream_that_ends_before_its_answer_is_a_lost_connection() -> None:
    async with canned(
        ok(event(choices=[{"delta": {"content": "half an ans"}, "finish_reason": None}]))
    ) as server:
        assert (await refused(server.url, stream=True)).error_type is ErrorType.CONNECTION_LOST


@pytest.mark.parametrize("content", ["half an ans", "", None])
async def test_an_answer_that_the_server_aborted_is_an_error(content: str | None) -> None:
    """vLLM 0.32 at SIGTERM: HTTP 200, the words so far, `finish_reason: abort`."""
    body = json.dumps({"choices": [{"message": {"content": content}, "finish_reason": "abort"}]}).encode()
    lines = event(choices=[{"delta": {"content": content}, "finish_reason": None}])
    lines += event(choices=[{"delta": {"content": ""}, "finish_reason": "abort"}]) + b"data: [DONE]\n\n"
    for answer, stream in ((body, False), (lines, True)):
        async with canned(ok(answer)) as server:
            error = await refused(server.url, stream=stream)
            assert error.error_type == ErrorType.SERVER_ERROR
            assert str(error) == "the server broke off: finish_reason abort"


@both
async def test_an_answer_over_the_bound_is_refused(stream: bool) -> None:
    body = json.dumps({"choices": [{"message": {"content": "x" * MAX_ANSWER_BYTES}}]}).encode()
    part = event(choices=[{"delta": {"content": "x" * 65_536}}])
    async with canned(ok(part * (MAX_ANSWER_BYTES // 65_536 + 1) if stream else body)) as server:
        error = await refused(server.url, stream=stream)
        assert error.error_type is ErrorType.MALFORMED_ANSWER
        assert str(MAX_ANSWER_BYTES) in str(error)


async def test_a_line_that_never_ends_is_not_gathered_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses, "MAX_ANSWER_BYTES", 64 * 1024)
    async with canned(ok(b"data: " + b"x" * 1_000_000)) as server:
        assert (await refused(server.url, stream=True)).error_type is ErrorType.MALFORMED_ANSWER


# ── what a server may send without end ──────────────────────────────────────────────────────────────────────


def packed(layers: int, size: int) -> bytes:
    """Blanks, packed so often."""
    body = b" " * size
    for _ in range(layers):
        body = gzip.compress(body, compresslevel=1)
    return body


@both
@pytest.mark.parametrize("status", ["200 OK", "500 No"])
@pytest.mark.parametrize(
    ("encoding", "layers"), [("gzip", 1), ("gzip, gzip", 2), ("deflate", 0), ("GZIP", 1)]
)
async def test_a_packed_answer_is_never_unpacked(
    stream: bool, status: str, encoding: str, layers: int
) -> None:
    """1.2 GiB of blanks, gzip within gzip, took an actor to 6.1 GiB."""
    head = f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Encoding: {encoding}\r\n\r\n".encode()
    answer = head + packed(layers, 64 * 2**20)[: 2**20]
    async with canned(answer) as server:
        tracemalloc.start()
        try:
            error = await refused(server.url, stream=stream)
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert b"accept-encoding: identity" in server.heard[0].lower()
    expected = {
        "200 OK": f"the answer has content-encoding '{encoding}'; only identity was asked for",
        "500 No": "HTTP 500 from the model server: (no text)",
    }
    assert str(error) == expected[status]
    assert most < 4 * 2**20


async def test_an_answer_may_say_that_it_is_not_packed() -> None:
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Encoding: identity\r\n\r\n"
    async with canned(head + b'{"choices": [{"message": {"content": "hi"}}]}') as server:
        assert (await call(server.url)).content == "hi"


@pytest.mark.parametrize(
    "line", [event(choices=[{"delta": {"content": ""}}]), event(choices=[]), b": still here\n\n", b"\n"]
)
async def test_a_stream_of_nothing_grows_nothing_and_others_have_their_turns(line: bytes) -> None:
    """Endless empty events took 104 MiB in 15 s, and others' answers came 1.3 s later."""
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ok(b""))
        with suppress(ConnectionError):
            while True:
                writer.write(line * (65_536 // len(line)))
                sent += 65_536
                await writer.drain()

    longest, seen = 0.0, time.monotonic()

    async def beat() -> None:
        nonlocal longest, seen
        while True:
            await asyncio.sleep(0)
            longest, seen = max(longest, time.monotonic() - seen), time.monotonic()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listener:
        url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        tracemalloc.start()
        beating = asyncio.create_task(beat())
        try:
            errors = await asyncio.gather(*(refused(url, stream=True, seconds=1.0) for _ in range(3)))
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            beating.cancel()
    assert {error.error_type for error in errors} == {ErrorType.DEADLINE_EXCEEDED}
    assert sent > 2 * 2**20
    assert held < 4 * 2**20
    assert longest < 0.5


# ── refusals ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        ("0", 0.0),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
    ],
)
async def test_the_header_retry_after_is_read(header: str, seconds: float | None) -> None:
    async with canned(refusal(503, b"{}", f"Retry-After: {header}")) as server:
        error = await refused(server.url)
        assert error.error_type is ErrorType.SERVER_ERROR
        assert error.retry_after == seconds


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (302, ErrorType.MODEL_NOT_FOUND),
        (304, ErrorType.MALFORMED_ANSWER),
        (403, ErrorType.UNAUTHORIZED),
        (413, ErrorType.CONTEXT_TOO_LONG),
        (422, ErrorType.BAD_REQUEST),
        (502, ErrorType.SERVER_ERROR),
        (599, ErrorType.SERVER_ERROR),
    ],
)
async def test_a_status_says_who_must_act(status: int, kind: ErrorType) -> None:
    async with canned(refusal(status, b"")) as server:
        assert (await refused(server.url)).error_type is kind


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error": {"message": "too long"}}', "too long"),
        (b'{"error": "Unauthorized"}', "Unauthorized"),
        (b'{"detail": "Not Found"}', "Not Found"),
        (b"<h1>Bad Gateway</h1>", "<h1>Bad Gateway</h1>"),
        (b"", "(no text)"),
        (b"[1]", "1"),
        (b"\xff", "\N{REPLACEMENT CHARACTER}"),
    ],
)
async def test_a_refusal_is_told_in_the_servers_words(body: bytes, words: str) -> None:
    async with canned(refusal(400, body)) as server:
        assert words in str(await refused(server.url))


@pytest.mark.parametrize("form", ['{{"error": {{"message": "{}"}}}}', '{{"error": "{}"}}', "{}"])
async def test_a_server_that_quotes_the_whole_prompt_is_cut_short(form: str) -> None:
    async with canned(refusal(400, form.format("word " * 10_000).encode())) as server:
        message = str(await refused(server.url))
        assert "word word" in message
        assert len(message) < MAX_ERROR_CHARACTERS + 100


# ── time ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_only_streamed_calls_have_a_limit_to_the_first_byte(model: ModelServer) -> None:
    await model.behave(latency_ms=500)
    timeouts = CallTimeouts(first_byte=0.2)
    assert (await call(model.url, timeouts=timeouts)).finish_reason == "stop"
    await model.behave(faults={"hang": 1.0})
    started = time.monotonic()
    error = await refused(model.url, stream=True, timeouts=timeouts)
    assert error.error_type is ErrorType.FIRST_BYTE_TIMEOUT
    assert time.monotonic() - started < 5


async def test_the_limit_to_the_first_byte_does_not_count_for_what_comes_after_it(model: ModelServer) -> None:
    await model.behave(tokens_per_second=20, tokens=16)
    assert (await call(model.url, stream=True, timeouts=CallTimeouts(first_byte=0.3))).finish_reason == "stop"


@both
async def test_a_call_past_its_total_limit_is_a_total_timeout(model: ModelServer, stream: bool) -> None:
    await model.behave(faults={"drip": 1.0})
    error = await refused(model.url, stream=stream, timeouts=CallTimeouts(total=0.2), seconds=20)
    assert error.error_type is ErrorType.TOTAL_TIMEOUT
    await model.idle()


@both
@pytest.mark.parametrize("total", [None, 20.0])
async def test_a_call_may_meet_its_deadline(model: ModelServer, stream: bool, total: float | None) -> None:
    await model.behave(faults={"hang": 1.0})
    error = await refused(model.url, stream=stream, timeouts=CallTimeouts(total=total), seconds=0.2)
    assert error.error_type is ErrorType.DEADLINE_EXCEEDED
    await model.idle()


@both
@pytest.mark.parametrize("where", ["before the first byte", "in the middle"])
async def test_cancelling_a_call_closes_its_connection(model: ModelServer, stream: bool, where: str) -> None:
    await model.behave(faults={"hang" if where.startswith("before") else "drip": 1.0})
    aborted = (await model.seen())["aborted"]
    async with ModelClient(stream=stream) as client:
        task = asyncio.create_task(client.complete(Endpoint(model.url), ASK, seconds=60))
        await model.runs(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        started = time.monotonic()
        await model.idle()  # with the client still open: it is this connection that was closed
        assert time.monotonic() - started < 2
    assert (await model.seen())["aborted"] == aborted + 1


async def test_one_client_makes_many_calls_at_once(model: ModelServer) -> None:
    await model.behave(latency_ms=200)
    async with ModelClient(connections=50) as client:
        await asyncio.gather(*(client.complete(Endpoint(model.url), ASK, seconds=20) for _ in range(50)))
    assert (await model.seen())["most_running"] >= 50


# ── secrets ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_password_in_the_url_is_sent_as_basic_authorization() -> None:
    async with canned(ok(b'{"choices": [{"message": {"content": "hi"}}]}')) as server:
        assert (await call(server.url.replace("//", "//user:p%40ss@"))).content == "hi"
        (head,) = server.heard
        assert b"authorization: basic dxnlcjpwqhnz" in head.lower()  # base64 of user:p@ss, lowered


@both
@pytest.mark.parametrize("fault", ["hang", "reset"])
async def test_no_message_shows_a_password_of_the_url(model: ModelServer, fault: str, stream: bool) -> None:
    await model.behave(faults={fault: 1.0})
    url = model.url.replace("//", "//user:hush@")
    error = await refused(url, stream=stream, seconds=0.3)
    assert "hush" not in str(error)
    assert "***@" in str(error)
    await model.idle()


# ── what a server serves ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (ok(b"{}"), ErrorType.MALFORMED_ANSWER),
        (ok(b"not JSON"), ErrorType.MALFORMED_ANSWER),
        (ok(b'{"data": [{}]}'), ErrorType.MALFORMED_ANSWER),
        (refusal(401, b'{"error": "Unauthorized"}'), ErrorType.UNAUTHORIZED),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", ErrorType.MALFORMED_ANSWER),
    ],
)
async def test_listing_models_raises_the_same_error_types(answer: bytes, kind: ErrorType) -> None:
    async with canned(answer) as server, ModelClient() as client:
        with pytest.raises(ModelError) as caught:
            await client.models(Endpoint(server.url))
        assert caught.value.error_type is kind


@pytest.mark.parametrize(
    "length", ["", ', "max_model_len": null', ', "max_model_len": "2048"', ', "max_model_len": 0']
)
async def test_a_server_need_not_list_its_context_length(length: str) -> None:
    async with canned(ok(f'{{"data": [{{"id": "m"{length}}}]}}'.encode())) as server, ModelClient() as client:
        assert await client.models(Endpoint(server.url)) == [ServedModel("m", None)]


async def test_listing_models_has_a_time_limit() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # until the client goes
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as listener, ModelClient() as client:
        url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        with pytest.raises(ModelError) as caught:
            await client.models(Endpoint(url), seconds=0.2)
        assert caught.value.error_type is ErrorType.FIRST_BYTE_TIMEOUT


# ── texts for others ──────────────────────────────────────────────────────────────────


async def test_a_refusal_has_its_status_and_a_public_text_without_the_servers_own() -> None:
    async with (
        canned(refusal(503, b'{"error": {"message": "no room for my secret prompt"}}')) as server,
        ModelClient() as client,
    ):
        with pytest.raises(ModelError) as caught:
            await client.complete(Endpoint(server.url), ASK, seconds=5)
    assert caught.value.status == 503
    assert "my secret prompt" in str(caught.value)
    assert caught.value.public_text == "HTTP 503 from the model server"
    assert (
        ModelError(ErrorType.SERVER_ERROR, "the server broke off: my secret prompt").public_text
        == "the model server broke off"
    )
    assert (
        ModelError(ErrorType.CONNECTION_FAILED, "cannot connect to http://x").public_text
        == "cannot connect to http://x"
    )


# ── trouble of our own ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
async def test_too_many_open_files_say_nothing_of_the_server(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def no_more(*_: object, **__: object) -> socket.socket:
        raise OSError(number, "Too many open files")

    async with ModelClient() as client:
        monkeypatch.setattr(socket, "socket", no_more)
        with pytest.raises(ModelError) as caught:
            await client.complete(Endpoint("http://127.0.0.1:1"), ASK, seconds=5)
        monkeypatch.undo()
    assert caught.value.error_type is ErrorType.CONNECTION_FAILED
    assert caught.value.signal is Signal.IGNORED
    assert "too many open files" in str(caught.value)
