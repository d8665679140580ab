"""What happens in a deliberation, as server-sent events: `/v1/deliberations/{task_id}/events`.

Each event has an id. A browser, or any program, that comes again with `Last-Event-ID` is told what follows, by this
gateway or another. Comments keep a proxy from cutting a stream in which nothing happens.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from parley.broker.core.errors import ParleyError
from parley.gateway.caller import known, told_of
from parley.gateway.deliberations import caller_of
from parley.job_events import JobEvent

# Proxies cut what is silent for 30 to 60 s.
COMMENT_SECONDS = 15.0
COMMENT = b": still there\n\n"
# A program that lost its stream comes again after so long.
RETRY = b"retry: 1000\n\n"
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

Item = TypeVar("Item")


async def events(request: Request) -> Response:
    """The events from the first one on, or behind `Last-Event-ID` (also `?after=`)."""
    caller = caller_of(request)
    after = request.headers.get("last-event-id") or request.query_params.get("after") or None
    if after is not None and told_of(after, "Last-Event-ID").ended:
        return Response(status_code=204)  # nothing follows: a browser comes no more
    job = caller.job(request.path_params["task_id"])
    await known(job)
    return StreamingResponse(_lines(job.events(after=after)), media_type="text/event-stream", headers=HEADERS)


async def _lines(found: AsyncGenerator[JobEvent, None]) -> AsyncIterator[bytes]:
    yield RETRY
    async with aclosing(with_pauses(found)) as told:
        try:
            async for event in told:
                yield COMMENT if event is None else written(event)
        except ParleyError:
            return  # it is forgotten, or NATS or the service is away: the program comes again with the last id


def written(event: JobEvent) -> bytes:
    return f"id: {event.id}\nevent: {event.type}\ndata: {event.model_dump_json()}\n\n".encode()


async def with_pauses(found: AsyncGenerator[Item, None]) -> AsyncGenerator[Item | None, None]:
    """These, and None whenever nothing has come for COMMENT_SECONDS."""
    upcoming: asyncio.Task[Item] | None = None
    try:
        while True:
            upcoming = upcoming or asyncio.ensure_future(_next(found))
            await asyncio.wait({upcoming}, timeout=COMMENT_SECONDS)
            if not upcoming.done():
                yield None
                continue
            try:
                item = upcoming.result()
            except StopAsyncIteration:
                return
            upcoming = None
            yield item
    finally:
        if upcoming is not None:
            upcoming.cancel()
            await asyncio.wait({upcoming})
        await found.aclose()


async def _next(found: AsyncGenerator[Item, None]) -> Item:
    return await anext(found)
