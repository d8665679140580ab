"""One call to an OpenAI-compatible server. The only importer of an HTTP client.

A call has three limits: connect, first byte (streamed calls: vLLM sends headers at once), and total. Cancelling a call closes its
connection, which makes vLLM abort the request. Whatever goes wrong comes out as a `ModelError` whose `error_type` is one of
the contract's closed set; nothing here retries.
"""

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport
from pydantic_core import to_json

from broker.connection import masked
from broker.messages import ErrorType, Usage

# More than any answer we could pass on: an outcome has to fit into one NATS message (1 MiB).
MAX_ANSWER_BYTES = 4 * 1024 * 1024
# What vLLM calls the end of an answer that it gave up, with HTTP 200 and the words there were: a stop (`--shutdown-timeout 0`, its default)
# ends so whatever is under way.
ABORTED = "abort"
# What a server says about its error is passed on up to this length; some quote the whole prompt.
MAX_ERROR_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a model is served. `url` without a path stands for its `/v1`; `user:password@` in it is for HTTP Basic."""

    url: str

    @property
    def base(self) -> str:
        parts = urlsplit(self.url)
        url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
        return url if url.endswith("/v1") else f"{url}/v1"

    @property
    def authorization(self) -> str | None:
        """What stands before `@`, as a header's value."""
        parts = urlsplit(self.url)
        if parts.username is None:
            return None
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        return f"Basic {b64encode(pair.encode()).decode()}"

    @property
    def label(self) -> str:
        """`host:port`, for a metric: without user, password or path."""
        parts = urlsplit(self.url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        return f"{host}:{parts.port or (443 if parts.scheme == 'https' else 80)}"

    def __str__(self) -> str:
        """For messages: an outcome's `error` is read by others."""
        return masked(self.url)


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds. `total` None means what is left of the deadline; `first_byte` counts for streamed calls only."""

    connect: float = 5.0
    first_byte: float = 30.0
    total: float | None = None


@dataclass(frozen=True, slots=True)
class ChatRequest:
    model: str
    messages: Sequence[Mapping[str, str]]
    temperature: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: str | Sequence[str] | None = None
    traceparent: str | None = None

    def body(self, *, stream: bool) -> dict[str, Any]:
        wanted = {
            "model": self.model,
            "messages": list(self.messages),
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
            "stop": self.stop,
        }
        body = {key: value for key, value in wanted.items() if value is not None}
        return {**body, "stream": True, "stream_options": {"include_usage": True}} if stream else body


@dataclass(frozen=True, slots=True)
class ServedModel:
    """An entry of `/v1/models`. `max_model_len`: tokens, prompt and answer together; None where the server does not say (vLLM does)."""

    name: str
    max_model_len: int | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    content: str
    finish_reason: str
    model: str
    usage: Usage


class ModelError(Exception):
    """A call that gave no answer. `retry_after` is what the server asked for, in seconds; `status` is of HTTP, if it got so far."""

    def __init__(self, error_type: ErrorType, message: str, retry_after: float | None = None, status: int | None = None) -> None:
        super().__init__(error_type, message)
        self.error_type = error_type
        self.message = message
        self.retry_after = retry_after
        self.status = status

    @property
    def gist(self) -> str:
        """The message without the server's own words, which may quote the prompt: for others than who made the call."""
        if self.error_type is ErrorType.SERVER_ERROR:
            return "the model server broke off" if self.status is None else f"HTTP {self.status} from the model server"
        return self.message

    def __str__(self) -> str:
        return self.message


class VllmClient:
    """Calls to any number of endpoints over kept connections. Use as an async context manager."""

    def __init__(
        self, *, api_key: str | None = None, limits: Limits | None = None, stream: bool = False, connections: int = 256
    ) -> None:
        self._limits = limits or Limits()
        self._stream = stream
        # httpx's own transport does 130 requests/s at 50 to 200 concurrent here, this one 1,300 to 1,800.
        self._transport = AiohttpTransport(
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            # Not trust_env: a proxy setting meant for the outside must not swallow calls inside a cluster.
            trust_env=False,
        )
        self._headers = {"accept": "*/*", "user-agent": "parley"}
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._extensions = {"timeout": httpx.Timeout(None, connect=self._limits.connect).as_dict()}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._transport)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def complete(self, endpoint: Endpoint, request: ChatRequest, *, seconds: float) -> Completion:
        """One chat completion within `seconds`. Raises ModelError; cancelling closes the connection."""
        total = min(seconds, self._limits.total) if self._limits.total is not None else seconds
        try:
            async with asyncio.timeout(total):
                return await self._call(endpoint, request)
        except TimeoutError as error:
            kind = ErrorType.DEADLINE_EXCEEDED if total >= seconds else ErrorType.TOTAL_TIMEOUT
            raise ModelError(kind, f"no whole answer from {endpoint} within {total:.1f} s") from error

    async def _call(self, endpoint: Endpoint, request: ChatRequest) -> Completion:
        body = to_json(request.body(stream=self._stream))
        more = {"content-type": "application/json"}
        if request.traceparent:
            more["traceparent"] = request.traceparent
        out = self._request("POST", endpoint, "/chat/completions", more, body)
        try:
            response = await self._first_bytes(endpoint, out)
            try:
                if response.status_code != httpx.codes.OK:
                    raise _refusal(response, await _read(response))
                if self._stream:
                    return await _read_stream(response, request.model)
                return _completion(await _read(response), request.model)
            finally:
                await response.aclose()
        except (httpx.HTTPError, aiohttp.ClientError) as error:
            raise _broken(endpoint, error) from error

    async def _first_bytes(self, endpoint: Endpoint, out: httpx.Request) -> httpx.Response:
        if not self._stream:
            return await self._transport.handle_async_request(out)
        limit = self._limits.first_byte
        try:
            async with asyncio.timeout(limit):
                return await self._transport.handle_async_request(out)
        except TimeoutError as error:
            raise ModelError(ErrorType.FIRST_BYTE_TIMEOUT, f"nothing from {endpoint} within {limit:g} s") from error

    def _request(
        self, method: str, endpoint: Endpoint, path: str, headers: Mapping[str, str] | None = None, content: bytes | None = None
    ) -> httpx.Request:
        """For the transport itself. httpx's client would follow redirects, keep cookies and merge URLs first: a third of what a call costs."""
        out = {**self._headers, **_authorization(endpoint), **(headers or {})}
        return httpx.Request(method, _url(endpoint, path), headers=out, content=content, extensions=self._extensions)

    async def models(self, endpoint: Endpoint, *, seconds: float = 5.0) -> list[ServedModel]:
        """What `/v1/models` lists. Raises ModelError."""
        try:
            async with asyncio.timeout(seconds):
                response = await self._transport.handle_async_request(self._request("GET", endpoint, "/models"))
                body = await _read(response)
        except TimeoutError as error:
            raise ModelError(ErrorType.FIRST_BYTE_TIMEOUT, f"nothing from {endpoint} within {seconds:g} s") from error
        except (httpx.HTTPError, aiohttp.ClientError) as error:
            raise _broken(endpoint, error) from error
        if response.status_code != httpx.codes.OK:
            raise _refusal(response, body)
        try:
            return [ServedModel(_encodable(entry["id"]), _length(entry)) for entry in _json(body)["data"]]
        except (AttributeError, KeyError, TypeError) as error:
            raise ModelError(ErrorType.MALFORMED_ANSWER, f"{endpoint} lists no models") from error


# A service has a few endpoints, each of two paths.
@lru_cache(maxsize=256)
def _url(endpoint: Endpoint, path: str) -> httpx.URL:
    return httpx.URL(f"{endpoint.base}{path}")


@lru_cache(maxsize=256)
def _authorization(endpoint: Endpoint) -> Mapping[str, str]:
    value = endpoint.authorization
    return {} if value is None else {"authorization": value}


def _broken(endpoint: Endpoint, error: Exception) -> ModelError:
    """A call that broke. httpx-aiohttp calls a connection that the server closed a ConnectTimeout, and lets answers that are
    not HTTP through as aiohttp's own error: aiohttp's, which is the cause, tells them apart."""
    match error if isinstance(error, aiohttp.ClientError) else error.__cause__:
        case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError() | aiohttp.InvalidURL():
            return ModelError(ErrorType.CONNECTION_FAILED, f"cannot connect to {endpoint}: {_reason(error)}")
        case aiohttp.ClientResponseError() as response:
            words = " ".join(_words({"error": response.message}).split())
            return ModelError(ErrorType.MALFORMED_ANSWER, f"{endpoint} does not answer in HTTP: {words}")
        case _:
            return ModelError(ErrorType.CONNECTION_LOST, f"connection to {endpoint} lost: {_reason(error)}")


async def _read(response: httpx.Response) -> bytes:
    chunks, size = [], 0
    async for chunk in response.aiter_bytes():
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_ANSWER_BYTES:
            raise ModelError(ErrorType.MALFORMED_ANSWER, f"answer is over {MAX_ANSWER_BYTES} bytes")
    return b"".join(chunks)


async def _read_stream(response: httpx.Response, model: str) -> Completion:
    """Server-sent events to one completion. An error line inside a 200 is an error, `[DONE]` or not."""
    parts: list[str] = []
    finish_reason, usage, size = None, Usage(), 0
    async for line in _lines(response):
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            break
        event = _json(data)
        if "error" in event:
            raise ModelError(ErrorType.SERVER_ERROR, f"the server broke off: {_words(event)}")
        model = event.get("model") or model
        usage = _usage(event) if event.get("usage") else usage
        for content, reason in _deltas(event):
            parts.append(content)
            size += len(content.encode(errors="replace"))
            finish_reason = reason or finish_reason
        if size > MAX_ANSWER_BYTES:
            raise ModelError(ErrorType.MALFORMED_ANSWER, f"answer is over {MAX_ANSWER_BYTES} bytes")
    if finish_reason is None:
        raise ModelError(ErrorType.CONNECTION_LOST, "the stream ended before the answer did")
    return _checked("".join(parts), finish_reason, model, usage)


async def _lines(response: httpx.Response) -> AsyncIterator[bytes]:
    """What httpx's `aiter_lines` gives, but a line that does not end is not gathered for ever."""
    rest = b""
    async for chunk in response.aiter_bytes():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line
        if len(rest) > MAX_ANSWER_BYTES:
            raise ModelError(ErrorType.MALFORMED_ANSWER, f"a line is over {MAX_ANSWER_BYTES} bytes")
    yield rest


def _deltas(event: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """(content, finish_reason) of each choice."""
    try:
        found = [
            ((choice.get("delta") or {}).get("content") or "", choice.get("finish_reason"))
            for choice in event.get("choices") or ()
        ]
    except (AttributeError, TypeError) as error:
        raise ModelError(ErrorType.MALFORMED_ANSWER, "a line of the stream has no choices[].delta.content") from error
    if not all(isinstance(content, str) for content, _ in found):
        raise ModelError(ErrorType.MALFORMED_ANSWER, "a line of the stream has no choices[].delta.content")
    return found


def _completion(body: bytes, model: str) -> Completion:
    answer = _json(body)
    try:
        choice = answer["choices"][0]
        content, finish_reason = choice["message"]["content"], choice.get("finish_reason")
    except (KeyError, IndexError, TypeError) as error:
        raise ModelError(ErrorType.MALFORMED_ANSWER, "the answer has no choices[0].message.content") from error
    return _checked(content, finish_reason or "unknown", answer.get("model") or model, _usage(answer))


def _checked(content: Any, finish_reason: Any, model: Any, usage: Usage) -> Completion:
    if finish_reason == ABORTED:
        raise ModelError(ErrorType.SERVER_ERROR, f"the server broke off: finish_reason {ABORTED}")
    if not isinstance(content, str) or not content.strip():
        raise ModelError(ErrorType.EMPTY_ANSWER, f"the model answered nothing (finish_reason {_encodable(finish_reason)})")
    return Completion(_encodable(content), _encodable(finish_reason), _encodable(model), usage)


def _encodable(text: Any) -> str:
    """JSON may hold half a surrogate pair (`\\ud83d`, an emoji cut by max_tokens); UTF-8 may not."""
    return str(text).encode(errors="replace").decode()


def _length(entry: Mapping[str, Any]) -> int | None:
    found = entry.get("max_model_len")
    return found if type(found) is int and found > 0 else None


def _json(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ModelError(ErrorType.MALFORMED_ANSWER, "the answer is not JSON") from error
    if not isinstance(answer, dict):
        raise ModelError(ErrorType.MALFORMED_ANSWER, "the answer is not a JSON object")
    return answer


def _usage(answer: Mapping[str, Any]) -> Usage:
    counts = answer.get("usage")
    if not isinstance(counts, dict):
        return Usage()
    # Numbers a counter can take; anything else is no count, and no reason to refuse an answer.
    known = {key: counts[key] for key in Usage.model_fields if type(counts.get(key)) is int and 0 <= counts[key] < 2**63}
    return Usage(**known)


def _refusal(response: httpx.Response, body: bytes) -> ModelError:
    status = response.status_code
    words = _words_of(body)
    message = f"HTTP {status} from the model server: {words}"
    return ModelError(_kind(status, words), message, _retry_after(response), status)


def _kind(status: int, words: str) -> ErrorType:
    match status:
        case 401 | 403:
            return ErrorType.UNAUTHORIZED
        case 404:
            return ErrorType.MODEL_NOT_FOUND
        case 429:
            return ErrorType.RATE_LIMITED
        case _ if status >= 500:
            return ErrorType.SERVER_ERROR
        case 400 if "context length" in words.lower() or "maximum context" in words.lower():
            return ErrorType.CONTEXT_TOO_LONG
        case _:
            return ErrorType.BAD_REQUEST


def _words_of(body: bytes) -> str:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return body[:MAX_ERROR_CHARACTERS].decode(errors="replace").strip() or "(no text)"
    return _words(answer) if isinstance(answer, dict) else "(no text)"


def _words(answer: Mapping[str, Any]) -> str:
    """The server's own words. vLLM sends `error` as an object, and as a plain string for a missing key."""
    error = answer.get("error", answer)
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error
    return _encodable(error)[:MAX_ERROR_CHARACTERS]


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds. The HTTP-date form is rare from model servers and is left to our own backoff."""
    try:
        seconds = float(response.headers["retry-after"])
    except (KeyError, ValueError):
        return None
    return seconds if 0 <= seconds < float("inf") else None


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
