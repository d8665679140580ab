"""What all commands share: the consoles, the exit codes, and how their work runs. Knows no command."""

import logging
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import typer
import uvloop
from rich.console import Console

from parley.broker.core.printable import visible
from parley.client import Client, connect
from parley.log_format import formatter
from parley.settings import Settings, load

OK, FAILED, USAGE, NO_SERVICE = 0, 1, 2, 3

out = Console()
err = Console(stderr=True)

T = TypeVar("T")


def print_error(problem: str) -> None:
    """Print one line on stderr: what is wrong, and what to do."""
    err.print(f"parley: {visible(problem)}", style="red", markup=False, highlight=False, soft_wrap=True)


def with_client(work: Callable[[Client], Awaitable[T]]) -> T:
    """Run `work` with the NATS that the settings name, or that a `parley up` of this user announces."""

    async def session() -> T:
        async with connect(load().with_local_nats().nats_url) as client:
            return await work(client)

    return run_command(session())


def run_command(work: Coroutine[Any, Any, T]) -> T:
    """Run `work`. Ctrl-C ends the command with code 130, as shells do."""
    # nats-py logs each lost connection with a traceback. Our own log lines and readiness say what matters.
    logging.getLogger("nats").setLevel(logging.CRITICAL)
    try:
        return uvloop.run(work)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def start_logging(settings: Settings) -> None:
    """Log to stderr: our own lines from the settings' level on, others' from WARNING."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(settings.log_format))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("parley").setLevel(settings.log_level)
