"""What every command shares: the consoles, the exit codes, and how its work is run. Knows no command."""

import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import typer
import uvloop
from rich.console import Console

from parley.client import Client, connect

OK, FAILED, USAGE, NO_SERVICE = 0, 1, 2, 3

out = Console()
err = Console(stderr=True)

T = TypeVar("T")


def print_error(problem: str) -> None:
    """One line on stderr: what is wrong, and what to do."""
    err.print(f"parley: {problem}", style="red", markup=False, highlight=False, soft_wrap=True)


def with_client(work: Callable[[Client], Awaitable[T]]) -> T:
    """Do it with the NATS that the settings name, or that a `parley up` of this user announces."""

    async def session() -> T:
        async with connect() as client:
            return await work(client)

    return run_command(session())


def run_command(work: Coroutine[Any, Any, T]) -> T:
    """Run it. Ctrl-C ends the command with the code that shells give it."""
    # nats-py logs every lost connection with a traceback; what matters of it is in our own lines and in readiness.
    logging.getLogger("nats").setLevel(logging.CRITICAL)
    try:
        return uvloop.run(work)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
