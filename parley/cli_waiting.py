"""Waits for a deliberation's ending before the eyes of a person, and gives up soon when the service is gone."""

import asyncio
from collections.abc import Coroutine
from contextlib import AbstractContextManager, nullcontext
from time import monotonic
from typing import Any, TypeVar

from rich.console import Console
from rich.live import Live

from parley.broker.asyncio_helpers import cancel_all
from parley.broker.core.errors import BrokerUnavailable, RightMissing, Unavailable
from parley.cli_common import err, out
from parley.client import Client
from parley.client_errors import NoService
from parley.live_picture import Progress

# Between two looks whether the service is still there.
LOOK_SECONDS = 1.0
# One look. A service under load answers late.
ANSWER_SECONDS = 3.0
# How long NATS or every process of the service may be away, as in a restart; and how long both may be there in silence.
AWAY_SECONDS, SILENT_SECONDS = 6.0, 15.0

T = TypeVar("T")


class ServiceGone(Unavailable):
    """Nobody works on the deliberation that is waited for. It goes on when the service is back."""

    def __init__(self, task_id: str, why: str) -> None:
        super().__init__(task_id, why)
        self.task_id = task_id
        self.why = why

    def __str__(self) -> str:
        return f"{self.why}, and {self.task_id} has no ending yet; later `parley result {self.task_id}` may have it"


async def follow(
    client: Client, task_id: str, waiting: Coroutine[Any, Any, T], *, live: bool, hint: bool = True
) -> T:
    """The result of `waiting`. `live`: show each agent's progress meanwhile, if there is a terminal.

    Raises ServiceGone and what `waiting` raises. When it is cancelled: with `hint` it says how to find the deliberation
    again.
    """
    progress = Progress(task_id)
    ending = asyncio.create_task(waiting)
    presence = asyncio.create_task(_raise_when_gone(client, task_id, progress))
    watching = asyncio.create_task(_watch(client, task_id, progress)) if live else None
    try:
        with _picture(progress) if live else nullcontext():
            await asyncio.wait({ending, presence}, return_when=asyncio.FIRST_COMPLETED)
            return ending.result() if ending.done() else await presence
    except asyncio.CancelledError:
        if hint:
            how = f"`parley result {task_id}` asks for it, `parley cancel {task_id}` stops it"
            err.print(f"{task_id} goes on without you: {how}", markup=False, highlight=False, soft_wrap=True)
        raise
    finally:
        # Whatever went wrong with the picture, the ending counts.
        await cancel_all(task for task in (ending, presence, watching) if task is not None)


def _picture(progress: Progress) -> AbstractContextManager[object]:
    # On stderr, so that the answers can go into a file.
    console: Console | None = next((each for each in (err, out) if _can_redraw(each)), None)
    if console is None:
        return nullcontext()
    return Live(progress, console=console, refresh_per_second=8, transient=True, redirect_stdout=False)


def _can_redraw(console: Console) -> bool:
    return console.is_terminal and not console.is_dumb_terminal


async def _watch(client: Client, task_id: str, progress: Progress) -> None:
    while True:
        try:
            async for tally in client.watch(task_id):
                progress.tally = tally
            return
        except RightMissing:
            return  # the log says so, once; without the right there is no more to show
        except Unavailable:
            await asyncio.sleep(LOOK_SECONDS)  # the look at the service says so


async def _raise_when_gone(client: Client, task_id: str, progress: Progress) -> Any:
    """Look again and again, and say in the picture what is away. Raises ServiceGone. Any: it never returns."""
    since: float | None = None
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        began = monotonic()
        progress.trouble, patience = await _trouble(client, task_id)
        if not progress.trouble:
            since = None
            continue
        since = began if since is None else since
        if monotonic() - since >= patience:
            raise ServiceGone(task_id, progress.trouble)


async def _trouble(client: Client, task_id: str) -> tuple[str, float]:
    """What is away, empty if nothing is; and how long it may be."""
    if not client.connected:
        return "NATS is gone", AWAY_SECONDS
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            await client.status(task_id)
    except NoService:
        return "the service is gone: no process of it answers", AWAY_SECONDS
    except (BrokerUnavailable, TimeoutError):
        return "the service does not answer", SILENT_SECONDS
    return "", 0.0
