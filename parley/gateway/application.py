"""Which path leads where, who may come in, and how an error is told."""

import re
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from parley.broker.core.errors import ParleyError
from parley.broker.core.messages import MAX_REQUEST_BYTES
from parley.gateway import chat, deliberations, event_stream
from parley.gateway.caller import Caller
from parley.gateway.chat import as_openai
from parley.gateway.failures import AWAY_SECONDS, problem_of
from parley.gateway.http_server import Bounded, SlowReader
from parley.gateway.openapi import document
from parley.gateway.panels import PanelModel
from parley.gateway.problems import Problem, try_again
from parley.gateway.state import GatewayState

ONE = f"{deliberations.PATH}/{{task_id}}"
# Without a token: nothing of a tenant is told there.
OPEN_PATHS = frozenset({"/livez", "/readyz", "/openapi.json"})
# Where errors have OpenAI's form.
_OPENAI_PATHS = ("/v1/chat/", "/v1/models")
# A token there would be in the logs of every proxy.
_SECRETS_IN_URL = frozenset({"token", "access_token", "api_key", "apikey", "api-key", "key", "authorization"})
# Browsers that another site has turned name that site.
_OWN_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
_PORT = re.compile(r":[0-9]*\Z")


def application(state: GatewayState, panels: Mapping[str, PanelModel], *, is_local: bool) -> ASGIApp:
    """`is_local`: only programs of this machine reach it."""
    described = document()

    async def openapi(_: Request) -> Response:
        return JSONResponse(described)

    async def alive(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(_: Request) -> Response:
        if not state.client.connected:
            raise try_again(HTTPStatus.SERVICE_UNAVAILABLE, "NATS is away", AWAY_SECONDS)
        return JSONResponse({"status": "ok"})

    routes = [
        Route("/livez", alive),
        Route("/readyz", ready),
        Route("/openapi.json", openapi),
        Route(deliberations.PATH, deliberations.ask, methods=["POST"]),
        Route(deliberations.PATH, deliberations.list_, methods=["GET"]),
        Route(ONE, deliberations.look, methods=["GET"]),
        Route(ONE, deliberations.cancel, methods=["DELETE"]),
        Route(f"{ONE}/events", event_stream.events, methods=["GET"]),
        Route(f"{ONE}/rerun", deliberations.ask_again, methods=["POST"]),
        Route("/v1/models", chat.models, methods=["GET"]),
        Route("/v1/models/{name:path}", chat.model, methods=["GET"]),
        Route("/v1/chat/completions", chat.completions, methods=["POST"]),
    ]
    handlers: Any = {
        Problem: _told(problem_of),
        ParleyError: _told(problem_of),
        HTTPException: _told(_of_starlette),
        Exception: _told(_of_any),
    }
    inner = Starlette(routes=_both_methods(routes), exception_handlers=handlers)
    inner.state.listing, inner.state.panels = state.listing, panels
    bounded = Bounded(inner, MAX_REQUEST_BYTES)
    return Gate(bounded, inner, state, is_local=is_local)


def _both_methods(routes: list[Route]) -> list[Route]:
    """One route for each path: of several, a 405 would name the methods of the first only."""
    merged: dict[str, dict[str, Callable[[Request], Awaitable[Response]]]] = {}
    for route in routes:
        for method in route.methods or ():
            merged.setdefault(route.path, {})[method] = route.endpoint
    return [Route(path, _by_method(by_method), methods=list(by_method)) for path, by_method in merged.items()]


def _by_method(
    by_method: Mapping[str, Callable[[Request], Awaitable[Response]]],
) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        return await by_method[request.method](request)

    return answer


class Gate:
    """Lets in who has a token, so often as its tenant may."""

    def __init__(self, app: ASGIApp, inner: Starlette, state: GatewayState, *, is_local: bool) -> None:
        self._app = app
        self._inner = inner
        self._state = state
        self._is_local = is_local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["app"] = self._inner
            request = Request(scope)
            try:
                if scope["path"] not in OPEN_PATHS:
                    scope["parley.caller"] = self._caller(request)
            except Problem as problem:
                await _response(request, problem)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _caller(self, request: Request) -> Caller:
        headers = request.headers
        if "transfer-encoding" in headers and "content-length" in headers:
            raise Problem(HTTPStatus.BAD_REQUEST, "both Content-Length and Transfer-Encoding")
        for name, _ in parse_qsl(request.url.query, keep_blank_values=True):
            if name.lower() in _SECRETS_IN_URL:
                words = "a token in a URL is written into logs: send the header Authorization: Bearer <token>"
                raise Problem(HTTPStatus.BAD_REQUEST, words, fields=[(name.lower(), words)])
        if self._state.tenants is None and self._is_local and _host(request) not in _OWN_HOSTS:
            words = "Host: this gateway is for programs of this machine"
            raise Problem(HTTPStatus.MISDIRECTED_REQUEST, words)
        return self._state.caller(headers.get("authorization", ""), headers.get("traceparent"))


def _host(request: Request) -> str:
    """The host that is asked, without its port."""
    return _PORT.sub("", request.headers.get("host", ""))


# ── errors ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _told(as_problem: Callable[[Any], Problem]) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def answer(request: Request, error: Exception) -> Response:
        return _response(request, as_problem(error))

    return answer


def _response(request: Request, problem: Problem) -> Response:
    status = problem.status.value
    if request.url.path.startswith(_OPENAI_PATHS):
        return JSONResponse(as_openai(problem), status, problem.headers)
    return JSONResponse(problem.body(), status, problem.headers, "application/problem+json")


def _of_starlette(error: HTTPException) -> Problem:
    status = HTTPStatus(error.status_code)
    words = {404: "there is nothing at this path", 405: "this path does not take this method"}
    return Problem(status, words.get(error.status_code, status.phrase), headers=dict(error.headers or {}))


def _of_any(error: Exception) -> Problem:
    if isinstance(error, SlowReader):
        return Problem(HTTPStatus.REQUEST_TIMEOUT, "nothing of the answer was read")
    return problem_of(error)
