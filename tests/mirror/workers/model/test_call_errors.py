"""Calls that do not come to an answer, and what their errors say: over HTTP, against servers of one habit each."""

import asyncio
import gzip
import json
import socket
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from parley.broker.core.agent_error_table import POLICIES, Signal
from parley.broker.core.messages import ErrorType
from parley.workers.model import body_reading
from parley.workers.model.endpoint_address import Endpoint
from parley.workers.model.model_client import ChatRequest, ModelClient
from parley.workers.model.model_error import ModelError
from parley.workers.model.server_access import ServerAccess
from tests.rig.habit_server import (
    Habit,
    HabitServer,
    Heard,
    Reply,
    answer,
    either,
    habit_server,
    refusal,
    streamed,
)
from tests.rig.own_authority import OwnAuthority
from tests.rig.proc import free_port

ASK = ChatRequest(model="m", messages=[{"role": "user", "content": "Say something"}])
KEY = "sk-s3cret/0123456789"
both = pytest.mark.parametrize("stream", [False, True], ids=["plain", "streamed"])


async def error_of(url: str, *, stream: bool = False, **client: Any) -> ModelError:
    async with ModelClient(stream=stream, **client) as calls:
        with pytest.raises(ModelError) as caught:
            await calls.complete(Endpoint(url), ASK, seconds=10)
    assert caught.value.args == (caught.value.error_type, caught.value.message)
    return caught.value


async def text_of(url: str, *, stream: bool = False, **client: Any) -> str:
    async with ModelClient(stream=stream, **client) as calls:
        return (await calls.complete(Endpoint(url), ASK, seconds=10)).content


def always(reply: Reply) -> Habit:
    return lambda _: reply


# ── the key, and other secrets ──────────────────────────────────────────────────────────────────────────────


def quoting(status: int) -> Habit:
    """Quotes everything that it was sent, as it is and in JSON."""

    def quote(heard: Heard) -> Reply:
        said = f"no: {heard.headers} {heard.target} {heard.headers.get('authorization', '')[7:]}"
        return status, {"error": {"message": said, "type": "no"}}, {}

    return quote


@both
@pytest.mark.parametrize(
    ("status", "with_key", "without", "user"),
    [
        (
            401, "it refuses the key, is VLLM_API_KEY right?", "it wants a key, and VLLM_API_KEY is not set",
            "it refuses the user or the password in VLLM_URL",
        ),
        (
            403, "it refuses the key or what is asked with it, is VLLM_API_KEY right?",
            "it does not allow the call; VLLM_API_KEY is not set",
            "it refuses the user or the password in VLLM_URL or what is asked with it",
        ),
    ],
)  # fmt: skip
async def test_a_server_that_refuses_the_key_is_told_in_our_words(
    status: int, with_key: str, without: str, user: str, stream: bool
) -> None:
    async with habit_server(quoting(status)) as server:
        error = await error_of(server.url, stream=stream, api_key=KEY)
        assert (error.error_type, str(error)) == (ErrorType.UNAUTHORIZED, f"HTTP {status}: {with_key}")
        assert str(await error_of(server.url, stream=stream)) == f"HTTP {status}: {without}"
        url = server.url.replace("//", "//user:hush@")
        assert str(await error_of(url, stream=stream)) == f"HTTP {status}: {user}"
        error = await error_of(server.url, stream=stream, api_key=KEY, access=ServerAccess("api-key"))
        assert "is it wanted in the header `api-key`" in str(error)
        access = ServerAccess(headers=(("Authorization", "Token swordfish-1"),))
        error = await error_of(server.url, stream=stream, access=access)
        assert "refuses what PARLEY_VLLM_HEADERS holds" in str(error)
        assert "swordfish" not in str(error)


@both
@pytest.mark.parametrize("status", [200, 400, 404, 418, 422, 429, 500, 502, 503, 529])
async def test_no_other_refusal_shows_a_secret(status: int, stream: bool) -> None:
    access = ServerAccess(headers=(("X-Auth", "swordfish-1"),))
    async with habit_server(quoting(status)) as server:
        error = await error_of(
            f"{server.url}/v1?code=query-secret-2", stream=stream, api_key=KEY, access=access
        )
        for secret in (KEY, "swordfish-1", "query-secret-2", KEY[:10]):
            assert secret not in str(error), error
        url = server.url.replace("//", "//user:p%40ssword-3@")
        error = await error_of(url, stream=stream)
        for secret in ("p%40ssword-3", "p@ssword-3", b64encode(b"user:p@ssword-3").decode()):
            assert secret not in str(error)


ACCESS = ServerAccess(headers=(("X-Auth", "swordfish-1"), ("X-Title", "An answer of Parley-1")))
SECRETS = (KEY, KEY[:10], "swordfish-1", "query-secret-2", b64encode(f"{KEY}:".encode()).decode())


def told(heard: Heard) -> str:
    key = heard.headers["authorization"][7:]
    return f"you sent {heard.headers} to {heard.target}, in base64 {b64encode(f'{key}:'.encode()).decode()}"


def quoting_in_answers(message: Callable[[str], dict[str, Any]], **fields: Any) -> Habit:
    """Quotes what it was sent where an answer is, with HTTP 200. `fields`: of the answer, or of its choice."""

    def quote(heard: Heard) -> Reply:
        text = told(heard)
        choice = {"message": message(text), "finish_reason": f"because of {heard.headers['authorization']}"}
        return 200, {"choices": [choice], "model": text, **fields}, {}

    return quote


@both
async def test_no_answer_shows_a_secret(stream: bool) -> None:
    """Others read results."""
    habit = quoting_in_answers(lambda text: {"content": f"An answer of Parley-1: {text}", "reasoning": text})
    async with (
        habit_server(habit) as server,
        ModelClient(stream=stream, api_key=KEY, access=ACCESS) as client,
    ):
        endpoint = Endpoint(f"{server.url}/v1?code=query-secret-2")
        answer = await client.complete(endpoint, ASK, seconds=10)
    for shown in (answer.content, answer.reasoning, answer.model, answer.finish_reason):
        assert not [secret for secret in SECRETS if secret in shown], shown
    assert answer.content.startswith("An answer of Parley-1: you sent ")  # a title is no secret
    assert "***" in answer.content


@both
async def test_no_call_of_a_tool_shows_a_secret(stream: bool) -> None:
    def calling(text: str) -> dict[str, Any]:
        return {
            "content": None,
            "tool_calls": [{"id": text, "function": {"name": text, "arguments": {"a": text}}}],
        }

    async with habit_server(quoting_in_answers(calling)) as server:
        url = f"{server.url}/v1?code=query-secret-2"
        error = await error_of(url, stream=stream, api_key=KEY, access=ACCESS)
    assert error.error_type is ErrorType.TOOL_CALL
    (call,) = error.tool_calls
    for shown in (str(error), call.id, call.name, call.arguments):
        assert not [secret for secret in SECRETS if secret in shown], shown
    assert error.server_text == ""


async def test_googles_refusal_of_a_key_is_one_though_its_status_is_400() -> None:
    said = [
        {"error": {"code": 400, "message": "API key not valid.", "details": [{"reason": "API_KEY_INVALID"}]}}
    ]
    async with habit_server(always((400, said, {}))) as server:
        error = await error_of(server.url, api_key=KEY)
    assert (error.error_type, str(error)) == (
        ErrorType.UNAUTHORIZED, "HTTP 400: it refuses the key, is VLLM_API_KEY right?"
    )  # fmt: skip


@pytest.mark.parametrize("cut", range(440, 500, 3))
async def test_a_key_that_is_cut_at_the_end_of_a_long_text_leaves_no_half(cut: int) -> None:
    async with habit_server(always(refusal(400, "x" * cut + KEY + "y" * 100))) as server:
        assert KEY[:6] not in str(await error_of(server.url, api_key=KEY))


async def test_the_list_of_models_shows_no_secret_either() -> None:
    async with habit_server(quoting(418)) as server, ModelClient(api_key=KEY) as client:
        with pytest.raises(ModelError) as caught:
            await client.models(Endpoint(server.url))
        assert KEY not in str(caught.value)
        assert "***" in str(caught.value)


async def test_a_list_that_is_not_read_to_its_end_leaves_no_connection_open() -> None:
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9000\r\n\r\n<!doctype html>")
        await reader.read()
        gone.set()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener, ModelClient() as client:
        with pytest.raises(ModelError) as caught:
            await client.models(Endpoint(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"))
        async with asyncio.timeout(5):
            await gone.wait()
    assert "web page" in str(caught.value)


# ── statuses ────────────────────────────────────────────────────────────────────────────────────────────────


@both
@pytest.mark.parametrize("status", [408, 409, 424, 425, 429, 498, 500, 502, 503, 504, 529, 599])
async def test_these_statuses_may_pass_and_are_asked_again(status: int, stream: bool) -> None:
    async with habit_server(always(refusal(status, retry_after="7"))) as server:
        error = await error_of(server.url, stream=stream)
    assert POLICIES[error.error_type].retried
    assert (error.status, error.retry_after) == (status, 7.0)


@pytest.mark.parametrize("status", [408, 409, 424, 425, 498, 499])
async def test_a_server_that_asks_for_the_call_again_is_alive(status: int) -> None:
    async with habit_server(always(refusal(status))) as server:
        assert (await error_of(server.url)).signal is Signal.ALIVE


@pytest.mark.parametrize("status", [400, 402, 405, 406, 410, 411, 413, 415, 418, 422, 451])
async def test_these_will_not_pass(status: int) -> None:
    async with habit_server(always(refusal(status))) as server:
        error = await error_of(server.url)
    assert not POLICIES[error.error_type].retried


@both
@pytest.mark.parametrize("status", [200, 201, 202, 203])
async def test_each_kind_of_success_is_one(status: int, stream: bool) -> None:
    def created(heard: Heard) -> Reply:
        return status, *either(heard)[1:]

    async with habit_server(created) as server:
        assert await text_of(server.url, stream=stream) == "hi"


@both
@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, ErrorType.UNAUTHORIZED), (429, ErrorType.RATE_LIMITED), (500, ErrorType.SERVER_ERROR)],
)
@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (gzip.compress(b'{"error": "no"}'), {"content-encoding": "gzip"}),
        (b"x" * 5_000_000, {}),
        (b'{"error', {"content-length": "1000", "connection": "close"}),
        (b"5\r\n{'err", {"transfer-encoding": "chunked", "content-length": ""}),
    ],
    ids=["encoded", "huge", "cut off or endless", "half a chunk"],
)  # fmt: skip
async def test_a_refusal_counts_by_its_status_be_its_body_unreadable(
    status: int,
    kind: ErrorType,
    body: bytes,
    headers: dict[str, str],
    stream: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(body_reading, "REFUSAL_SECONDS", 0.1)
    async with habit_server(always((status, body, {"retry-after": "7", **headers}))) as server:
        error = await error_of(server.url, stream=stream)
    assert (error.error_type, error.status, error.retry_after) == (kind, status, 7.0)


async def test_a_stream_that_nobody_asked_for_is_an_answer() -> None:
    async with habit_server(always(streamed("42"))) as server:
        assert await text_of(server.url) == "42"


@both
@pytest.mark.parametrize(
    "error",
    [
        {"code": 429, "message": "Please try again in 20s."},
        {"code": 429, "message": "slow", "retry_after": 20},
        {"message": "429 Too Many Requests", "retry_after": 20},
        {"code": 429, "message": "slow", "details": [{"@type": "RetryInfo", "retryDelay": "20s"}]},
        {"code": 429, "message": "x" * 600, "metadata": {"headers": {"X-RateLimit-Reset": "20"}}},
        {"code": 503, "message": "busy", "retry_after": 20},
    ],
)
@pytest.mark.parametrize("status", [200, 429])
async def test_an_error_says_when_to_come_back_inside_an_answer_too(
    error: dict[str, Any], status: int, stream: bool
) -> None:
    async with habit_server(always((status, {"error": error}, {}))) as server:
        assert (await error_of(server.url, stream=stream)).retry_after == 20.0


@both
async def test_what_the_model_wrote_before_an_error_asks_for_no_pause(stream: bool) -> None:
    choice = {"message": {"content": "Try again in 20s."}, "finish_reason": "stop"}
    reply: Reply = 200, {"choices": [choice], "error": {"code": 429, "message": "slow"}}, {}
    async with habit_server(always(reply)) as server:
        assert (await error_of(server.url, stream=stream)).retry_after is None


@both
@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"Too Many Requests", ErrorType.RATE_LIMITED),
        (b"503 Service Unavailable\n", ErrorType.SERVER_ERROR),
        (b"Unauthorized", ErrorType.UNAUTHORIZED),
        (b"it is a text", ErrorType.MALFORMED_ANSWER),
    ],
)
async def test_a_text_under_200_is_told_by_its_words_and_is_no_lost_connection(
    body: bytes, kind: ErrorType, stream: bool
) -> None:
    async with habit_server(always((200, body, {"content-type": "text/plain"}))) as server:
        assert (await error_of(server.url, stream=stream)).error_type is kind


@both
async def test_an_answer_of_one_object_a_line_is_read(stream: bool) -> None:
    lines = [
        {"choices": [{"delta": {"content": word}, "finish_reason": end}]}
        for word, end in (("4", None), ("2", "stop"))
    ]
    body = b"\n".join(json.dumps(line).encode() for line in lines)
    async with habit_server(always((200, body, {"content-type": "application/x-ndjson"}))) as server:
        assert await text_of(server.url, stream=stream) == "42"


@pytest.mark.parametrize("status", [404, 405])
async def test_where_nothing_is_the_url_is_asked_after(status: int) -> None:
    async with habit_server(always((status, {"detail": "Not Found"}, {}))) as server:
        error = await error_of(f"{server.url}/api")
    assert f"is the URL right? {server.url}/api has nothing there" in str(error)


# ── redirects ───────────────────────────────────────────────────────────────────────────────────────────────


def redirecting(status: int, target: str) -> Habit:
    """To `target`, but for what is asked under /new."""
    return lambda heard: (
        either(heard) if heard.target.startswith("/new") else (status, b"", {"location": target})
    )


@both
@pytest.mark.parametrize("status", [307, 308])
@pytest.mark.parametrize("target", ["/new/chat/completions", "{url}/new/x", "../../new/x"])
async def test_a_redirect_on_the_same_server_is_followed_with_key_and_question(
    status: int, target: str, stream: bool
) -> None:
    async with habit_server() as server:
        server.habit = redirecting(status, target.format(url=server.url))
        assert await text_of(server.url, stream=stream, api_key=KEY) == "hi"
    first, second = server.heard
    assert (second.method, second.body) == ("POST", first.body)
    assert second.headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_list_of_models_is_followed_by_each_redirect(status: int) -> None:
    async with habit_server(redirecting(status, "/new/models")) as server, ModelClient() as client:
        assert [model.name for model in await client.models(Endpoint(server.url))] == ["m"]


@both
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_the_key_goes_to_no_other_server(status: int, stream: bool) -> None:
    async with habit_server() as other:
        for target in (
            other.url,
            other.url.replace("127.0.0.1", "localhost"),
            "https://127.0.0.1:9/x?code=hush",
        ):
            async with habit_server(redirecting(status, f"{target}/new/x")) as server:
                error = await error_of(server.url, stream=stream, api_key=KEY)
            # No call to it can succeed, so it makes the service unready.
            assert POLICIES[error.error_type].final
            assert f"HTTP {status} from {server.url}, which points to {target.partition('?')[0]}" in str(
                error
            )
            assert "Should VLLM_URL name that one?" in str(error)
            assert "hush" not in str(error)
        assert other.heard == []


@pytest.mark.parametrize("status", [301, 302, 303])
async def test_a_question_is_not_made_a_get(status: int) -> None:
    async with habit_server(redirecting(status, "/new/x")) as server:
        assert f"points to {server.url}/new/x; not followed" in str(await error_of(server.url))
    assert len(server.heard) == 1


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"location": "/v1/chat/completions"}, "redirects in a circle"),
        ({}, "without a target"),
        ({"location": ""}, "without a target"),
        ({"location": "http://[::1"}, "without a target"),
        ({"location": "ftp://127.0.0.1/x"}, "points to ftp://127.0.0.1/x"),
    ],
)
async def test_a_redirect_to_nowhere_is_named(headers: dict[str, str], words: str) -> None:
    async with habit_server(always((307, b"", headers))) as server:
        error = await error_of(server.url)
    assert words in str(error)
    assert len(server.heard) <= 4


# ── web pages ───────────────────────────────────────────────────────────────────────────────────────────────

PAGE = b"<!doctype html><html><head><title>Open WebUI</title></head><body>" + b"x" * 1_000 + b"</body></html>"
NAMED = 'that is a web page "Open WebUI", not an OpenAI-compatible server; is the URL right?'


@both
@pytest.mark.parametrize("headers", [{}, {"content-type": "text/html"}, {"content-type": "application/json"}])
async def test_a_web_page_under_200_is_named_as_such(stream: bool, headers: dict[str, str]) -> None:
    async with habit_server(always((200, PAGE, headers))) as server:
        error = await error_of(server.url, stream=stream)
        assert (error.error_type, str(error)) == (ErrorType.MALFORMED_ANSWER, NAMED)
        async with ModelClient() as client:
            with pytest.raises(ModelError, match="that is a web page"):
                await client.models(Endpoint(server.url))


@pytest.mark.parametrize("status", [400, 404, 500, 502])
async def test_a_web_page_with_an_error_is_told_by_its_title(status: int) -> None:
    async with habit_server(always((status, PAGE, {}))) as server:
        text = str(await error_of(server.url))
    assert text.startswith(f'HTTP {status} from the model server: a web page "Open WebUI"')
    assert "xxx" not in text


# ── headers, certificates, a proxy ──────────────────────────────────────────────────────────────────────────


async def test_key_and_headers_are_sent_as_they_are_set() -> None:
    access = ServerAccess("Api-Key", (("X-Title", "Parley"), ("User-Agent", "mine")))
    async with habit_server() as server, ModelClient(api_key=KEY, access=access) as client:
        await client.complete(Endpoint(f"{server.url}/v1?api-version=1"), ASK, seconds=10)
        await client.models(Endpoint(f"{server.url}/v1?api-version=1"))
    for heard, path in zip(server.heard, ("chat/completions", "models"), strict=True):
        assert heard.target == f"/v1/{path}?api-version=1"
        found = [heard.headers.get(name) for name in ("api-key", "x-title", "user-agent", "authorization")]
        assert found == [KEY, "Parley", "mine", None]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> OwnAuthority:
    return OwnAuthority(tmp_path_factory.mktemp("authority"))


async def test_an_authority_of_ones_own_is_trusted_if_it_is_named_and_else_the_error_says_how(
    authority: OwnAuthority,
) -> None:
    async with habit_server(tls=authority.server) as server:
        trusting = ServerAccess(certificates=authority.ca_file.read_text())
        assert await text_of(server.url, access=trusting) == "hi"
        error = await error_of(server.url)
        assert error.error_type is ErrorType.CONNECTION_FAILED
        assert "its certificate is not trusted" in str(error)
        assert "PARLEY_VLLM_CA_FILE" in str(error)
        # Another name than the certificate's: naming an authority would not help.
        error = await error_of(server.url.replace("localhost", "127.0.0.1"), access=trusting)
        assert "its certificate is not trusted" in str(error)
        assert "PARLEY_VLLM_CA_FILE" not in str(error)


async def test_a_server_that_speaks_no_tls_is_asked_after() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        error = await error_of(f"https://127.0.0.1:{listener.sockets[0].getsockname()[1]}")
    assert error.error_type is ErrorType.CONNECTION_FAILED
    assert "does it want http:// instead of https://?" in str(error)
    assert "SSLContext" not in str(error)


@asynccontextmanager
async def tunnel(target: HabitServer) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A proxy that connects everybody with `target`. Its URL, and the requests for a tunnel."""
    heads: list[bytes] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        far_reader, far_writer = await asyncio.open_connection(
            "127.0.0.1", int(target.url.rpartition(":")[2])
        )
        writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer), return_exceptions=True)

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}", heads
    finally:
        listener.close()


async def test_a_proxy_gets_the_calls_with_its_own_password() -> None:
    async with habit_server() as proxy:
        access = ServerAccess(proxy=proxy.url.replace("//", "//user:p%40ss@"))
        assert await text_of("http://model.invalid:8000", access=access) == "hi"
    (heard,) = proxy.heard
    assert heard.target == "http://model.invalid:8000/v1/chat/completions"
    assert heard.headers["proxy-authorization"] == f"Basic {b64encode(b'user:p@ss').decode()}"


async def test_an_https_server_is_reached_through_a_proxys_tunnel_with_its_own_authority(
    authority: OwnAuthority,
) -> None:
    async with habit_server(tls=authority.server) as server, tunnel(server) as (proxy, heads):
        secret = proxy.replace("//", "//user:p%40ss@")
        access = ServerAccess(certificates=authority.ca_file.read_text(), proxy=secret)
        assert await text_of(server.url, access=access, api_key=KEY) == "hi"
    assert heads[0].startswith(b"CONNECT localhost:")
    assert b64encode(b"user:p@ss") in heads[0]
    assert KEY.encode() not in heads[0]


async def test_a_proxy_that_refuses_or_is_not_there_is_named_by_its_setting() -> None:
    async with habit_server(always((407, b"who are you, swordfish-1?", {}))) as proxy:
        access = ServerAccess(proxy=proxy.url.replace("//", "//user:swordfish-1@"))
        for url in ("http://model.invalid:8000", "https://model.invalid"):
            error = await error_of(url, access=access)
            assert error.error_type is ErrorType.CONNECTION_FAILED
            assert "PARLEY_VLLM_PROXY refuses: HTTP 407" in str(error)
            assert "swordfish" not in str(error)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", free_port()))
        away = ServerAccess(proxy=f"http://user:swordfish-1@127.0.0.1:{bound.getsockname()[1]}")
        error = await error_of("http://model.invalid:8000", access=away)
    assert "cannot connect to the proxy of PARLEY_VLLM_PROXY" in str(error)
    assert "swordfish" not in str(error)


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
async def test_a_proxy_of_the_environment_is_not_used(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    async with habit_server() as server:
        assert await text_of(server.url) == "hi"


# ── fields that a server refuses ────────────────────────────────────────────────────────────────────────────


def strict(*refused: str, status: int = 400) -> Habit:
    """Refuses these fields."""

    def habit(heard: Heard) -> Reply:
        found = next((name for name in refused if name in heard.fields), None)
        return either(heard) if found is None else refusal(status, f"Unsupported parameter: '{found}'.")

    return habit


OURS = ChatRequest(
    model="m", messages=ASK.messages, temperature=0.7, seed=5, chosen=frozenset({"temperature", "seed"})
)


@pytest.mark.parametrize("status", [400, 422, 500])
async def test_what_parley_chose_is_left_out_where_a_server_refuses_it_and_that_is_remembered(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    habit = strict("stream_options", "seed", status=status)
    async with habit_server(habit) as server, ModelClient(stream=True) as client:
        for _ in range(2):
            assert (await client.complete(Endpoint(server.url), OURS, seconds=10)).content == "hi"
    assert len(server.heard) == 4
    assert server.heard[-1].fields.keys() == {"model", "messages", "temperature", "stream"}
    (record,) = caplog.records
    assert "`stream_options` is left out" in record.getMessage()
    assert "PARLEY_VLLM_OMIT" in record.getMessage()


@pytest.mark.parametrize("status", [400, 500])
async def test_a_model_without_a_system_message_is_asked_without_one_from_then_on(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    def habit(heard: Heard) -> Reply:
        roles = [message["role"] for message in heard.fields["messages"]]
        return either(heard) if roles == ["user"] else refusal(status, "System role not supported")

    messages = [{"role": "system", "content": "Be short."}, *ASK.messages]
    async with habit_server(habit) as server, ModelClient() as client:
        for _ in range(2):
            asked = ChatRequest(model="m", messages=messages)
            assert (await client.complete(Endpoint(server.url), asked, seconds=10)).content == "hi"
    assert len(server.heard) == 3
    (record,) = caplog.records
    assert "no system message" in record.getMessage()


async def test_what_the_caller_asked_for_is_never_left_out() -> None:
    asked = ChatRequest(model="m", messages=ASK.messages, temperature=0.7, seed=5, max_tokens=9, stop="x")
    for field in ("temperature", "seed", "max_tokens", "stop"):
        async with habit_server(strict(field)) as server, ModelClient() as client:
            with pytest.raises(ModelError, match=field) as caught:
                await client.complete(Endpoint(server.url), asked, seconds=10)
            assert caught.value.error_type is ErrorType.BAD_REQUEST
        assert len(server.heard) == 1


async def test_a_refusal_that_leaving_out_does_not_help_is_told_and_not_remembered() -> None:
    async with (
        habit_server(always(refusal(400, "the prompt 'seed' is bad"))) as server,
        ModelClient() as client,
    ):
        for _ in range(2):
            with pytest.raises(ModelError, match="is bad"):
                await client.complete(Endpoint(server.url), OURS, seconds=10)
    assert ["seed" in heard.fields for heard in server.heard] == [True, False, True, False]


async def test_each_model_of_a_server_has_its_own_fields() -> None:
    def habit(heard: Heard) -> Reply:
        return strict("seed")(heard) if heard.fields["model"] == "m" else answer()

    other = ChatRequest(model="n", messages=ASK.messages, seed=5, chosen=frozenset({"seed"}))
    async with habit_server(habit) as server, ModelClient() as client:
        await client.complete(Endpoint(server.url), OURS, seconds=10)
        await client.complete(Endpoint(server.url), other, seconds=10)
    assert "seed" in server.heard[-1].fields


async def test_nothing_is_sent_that_nobody_asked_for() -> None:
    for stream, expected in (
        (False, {"model", "messages"}),
        (True, {"model", "messages", "stream", "stream_options"}),
    ):
        async with habit_server() as server:
            await text_of(server.url, stream=stream)
        assert server.heard[0].fields.keys() == expected
