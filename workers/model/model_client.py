"""One call to an OpenAI-compatible server.

A call has three limits: connect, first byte (streamed calls: vLLM sends headers at once), and total.
Cancelling a call closes its connection, which makes vLLM abort the request. Every failure is a `ModelError`
whose `error_type` is one of the contract's closed set, and whose text holds no secret. Nothing here retries, but for a
call that a server refused because of a field that Parley chose: it is made again without the field.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, Self

import aiohttp
import httpx
from cachetools import LRUCache
from httpx_aiohttp import AiohttpTransport
from pydantic_core import to_json

from parley.broker.core.agent_error_table import POLICIES
from parley.broker.core.messages import ErrorType
from parley.workers.model import responses
from parley.workers.model.answer_secrets import without_secrets
from parley.workers.model.body_reading import is_stream, read_body, read_refusal, read_stream
from parley.workers.model.call_errors import CallErrors, is_lost, redirected, silent
from parley.workers.model.call_policy import CallTimeouts
from parley.workers.model.endpoint_address import Endpoint
from parley.workers.model.field_refusals import rules_after
from parley.workers.model.model_error import ModelError
from parley.workers.model.model_list import ServedModel, read_list
from parley.workers.model.request_fields import FieldRules
from parley.workers.model.responses import Completion
from parley.workers.model.retry_after import retry_after
from parley.workers.model.server_access import ServerAccess

log = logging.getLogger("parley.workers")

# What a probe asks, for one token. A real prompt may take a minute, and all agents would wait for it.
PROBE_MESSAGES = ({"role": "user", "content": "ping"},)

# Of a refusal, in which the names of fields are looked for.
MAX_REFUSAL_BYTES = 16 * 1024
OWN_HEADERS = {"accept": "*/*", "accept-encoding": "identity", "user-agent": "parley"}
REMEMBERED_RULES = 1_024
# How long a connection is kept without a call. vLLM and llama.cpp close one after 5 s; whoever asks just then fails.
IDLE_SECONDS = 4.0
# A connection that the server has closed already breaks within this. llama.cpp closes one after each streamed answer,
# without saying so (PyPI xllamacpp, of October 2026): every second call failed that came right after another.
STALE_SECONDS = 0.5
# A server that redirects more often sends a call in a circle.
MAX_REDIRECTS = 3
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One chat completion. None: the server chooses. `traceparent`: sent as the header of that name.

    `extra`: more fields of the body, passed on as they are.
    `chosen`: the fields whose value Parley chose, and not the caller: a server that refuses them gets none.
    """

    model: str
    messages: Sequence[Mapping[str, Any]]
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None
    stop: str | Sequence[str] | None = None
    response_format: Mapping[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    extra: Mapping[str, Any] | None = None
    traceparent: str | None = None
    chosen: frozenset[str] = frozenset()

    def body(self, *, stream: bool) -> dict[str, Any]:
        """The JSON body."""
        wanted = {
            "model": self.model,
            "messages": list(self.messages),
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
            "stop": self.stop,
            "response_format": self.response_format,
            "logprobs": self.logprobs,
            "top_logprobs": self.top_logprobs,
        }
        body = {key: value for key, value in wanted.items() if value is not None}
        if self.extra:
            body = {**self.extra, **body}
        return {**body, "stream": True, "stream_options": {"include_usage": True}} if stream else body


def probe_request(model: str, messages: Sequence[Mapping[str, Any]] = PROBE_MESSAGES) -> ChatRequest:
    """A question for one token. Servers with a higher least get that: how many is our choice."""
    return ChatRequest(model=model, messages=messages, max_tokens=1, chosen=frozenset({"max_tokens"}))


class ChatModel(Protocol):
    """Makes one call, within `seconds`. Raises ModelError. `ModelClient` does it over HTTP."""

    async def complete(self, endpoint: Endpoint, request: ChatRequest, *, seconds: float) -> Completion: ...


class ModelCalls(ChatModel, Protocol):
    """Lists what a server has, too. Raises ModelError."""

    async def models(self, endpoint: Endpoint, *, seconds: float = 5.0) -> list[ServedModel]: ...


class NoRoom(Exception):
    """An endpoint with a limit has no room for a call yet."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(str(endpoint))
        self.endpoint = endpoint


class LimitedModel(ChatModel, Protocol):
    """Some of its endpoints take so many calls at a time."""

    def has_room(self, endpoint: Endpoint) -> bool:
        """Whether a call would begin soon, as far as is known."""
        ...

    async def complete_soon(
        self, endpoint: Endpoint, request: ChatRequest, *, seconds: float, patience: float
    ) -> Completion:
        """As `complete`, but raises NoRoom if there is no room within `patience` seconds."""
        ...


class _Refused(Exception):
    """A response that is no answer: the error for it, and its body."""

    def __init__(self, error: ModelError, body: bytes) -> None:
        super().__init__(error, body)
        self.error = error
        self.body = body


class ModelClient:
    """Calls any number of endpoints over kept connections. Use as an async context manager.

    `access`: how they are reached. `connections`: how many may be open at once. `stream`: ask for streamed answers.
    """

    def __init__(
        self,
        *,
        api_key: str | None = None,
        access: ServerAccess | None = None,
        timeouts: CallTimeouts | None = None,
        stream: bool = False,
        connections: int = 256,
    ) -> None:
        self._access = access or ServerAccess()
        self._timeouts = timeouts or CallTimeouts()
        self._stream = stream
        # httpx's own transport does 130 requests/s with 50 to 200 concurrent calls, this one 1,300 to 1,800.
        limits = httpx.Limits(
            max_connections=connections,
            max_keepalive_connections=connections,
            keepalive_expiry=IDLE_SECONDS,
        )
        # trust_env: a proxy setting for traffic to the outside must not redirect calls inside a cluster.
        self._transport = AiohttpTransport(
            verify=_tls(self._access.certificates),
            limits=limits,
            proxy=_proxy(self._access.proxy),
            trust_env=False,
        )
        # For every request.
        self._common_headers = {**OWN_HEADERS, **self._access.sent_headers(api_key)}
        # By endpoint and method, as httpx has them: to make them anew takes as long as all else of a request.
        self._headers: dict[tuple[Endpoint, str], httpx.Headers] = {}
        self._errors = CallErrors(self._access, api_key)
        # What each server has refused so far, by endpoint and model. Callers name models: bounded.
        self._rules: LRUCache[tuple[Endpoint, str], FieldRules] = LRUCache(REMEMBERED_RULES)
        self._extensions = {"timeout": httpx.Timeout(None, connect=self._timeouts.connect).as_dict()}
        # Closes the transport.
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._transport)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    # ── calls ───────────────────────────────────────────────────────────────────────────────────────────────

    async def complete(self, endpoint: Endpoint, request: ChatRequest, *, seconds: float) -> Completion:
        """One chat completion within `seconds`. Raises ModelError; cancelling closes the connection."""
        total = min(seconds, self._timeouts.total) if self._timeouts.total is not None else seconds
        try:
            async with asyncio.timeout(total):
                answer = await self._complete(endpoint, request)
            return without_secrets(answer, self._errors.secrets_in_answers(endpoint), request.model)
        except ModelError as error:
            self._errors.clean(endpoint, error)
            raise
        except TimeoutError as error:
            error_type = ErrorType.DEADLINE_EXCEEDED if total >= seconds else ErrorType.TOTAL_TIMEOUT
            raise ModelError(error_type, f"no whole answer from {endpoint} within {total:.1f} s") from error

    async def _complete(self, endpoint: Endpoint, request: ChatRequest) -> Completion:
        """The answer, once the server takes the request's fields; which those are is remembered."""
        key = endpoint, request.model
        known = rules = self._rules.get(key, self._access.fields)
        body = request.body(stream=self._stream)
        chosen = request.chosen | {"stream_options"} if self._stream else request.chosen
        changes: list[str] = []
        while True:
            try:
                completion = await self._call(endpoint, request, rules.applied(body, chosen))
            except _Refused as refused:
                text = refused.body[:MAX_REFUSAL_BYTES].decode(errors="replace")
                changed = rules_after(refused.error, text, rules, body, chosen)
                if changed is None:
                    raise refused.error from None
            except ModelError as error:
                changed = rules_after(error, error.server_text or error.message, rules, body, chosen)
                if changed is None:
                    if error.error_type in (ErrorType.EMPTY_ANSWER, ErrorType.TOOL_CALL):
                        self._remember(key, known, rules, changes)
                    raise
            else:
                self._remember(key, known, rules, changes)
                return completion
            changes.append(changed[0])
            rules = changed[1]

    def _remember(
        self, key: tuple[Endpoint, str], known: FieldRules, rules: FieldRules, changes: Sequence[str]
    ) -> None:
        if rules is not known and self._rules.get(key) != rules:
            self._rules[key] = rules
            fields = (known.omit_chosen, known.rename) != (rules.omit_chosen, rules.rename)
            how = f" ({self._access.names.fields} do so from the start)" if fields else ""
            log.warning("%s refuses what Parley sends: %s from now on%s", key[0], ", ".join(changes), how)

    async def _call(self, endpoint: Endpoint, request: ChatRequest, fields: Mapping[str, Any]) -> Completion:
        try:
            response = await self._exchange(
                "POST", endpoint, "/chat/completions", to_json(fields), request.traceparent
            )
            try:
                if not response.is_success:
                    body = await read_refusal(response)
                    raise _Refused(self._errors.of_refusal(endpoint, response, body), body)
                if self._stream or is_stream(response):
                    return await read_stream(response, request.model)
                return responses.completion(await read_body(response), request.model)
            except ModelError as error:
                if error.retry_after is None and POLICIES[error.error_type].retried:
                    error.retry_after = retry_after(response.headers, error.server_text.encode(), time.time())
                raise
            finally:
                await response.aclose()
        except (httpx.HTTPError, aiohttp.ClientError) as error:
            raise self._errors.of_broken(endpoint, error) from error

    async def models(self, endpoint: Endpoint, *, seconds: float = 5.0) -> list[ServedModel]:
        """The models that the server lists. Raises ModelError."""
        try:
            return await self._models(endpoint, seconds)
        except ModelError as error:
            self._errors.clean(endpoint, error)
            raise

    async def _models(self, endpoint: Endpoint, seconds: float) -> list[ServedModel]:
        try:
            async with asyncio.timeout(seconds):
                response = await self._exchange("GET", endpoint, "/models")
                try:
                    body = await (read_body if response.is_success else read_refusal)(response)
                finally:
                    await response.aclose()
        except TimeoutError as error:
            raise silent(endpoint, seconds) from error
        except (httpx.HTTPError, aiohttp.ClientError) as error:
            raise self._errors.of_broken(endpoint, error) from error
        if not response.is_success:
            raise self._errors.of_refusal(endpoint, response, body)
        return read_list(endpoint, body)

    # ── one exchange ────────────────────────────────────────────────────────────────────────────────────────

    async def _exchange(
        self,
        method: str,
        endpoint: Endpoint,
        path: str,
        body: bytes = b"",
        traceparent: str | None = None,
    ) -> httpx.Response:
        """A response, with its body to be read. Follows redirects on the same server: never with the key to another."""
        url = _url(endpoint, path)
        headers = self._headers_of(endpoint, method)
        if traceparent:
            headers = headers.copy()
            headers["traceparent"] = traceparent
        for _ in range(MAX_REDIRECTS + 1):
            # httpx's own client costs a third of a call: redirects, cookies, URL merging. With `stream` instead of
            # `content` it adds no headers, which aiohttp does again.
            request = httpx.Request(
                method, url, headers=headers, stream=httpx.ByteStream(body), extensions=self._extensions
            )
            request.read()  # so that the transport sends it whole
            response = await self._repeated_if_stale(endpoint, request)
            if response.status_code not in _REDIRECTS:
                return response
            await response.aclose()
            url = redirected(endpoint, method, url, response, self._access.names.url)
        raise ModelError(ErrorType.MODEL_NOT_FOUND, f"{endpoint} redirects in a circle: is the URL right?")

    def _headers_of(self, endpoint: Endpoint, method: str) -> httpx.Headers:
        found = self._headers.get((endpoint, method))
        if found is None:
            json_body = {"content-type": "application/json"} if method == "POST" else {}
            all_headers = {**self._common_headers, **_authorization(endpoint), **json_body}
            found = self._headers[endpoint, method] = httpx.Headers(all_headers)
        return found

    async def _repeated_if_stale(self, endpoint: Endpoint, request: httpx.Request) -> httpx.Response:
        """A response. If the kept connection turned out to be closed by the server, over another one."""
        began = time.monotonic()
        try:
            return await self._first_bytes(endpoint, request)
        except (httpx.HTTPError, aiohttp.ClientError) as error:
            if not is_lost(error) or time.monotonic() - began > STALE_SECONDS:
                raise
            lost = error
        await asyncio.sleep(0)  # others that were closed with it are noticed
        try:
            return await self._first_bytes(endpoint, request)
        except (httpx.HTTPError, aiohttp.ClientError):
            raise lost from lost.__cause__  # a server that went away in the middle of the call lost it

    def _first_bytes(self, endpoint: Endpoint, request: httpx.Request) -> Coroutine[Any, Any, httpx.Response]:
        # Not a coroutine around another: each is half a KiB, and thousands of calls wait at a time.
        if not self._stream:
            return self._transport.handle_async_request(request)
        return self._first_bytes_in_time(endpoint, request)

    async def _first_bytes_in_time(self, endpoint: Endpoint, request: httpx.Request) -> httpx.Response:
        limit = self._timeouts.first_byte
        try:
            async with asyncio.timeout(limit):
                return await self._transport.handle_async_request(request)
        except TimeoutError as error:
            raise silent(endpoint, limit) from error


def _tls(certificates: str | None) -> ssl.SSLContext | bool:
    """What HTTPS trusts: the public authorities, and those of `certificates`, PEM text."""
    if certificates is None:
        return True
    context = httpx.create_ssl_context(trust_env=False)
    # A private authority may be given by its intermediate certificate, and its own need not be as strict as a public one.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=certificates)
    return context


def _proxy(url: str | None) -> httpx.Proxy | None:
    if url is None:
        return None
    # aiohttp makes `Proxy-Authorization` of it: its own way to pass a password is going to be removed.
    place = Endpoint(url)
    return httpx.Proxy(place.without_user, headers=_authorization(place))


# A service has a few endpoints, each of two paths.
@lru_cache(maxsize=256)
def _url(endpoint: Endpoint, path: str) -> httpx.URL:
    return httpx.URL(endpoint.call_url(path))


def _authorization(endpoint: Endpoint) -> Mapping[str, str]:
    value = endpoint.authorization
    return {} if value is None else {"authorization": value}
