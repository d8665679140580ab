"""A whole service in a thread of the test's process: a nats-server, agents in this process, a model that is scripted."""

import asyncio
import logging
import tempfile
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web

import parley.sync
from parley.app import service
from parley.broker.jetstream.embedded import embedded_nats
from parley.broker.jetstream.jetstream import JetStream
from parley.handlers.overdue_deadlines import OVERDUE_SECONDS
from parley.settings import Settings, load
from parley.testing.scripted_model import MODEL, ScriptedModel

# A start or a stop that takes longer is an error.
PATIENCE_SECONDS = 60.0
# Between two looks whether a turned clock has ended all that it should.
LOOK_SECONDS = 0.05

Result = TypeVar("Result")


class RunningService:
    """`url`: of its NATS, for a program's `NATS_URL`. `model`: what its agents and judges say."""

    def __init__(
        self, url: str, model: ScriptedModel, wire: JetStream, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.url = url
        self.model = model
        self._wire = wire
        self._loop = loop
        # Made when a test first asks for it.
        self._client: parley.sync.SyncClient | None = None

    @classmethod
    @contextmanager
    def started(cls) -> "Iterator[RunningService]":
        """Start one, and stop it when the block ends. For a test-suite without pytest."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="parley service", daemon=True)
        thread.start()
        stack = AsyncExitStack()
        try:
            opened = asyncio.run_coroutine_threadsafe(stack.enter_async_context(_running()), loop)
            url, model, wire = opened.result(PATIENCE_SECONDS)
            running = cls(url, model, wire, loop)
            try:
                yield running
            finally:
                if running._client is not None:
                    running._client.close()
        finally:
            asyncio.run_coroutine_threadsafe(stack.aclose(), loop).result(PATIENCE_SECONDS)
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    @property
    def client(self) -> parley.sync.SyncClient:
        """A client of it, without an event loop. An asynchronous test uses `parley.connect(service.url)`."""
        if self._client is None:
            self._client = parley.sync.connect(self.url)
        return self._client

    def turn_clock(self, seconds: float) -> None:
        """Let so much time pass for what runs now: what has its deadline within it ends, before this returns. Ask nothing
        meanwhile."""
        self._run(self._turn(seconds))

    def begin_test(self) -> None:
        self.model.reset()

    def end_test(self) -> None:
        """Stop what the test has left running."""
        left = [tally for tally in self.client.tallies() if not tally.ended]
        for tally in left:
            self.client.cancel(tally.task_id, "its test is over")
        for tally in left:
            self.client.job(tally.task_id).ending(timeout=PATIENCE_SECONDS)

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_SECONDS)

    async def _turn(self, seconds: float) -> None:
        clock = self._wire.clock
        until = clock.now() + seconds
        with clock.turned(seconds + OVERDUE_SECONDS):
            while await self._is_due(until):  # noqa: ASYNC110  # nothing tells that a deadline was applied
                await asyncio.sleep(LOOK_SECONDS)

    async def _is_due(self, until: float) -> bool:
        """Whether anything that ends by then has not ended."""
        client = self.client
        tallies = await asyncio.to_thread(client.tallies)
        return any(tally.ending_seq is None and tally.deadline <= until for tally in tallies)


@asynccontextmanager
async def _running() -> AsyncIterator[tuple[str, ScriptedModel, JetStream]]:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="parley-testing-")))
        nats = await stack.enter_async_context(embedded_nats(folder, port=-1))
        model = ScriptedModel()
        url = await stack.enter_async_context(_served(model))
        running = await stack.enter_async_context(service(_settings(nats.url, url, folder)))
        yield nats.url, model, running.wire


@asynccontextmanager
async def _served(model: ScriptedModel) -> AsyncIterator[str]:
    runner = web.AppRunner(model.app(), access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def _settings(nats_url: str, model_url: str, folder: Path) -> Settings:
    logging.getLogger("parley.deliberations").setLevel(logging.WARNING)
    return load(
        nats_url=nats_url, vllm_url=model_url, vllm_model=MODEL, pool="local", http_port=0, home=folder / "home",
        retry_base_seconds=0.01, retry_cap_seconds=0.05, drain_seconds=0.0,
    )  # fmt: skip
