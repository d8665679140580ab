"""The client for programs without an event loop: Flask, Django, scripts, notebooks. The words are those of `parley.Client`.

    with parley.sync.connect("nats://127.0.0.1:4222") as client:
        ending = client.deliberate("Write a factorial function", agents=3)

Each call waits. A client may be used from many threads; its connection lives in a thread of its own, which a fork does
not take along: connect in each worker process, not before it is forked.
"""

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Coroutine, Generator, Iterable, Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, TypeVar, Unpack

from parley import client as async_client
from parley.broker.core.messages import DeliberationStatus, Ending
from parley.broker.core.tally import Tally
from parley.broker.jetstream.nats_access import NatsOptions
from parley.client_errors import ClientClosed
from parley.job import Job
from parley.job_events import JobEvent
from parley.request_arguments import Asking

Result = TypeVar("Result")


class SyncClient:
    """Made by `connect`. Close it, or use it as a context manager."""

    def __init__(self, url: str | None, **options: Unpack[NatsOptions]) -> None:
        self._pid = os.getpid()
        self._is_closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="parley client", daemon=True)
        self._thread.start()
        self._opened = AsyncExitStack()
        try:
            self._client = self._run(self._opened.enter_async_context(async_client.connect(url, **options)))
        except BaseException:
            self._stop()
            raise

    def __enter__(self) -> "SyncClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Whoever waits gets ClientClosed. Safe to repeat."""
        if self._is_closed or os.getpid() != self._pid:
            return
        try:
            self._run(self._opened.aclose())
        finally:
            self._stop()

    def deliberate(self, task_description: str | None = None, **asking: Unpack[Asking]) -> Ending:
        """Ask several agents and wait for the ending. As `parley.Client.deliberate`, which explains each argument."""
        return self._run(self._client.deliberate(task_description, **asking))

    def submit(self, task_description: str | None = None, **asking: Unpack[Asking]) -> "SyncJob":
        """Store the request and return at once. As `parley.Client.submit`."""
        return SyncJob(self, self._run(self._client.submit(task_description, **asking)))

    def job(self, task_id: str) -> "SyncJob":
        """A deliberation that another process has submitted. As `parley.Client.job`."""
        return SyncJob(self, self._client.job(task_id))

    def as_completed(self, jobs: "Iterable[SyncJob]") -> "Generator[SyncJob, None, None]":
        """Each of these as soon as its ending is there. As `parley.Client.as_completed`."""
        by_inner = {job.inner: job for job in jobs}
        for inner in self._each(self._client.as_completed(by_inner)):
            yield by_inner[inner]

    def map(
        self, questions: Iterable[str | Mapping[str, Any]], *, limit: int = 100, **asking: Unpack[Asking]
    ) -> Generator[Ending, None, None]:
        """Ask each of these, at most `limit` at a time; the endings in the order of the questions. As
        `parley.Client.map`."""
        yield from self._each(self._client.map(questions, limit=limit, **asking))

    def status(self, task_id: str) -> DeliberationStatus:
        """How it is doing. As `parley.Client.status`."""
        return self._run(self._client.status(task_id))

    def find(self, task_id: str) -> Ending | None:
        """The ending of an earlier one, None if it has none yet. As `parley.Client.find`."""
        return self._run(self._client.find(task_id))

    def cancel(self, task_id: str, reason: str | None = None) -> None:
        """Ask for it to be stopped. As `parley.Client.cancel`."""
        self._run(self._client.cancel(task_id, reason))

    def tallies(self) -> list[Tally]:
        """Every deliberation that the service remembers, the newest first. As `parley.Client.tallies`."""
        return self._run(self._client.tallies())

    # ── the thread ────────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """The result of `work`, which runs in the client's thread. An interrupt (Ctrl-C) stops it."""
        if os.getpid() != self._pid:
            work.close()
            raise RuntimeError(
                "this Parley client was connected before the process was forked: connect in each process"
            )
        if self._is_closed:
            work.close()
            raise ClientClosed
        running = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return running.result()
        except BaseException:
            running.cancel()
            raise

    def _each(self, items: AsyncGenerator[Result, None]) -> Generator[Result, None, None]:
        try:
            while (found := self._run(_one(items))) is not None:
                yield found[0]
        finally:
            if not self._is_closed:
                self._run(_closed(items))

    def _stop(self) -> None:
        self._is_closed = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class SyncJob:
    """A deliberation. The words are those of `parley.Job`."""

    def __init__(self, client: SyncClient, inner: Job) -> None:
        self._client = client
        self.inner = inner

    def __repr__(self) -> str:
        return repr(self.inner)

    @property
    def task_id(self) -> str:
        return self.inner.task_id

    @property
    def own_name(self) -> str | None:
        """As `parley.Job.own_name`."""
        return self.inner.own_name

    def ending(self, *, timeout: float | None = None) -> Ending:
        """Wait for the ending. As `parley.Job.ending`."""
        return self._client._run(self.inner.ending(timeout=timeout))

    def status(self) -> DeliberationStatus:
        """How it is doing. As `parley.Job.status`."""
        return self._client._run(self.inner.status())

    def cancel(self, reason: str | None = None) -> None:
        """Ask for it to be stopped. As `parley.Job.cancel`."""
        self._client._run(self.inner.cancel(reason))

    def events(self, *, after: str | None = None) -> Generator[JobEvent, None, None]:
        """What happens in it; its ending is the last. As `parley.Job.events`."""
        yield from self._client._each(self.inner.events(after=after))


def connect(url: str | None = None, **options: Unpack[NatsOptions]) -> SyncClient:
    """A client. Takes the arguments of `parley.connect`, and raises as it does."""
    return SyncClient(url, **options)


async def _one(items: AsyncGenerator[Result, None]) -> tuple[Result] | None:
    """The next of these, None after the last."""
    async for item in items:
        return (item,)
    return None


async def _closed(items: AsyncGenerator[Any, None]) -> None:
    await items.aclose()
