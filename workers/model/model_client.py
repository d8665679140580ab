"""One call to an OpenAI-compatible server. The only module that imports an HTTP client.

A call has three limits: connect, first byte (streamed calls: vLLM sends headers at once), and total.
Cancelling a call closes its connection, which makes vLLM abort the request. Every failure is a `ModelError`
whose `error_type` is one of the contract's closed set. Nothing here retries.
"""

import asyncio
import errno
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport
from pydantic_core import to_json

from parley.broker.core.messages import ErrorType
from parley.workers.model import responses
from parley.workers.model.call_policy import CallTimeouts
from parley.workers.model.endpoint_address import Endpoint
from parley.workers.model.large_answer_limit import wait_turn
from parley.workers.model.responses import Completion, ModelError, ServedModel

# What a probe asks, for one token. A real prompt may take a minute, and all agents would wait for it.
PROBE_MESSAGES = ({"role": "user", "content": "ping"},)

# Of a chunk that the transport had to cut: it reads 16 KiB at most. A token's event is smaller.
FULL_CHUNK_BYTES = 8 * 1024
# Of a header, in an error.
MAX_SHOWN_CHARACTERS = 80


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One chat completion. None: the server chooses. `traceparent`: sent as the header of that name."""

    model: str
    messages: Sequence[Mapping[str, str]]
    temperature: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: str | Sequence[str] | None = None
    traceparent: str | None = None

    def body(self, *, stream: bool) -> dict[str, Any]:
        """The JSON body."""
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


class ModelClient:
    """Calls any number of endpoints over kept connections. Use as an async context manager.

    `connections`: how many may be open at once. `stream`: ask for streamed answers.
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        timeouts: CallTimeouts | None = None,
        stream: bool = False,
        connections: int = 256,
    ) -> None:
        self._timeouts = timeouts or CallTimeouts()
        self._stream = stream
        # httpx's own transport does 130 requests/s with 50 to 200 concurrent calls, this one 1,300 to 1,800.
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        # trust_env: a proxy setting for traffic to the outside must not redirect calls inside a cluster.
        self._transport = AiohttpTransport(limits=limits, trust_env=False)
        # For every request.
        self._headers = {"accept": "*/*", "accept-encoding": "identity", "user-agent": "parley"}
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._extensions = {"timeout": httpx.Timeout(None, connect=self._timeouts.connect).as_dict()}
        # Closes the transport.
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._transport)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def complete(self, endpoint: Endpoint, request: ChatRequest, *, seconds: float) -> Completion:
        """One chat completion within `seconds`. Raises ModelError; cancelling closes the connection."""
        total = min(seconds, self._timeouts.total) if self._timeouts.total is not None else seconds
        try:
            async with asyncio.timeout(total):
                return await self._call(endpoint, request)
        except TimeoutError as error:
            error_type = ErrorType.DEADLINE_EXCEEDED if total >= seconds else ErrorType.TOTAL_TIMEOUT
            raise ModelError(error_type, f"no whole answer from {endpoint} within {total:.1f} s") from error

    async def _call(self, endpoint: Endpoint, request: ChatRequest) -> Completion:
        body = to_json(request.body(stream=self._stream))
        headers = {"content-type": "application/json"}
        if request.traceparent:
            headers["traceparent"] = request.traceparent
        http_request = self._request("POST", endpoint, "/chat/completions", headers, body)
        try:
            response = await self._first_bytes(endpoint, http_request)
            try:
                if response.status_code != httpx.codes.OK:
                    raise _refused(response, await _read(response))
                if self._stream:
                    return await _read_stream(response, request.model)
                return responses.completion(await _read(response), request.model)
            finally:
                await response.aclose()
        except (httpx.HTTPError, aiohttp.ClientError) as error:
            raise _broken(endpoint, error) from error

    async def _first_bytes(self, endpoint: Endpoint, request: httpx.Request) -> httpx.Response:
        if not self._stream:
            return await self._transport.handle_async_request(request)
        limit = self._timeouts.first_byte
        try:
            async with asyncio.timeout(limit):
                return await self._transport.handle_async_request(request)
        except TimeoutError as error:
            raise _silent(endpoint, limit) from error

    def _request(
        self,
        method: str,
        endpoint: Endpoint,
        path: str,
        headers: Mapping[str, str],
        body: bytes | None = None,
    ) -> httpx.Request:
        """A request for the transport. httpx's own client costs a third of a call: redirects, cookies, URL merging."""
        url, extensions = _url(endpoint, path), self._extensions
        all_headers = {**self._headers, **_authorization(endpoint), **headers}
        return httpx.Request(method, url, headers=all_headers, content=body, extensions=extensions)

    async def models(self, endpoint: Endpoint, *, seconds: float = 5.0) -> list[ServedModel]:
        """The models that the server lists in `/v1/models`. Raises ModelError."""
        try:
            async with asyncio.timeout(seconds):
                request = self._request("GET", endpoint, "/models", {})
                response = await self._transport.handle_async_request(request)
                body = await _read(response)
        except TimeoutError as error:
            raise _silent(endpoint, seconds) from error
        except (httpx.HTTPError, aiohttp.ClientError) as error:
            raise _broken(endpoint, error) from error
        if response.status_code != httpx.codes.OK:
            raise _refused(response, body)
        return responses.served(endpoint, body)


# A service has a few endpoints, each of two paths.
@lru_cache(maxsize=256)
def _url(endpoint: Endpoint, path: str) -> httpx.URL:
    return httpx.URL(f"{endpoint.base}{path}")


@lru_cache(maxsize=256)
def _authorization(endpoint: Endpoint) -> Mapping[str, str]:
    value = endpoint.authorization
    return {} if value is None else {"authorization": value}


def _silent(endpoint: Endpoint, seconds: float) -> ModelError:
    return ModelError(ErrorType.FIRST_BYTE_TIMEOUT, f"nothing from {endpoint} within {seconds:g} s")


def _broken(endpoint: Endpoint, error: Exception) -> ModelError:
    """The error for a call that broke, told by aiohttp's exception.

    httpx-aiohttp makes a ConnectTimeout of a connection that the server closed, with aiohttp's exception as
    its cause. For an answer that is not HTTP it raises aiohttp's exception itself.
    """
    if _is_ours(error):
        text = f"cannot connect to {endpoint}: too many open files in this process"
        return ModelError(ErrorType.CONNECTION_FAILED, text, is_ours=True)
    match error if isinstance(error, aiohttp.ClientError) else error.__cause__:
        case aiohttp.ClientConnectorError() | aiohttp.ConnectionTimeoutError() | aiohttp.InvalidURL():
            return ModelError(ErrorType.CONNECTION_FAILED, f"cannot connect to {endpoint}: {_reason(error)}")
        case aiohttp.ClientResponseError() as response:
            text = " ".join(responses.error_text({"error": response.message}).split())
            return ModelError(ErrorType.MALFORMED_ANSWER, f"{endpoint} does not answer in HTTP: {text}")
        case _:
            return ModelError(ErrorType.CONNECTION_LOST, f"connection to {endpoint} lost: {_reason(error)}")


async def _chunks(response: httpx.Response) -> AsyncIterator[bytes]:
    """The body as it comes, never unpacked: a few KiB of gzip within gzip may be GiB.

    Raises ModelError for a body that is encoded: none was asked for.
    """
    encodings = response.headers.get("content-encoding", "")
    if encodings and encodings.strip().lower() != "identity":
        raise ModelError(
            ErrorType.MALFORMED_ANSWER,
            f"the answer has content-encoding {encodings[:MAX_SHOWN_CHARACTERS]!r}; only identity was asked for",
        )
    async for chunk in response.aiter_raw():
        yield chunk
        if len(chunk) >= FULL_CHUNK_BYTES:
            # More is here already, so reading it awaits nothing, and other calls would get no turn.
            await asyncio.sleep(0)


def _is_ours(error: BaseException | None) -> bool:
    """Whether this process, or this machine, has no descriptor left for a connection."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            return True
        error = error.__cause__ or error.__context__
    return False


async def _read(response: httpx.Response) -> bytes:
    chunks, size = [], 0
    async for chunk in _chunks(response):
        chunks.append(chunk)
        size += len(chunk)
        responses.check_size(size)
        await wait_turn(size)
    return b"".join(chunks)


async def _read_stream(response: httpx.Response, model: str) -> Completion:
    answer = responses.StreamAssembler(model)
    async for line in _lines(response):
        if answer.add(line):
            break
        await wait_turn(answer.size)
    return answer.completion()


async def _lines(response: httpx.Response) -> AsyncIterator[bytes]:
    """Like httpx's `aiter_lines`, but the length of a line is bounded."""
    # The pieces of a line that is not complete.
    pieces: list[bytes] = []
    size = 0
    async for chunk in _chunks(response):
        first, *others = chunk.split(b"\n")
        pieces.append(first)
        size += len(first)
        if others:
            yield b"".join(pieces)
            for line in others[:-1]:
                yield line
            pieces, size = [others[-1]], len(others[-1])
        if size > (limit := responses.MAX_ANSWER_BYTES):
            raise ModelError(ErrorType.MALFORMED_ANSWER, f"a line is over {limit} bytes")
    yield b"".join(pieces)


def _refused(response: httpx.Response, body: bytes) -> ModelError:
    return responses.refusal(response.status_code, response.headers.get("retry-after"), body)


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
