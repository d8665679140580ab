"""What all commands share: the consoles, the exit codes, signals, and how their work runs. Knows no command."""

import asyncio
import logging
import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import typer
import uvloop

from parley.broker.core.errors import SettingsError
from parley.broker.core.printable import on_one_line
from parley.client import Client, connect_with
from parley.log_format import formatter
from parley.settings import Settings, load
from parley.terminal import Terminal, leave_closed_terminals

OK, FAILED, USAGE, NO_SERVICE = 0, 1, 2, 3
# Of `parley result` only.
RUNNING, UNKNOWN = 4, 5
# SIGHUP: the terminal was closed.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}

out = Terminal()
err = Terminal(stderr=True)

T = TypeVar("T")


def print_error(problem: str) -> None:
    """Print one line on stderr: what is wrong, and what to do."""
    err.print(f"parley: {on_one_line(problem)}", style="red", markup=False, highlight=False, soft_wrap=True)


def with_client(work: Callable[[Client], Awaitable[T]]) -> T:
    """Run `work` with the NATS that the settings name, or that a `parley up` of this user announces."""

    # What keeps a command from its work is its error, and what it may do without is no news.
    logging.getLogger("parley").setLevel(logging.CRITICAL)

    async def session() -> T:
        settings = load().with_local_nats()
        async with connect_with(settings.nats_url, settings.nats_access) as client:
            return await work(client)

    return run_command(session())


def run_command(work: Coroutine[Any, Any, T]) -> T:
    """Run `work`. Ctrl-C cancels it and ends the command with code 130, SIGTERM with 143, SIGHUP with 129, as in
    shells."""
    # nats-py logs each lost connection with a traceback. Our own log lines and readiness say what matters.
    logging.getLogger("nats").setLevel(logging.CRITICAL)
    received: list[int] = []
    try:
        return uvloop.run(_cancelled_by_signals(work, received))
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise typer.Exit(128 + (received or [signal.SIGINT])[0]) from None


async def _cancelled_by_signals(work: Coroutine[Any, Any, T], received: list[int]) -> T:
    """Run `work` until the first signal, which is noted in `received`. The second ends the process at once, but for a
    second SIGHUP: of a closed terminal the kernel sends one, and the shell too."""
    loop, running = asyncio.get_running_loop(), asyncio.ensure_future(work)

    def on_signal(number: int) -> None:
        if number == signal.SIGHUP:
            leave_closed_terminals()
            if number in received:
                return
        if received:
            for console in (out, err):
                console.show_cursor()  # the live picture hides it
            os._exit(128 + number)
        received.append(number)
        running.cancel()

    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup`, and a shell's `&`, want it
            loop.add_signal_handler(number, on_signal, number)
    return await running


def age_seconds(flag: str, age: str, beside: str = "") -> float:
    """The seconds of an age such as 45s, 30m, 12h or 7d. Raises SettingsError naming `flag`, and what it takes `beside`."""
    read = re.fullmatch(r"([0-9]{1,9})([smhd])", age)
    if read is None:
        raise SettingsError([f"{flag}: {age!a} is no age; one is 45s, 30m, 12h or 7d{beside}"])
    return float(read[1]) * _UNITS[read[2]]


def start_logging(settings: Settings) -> None:
    """Log to stderr: our own lines from the settings' level on, others' from WARNING."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(settings.log_format))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("parley").setLevel(settings.log_level)
