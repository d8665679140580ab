"""A message comes to its handler through few functions: each is one that a reader of a traceback has to pass."""

import asyncio
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

from parley.broker.jetstream import topology
from parley.broker.jetstream.connection import connect_options
from parley.broker.jetstream.topology import INTAKE
from parley.handlers.delivery import Delivery
from parley.handlers.faststream_private import ServiceBroker
from parley.handlers.intake import Bounds, Intake
from parley.handlers.pull_window import PullWindow
from parley.handlers.routes import Handlers, declare
from tests import present
from tests.mirror.handlers import Bench, effects_of, runner_of

# From NatsClient._process_msg to the line of intake that reads the request.
MOST_FRAMES = 7


def ours(frame: FrameType | None) -> Iterator[str]:
    """The functions of Parley on a stack, the innermost first."""
    while frame is not None:
        if str(frame.f_globals["__name__"]).startswith("parley."):
            yield frame.f_code.co_qualname
        frame = frame.f_back


async def test_a_request_is_read_within_seven_frames(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three stacks, one after the other: the client receives, the pull loop starts a task, the task calls the
    handler."""
    received: list[str] = []
    started: dict[asyncio.Task[Any], list[str]] = {}
    read: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
    arrive, payload = PullWindow.arrive, Delivery.payload

    def noting_arrive(self: PullWindow[Any], message: Any, size: int = 0) -> None:
        received[:] = ours(sys._getframe())
        arrive(self, message, size)

    def noting_payload(self: Delivery[Any], kind: Any) -> Any:
        task = present(asyncio.current_task())
        read.set_result([*ours(sys._getframe()), *started[task], *received])
        return payload(self, kind)

    def factory(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(work, loop=loop, **options)
        started[task] = list(ours(sys._getframe()))
        return task

    monkeypatch.setattr(PullWindow, "arrive", noting_arrive)
    monkeypatch.setattr(Delivery, "payload", noting_payload)
    broker = ServiceBroker(**connect_options(bench.url, "frames"), apply_types=False, logger=None)
    intake = Intake(effects_of(bench), bench.notes, Bounds(16, 60.0))
    declare(broker, Handlers(intake=runner_of(bench, INTAKE, intake.handle)))
    await broker.start()
    asyncio.get_running_loop().set_task_factory(factory)
    try:
        await bench.publish(topology.REQUESTED, {"task_description": "x"})
        frames = await asyncio.wait_for(read, 10)
        await bench.settled(INTAKE)
    finally:
        asyncio.get_running_loop().set_task_factory(None)
        await broker.stop()
    assert frames[0] == "Intake.handle"
    assert frames[-1] == "NatsClient._process_msg"
    assert len(frames) <= MOST_FRAMES, "\n".join(reversed(frames))
