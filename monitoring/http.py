"""The HTTP server for operators: /metrics, /livez, /readyz and /docs. Read-only: no request changes anything."""

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from aiohttp import web
from prometheus_client.aiohttp import make_aiohttp_handler
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from parley.broker.asyncio_helpers import BackgroundLoop
from parley.monitoring import asyncapi
from parley.monitoring.check_runner import Check, problems
from parley.monitoring.http_connection_limits import BACKLOG, Connections
from parley.monitoring.metrics import Metrics

_ASSETS = {"asyncapi.js": "text/javascript", "asyncapi.css": "text/css"}


def application(
    metrics: Metrics,
    checks: Mapping[str, Check],
    spec: Mapping[str, object],
    refresh: Callable[[], Awaitable[None]] | None = None,
    alive: Callable[[], bool] = lambda: True,
    notes: Callable[[], Mapping[str, str]] = dict,
) -> web.Application:
    """The routes. `refresh` is awaited before each scrape: it fetches the numbers that only NATS knows.

    /livez answers 503 once `alive` returns False, which asks the supervisor for a restart. /readyz answers 503 while
    any of `checks` reports a problem, and names it; `notes` are to be known and do no harm.
    """
    write_metrics = make_aiohttp_handler(metrics.registry)

    async def show_metrics(request: web.Request) -> web.StreamResponse:
        if refresh is not None:
            await refresh()
        try:
            return await write_metrics(request)
        except TypeError:  # prometheus_client compares versions of the Accept header that are no numbers
            return web.Response(
                body=generate_latest(metrics.registry), headers={"content-type": CONTENT_TYPE_PLAIN_0_0_4}
            )

    async def live(_: web.Request) -> web.Response:
        return web.json_response({"live": alive()}, status=200 if alive() else 503)

    async def ready(_: web.Request) -> web.Response:
        found = await problems(checks)
        said = {"notes": dict(notes())} if notes() else {}
        body = {"ready": not found, "problems": found, **said}
        return web.json_response(body, status=503 if found else 200)

    async def show_docs(_: web.Request) -> web.Response:
        return web.Response(text=asyncapi.page(spec), content_type="text/html")

    async def show_spec(_: web.Request) -> web.Response:
        return web.json_response(spec)

    async def asset(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in _ASSETS:
            raise web.HTTPNotFound
        packed = (asyncapi.ASSETS / f"{name}.gz").read_bytes()
        return web.Response(body=gzip.decompress(packed), content_type=_ASSETS[name])

    app = web.Application()
    app.router.add_get("/metrics", show_metrics)
    app.router.add_get("/livez", live)
    app.router.add_get("/readyz", ready)
    app.router.add_get("/docs", show_docs)
    app.router.add_get("/docs/asyncapi.json", show_spec)
    app.router.add_get("/docs/assets/{name}", asset)
    return app


def check_port(host: str, port: int) -> None:
    """Raises OSError if the port is taken, before anything else is started."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))


@asynccontextmanager
async def serving(app: web.Application, host: str, port: int) -> AsyncIterator[str]:
    """Serve until the block ends; yields the URL. Port 0 takes a free one. Raises OSError if the port is taken."""
    connections = Connections()
    app.middlewares.append(connections.count_requests)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(runner.cleanup)
        server = runner.server
        assert server is not None, "set up above"
        listener = await asyncio.get_running_loop().create_server(
            partial(connections.protocol, server), host, port, backlog=BACKLOG
        )
        stack.callback(listener.close)
        stack.callback(
            BackgroundLoop(partial(connections.close_idle, server), "the idle HTTP connections").cancel
        )
        address, bound = listener.sockets[0].getsockname()[:2]
        yield f"http://[{address}]:{bound}" if ":" in address else f"http://{address}:{bound}"
