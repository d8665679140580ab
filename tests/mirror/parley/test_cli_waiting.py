"""Waiting before the eyes of a person: the picture, a service that goes meanwhile, and a wait that is broken off."""

import asyncio
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from parley.broker.jetstream.embedded import EmbeddedNats
from parley.client import connect
from tests.harness import PATIENCE_SECONDS, ModelServer, until
from tests.mirror.parley.test_cli import NO_SERVICE, OK, PARLEY, Shell, bare, serving
from tests.rig.pseudo_terminal import PseudoTerminal, pseudo_terminal

__all__ = ["bare"]

HUNG_UP, INTERRUPTED, TERMINATED = 129, 130, 143
# Runs a command with its terminal as the controlling one, and with stderr in a file where one is given.
CONTROLLED = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
if log := sys.argv[1]:
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), 2)
os.execv(sys.argv[2], sys.argv[2:])
"""


@asynccontextmanager
async def asking(shell: Shell, *arguments: str, **environment: str) -> AsyncIterator[PseudoTerminal]:
    """A `parley ask` on a terminal."""
    seen = {**shell.environment, "TERM": "xterm", **environment}
    seen.pop("COLUMNS")
    async with pseudo_terminal(PARLEY, "ask", "Why?", *arguments, environment=seen) as terminal:
        yield terminal


async def accepted(url: str) -> str:
    """The name of the one deliberation, once it was taken in."""
    async with connect(url) as client:

        async def names() -> str:
            return next((tally.task_id for tally in await client.tallies()), "")

        return await until(names, "a deliberation was taken in")


async def test_the_picture_is_on_the_terminal_and_gone_at_the_end(
    bare: Shell, empty_nats: EmbeddedNats, model: ModelServer
) -> None:
    environment = {"NATS_URL": empty_nats.url, "VLLM_URL": model.url}
    async with serving(bare, **environment):
        await model.behave(latency_ms=700)
        async with asking(bare, **environment) as terminal:
            await terminal.read_until("agent-dev-001  thinking")
            assert await terminal.end() == OK
            assert "COMPLETED: 3 of 3 agents answered" in terminal.text
            assert terminal.raw.index("\x1b[?25h") < terminal.raw.index("COMPLETED")  # the cursor is back
        async with asking(bare, TERM="dumb", **environment) as terminal:
            assert await terminal.end() == OK
            assert "\x1b" not in terminal.raw
        async with asking(bare, NO_COLOR="1", **environment) as terminal:
            assert await terminal.end() == OK
            assert not re.search("\x1b\\[[0-9;]*3[0-9]m", terminal.raw)


@pytest.mark.parametrize("gone", ["service", "NATS"])
async def test_what_is_gone_is_said_in_the_picture_and_ends_the_wait_with_3_within_seconds(
    gone: str, bare: Shell, empty_nats: EmbeddedNats, model: ModelServer
) -> None:
    await model.behave(faults={"hang": 1.0})
    environment = {"NATS_URL": empty_nats.url, "VLLM_URL": model.url}
    async with serving(bare, **environment) as (process, _), asking(bare, **environment) as terminal:
        await terminal.read_until("thinking")
        began = time.monotonic()
        if gone == "service":
            process.kill()
        else:
            os.kill(empty_nats.pid, signal.SIGKILL)
        said = "the service is gone" if gone == "service" else "NATS is gone"
        await terminal.read_until(f"   {said}")  # in the picture, while it still waits
        assert terminal.process.returncode is None
        assert await terminal.end() == NO_SERVICE
        assert time.monotonic() - began < 20
        assert re.search(rf"parley: {said}.*\n?.*d-1 has no ending yet", terminal.text)
        assert "Traceback" not in terminal.text


async def test_a_service_that_comes_back_soon_is_waited_for(
    bare: Shell, empty_nats: EmbeddedNats, model: ModelServer
) -> None:
    await model.behave(faults={"hang": 1.0})
    environment = {"NATS_URL": empty_nats.url, "VLLM_URL": model.url}
    async with asking_while_restarting(bare, model, environment) as terminal:
        assert await terminal.end() == OK
        assert "the service is gone" in terminal.text


@asynccontextmanager
async def asking_while_restarting(
    shell: Shell, model: ModelServer, environment: dict[str, str]
) -> AsyncIterator[PseudoTerminal]:
    timing = {"PARLEY_ACK_WAIT_SECONDS": "2"}
    async with (
        serving(shell, **environment, **timing) as (first, _),
        asking(shell, **environment) as terminal,
    ):
        await terminal.read_until("thinking")
        first.kill()
        await model.behave()
        await terminal.read_until("the service is gone")
        async with serving(shell, **environment, **timing):
            yield terminal


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, TERMINATED), (signal.SIGHUP, HUNG_UP)],
)
async def test_a_wait_that_is_broken_off_says_how_to_find_the_deliberation(
    number: int, code: int, bare: Shell, empty_nats: EmbeddedNats, model: ModelServer
) -> None:
    await model.behave(faults={"hang": 1.0})
    environment = {"NATS_URL": empty_nats.url, "VLLM_URL": model.url}
    async with (
        serving(bare, **environment),
        asking(bare, **environment) as terminal,
        bare.started("ask", "Why?", "--json", "--task-id", "mine", **environment) as script,
    ):
        await terminal.read_until("thinking")
        terminal.process.send_signal(number)
        assert await terminal.end() == code
        assert re.search(r"d-\d goes on without you: `parley result d-\d`", terminal.text)
        assert terminal.raw.rindex("\x1b[?25h") > terminal.raw.rindex("\x1b[?25l")
        async with connect(empty_nats.url) as client:

            async def known() -> bool:
                return (await client.status("mine")).status == "IN_PROGRESS"

            await until(known, "the second was taken in")
        script.send_signal(number)
        out, err = await script.communicate()
        assert (script.returncode, out) == (code, b"")
        assert b"mine goes on without you" in err
        assert b"Traceback" not in err


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, TERMINATED), (signal.SIGHUP, HUNG_UP)],
)
@pytest.mark.parametrize("after", [0.15, 0.3, 0.5, 0.8])
async def test_a_signal_during_the_start_ends_the_command_without_a_traceback(
    number: int, code: int, after: float, bare: Shell, tmp_path: Path
) -> None:
    async with bare.started("ask", "x", NATS_URL="nats://127.0.0.1:9") as process:
        await asyncio.sleep(after)  # at any moment of the imports
        if process.returncode is None:
            process.send_signal(number)
        _, err = await process.communicate()
        assert process.returncode in (
            code,
            -number,
            NO_SERVICE,
        )  # before Python runs ours: by the signal itself
        assert b"Traceback" not in err


@pytest.mark.parametrize("log", ["", "log"])
async def test_a_terminal_that_is_closed_ends_the_wait_without_a_traceback(
    log: str, bare: Shell, empty_nats: EmbeddedNats, model: ModelServer, tmp_path: Path
) -> None:
    await model.behave(faults={"hang": 1.0})
    environment = {"NATS_URL": empty_nats.url, "VLLM_URL": model.url}
    path = str(tmp_path / log) if log else ""
    command = (sys.executable, "-c", CONTROLLED, path, PARLEY, "ask", "Why?")
    seen = {**bare.environment, **environment, "TERM": "xterm"}
    async with serving(bare, **environment), pseudo_terminal(*command, environment=seen) as terminal:
        await terminal.read_until("thinking")
        terminal.close()
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await terminal.process.wait() == HUNG_UP
        async with connect(empty_nats.url) as client:
            assert (await client.status("d-1")).status == "IN_PROGRESS"
    if log:
        (line,) = (tmp_path / log).read_text().splitlines()
        assert line.startswith("d-1 goes on without you: `parley result d-1`")


async def test_waiting_for_a_result_ends_with_3_too_when_nats_is_gone(
    bare: Shell, empty_nats: EmbeddedNats, model: ModelServer
) -> None:
    await model.behave(faults={"hang": 1.0})
    environment = {"NATS_URL": empty_nats.url, "VLLM_URL": model.url}
    seen = {**bare.environment, **environment, "TERM": "xterm"}
    async with serving(bare, **environment):
        name = (await bare("ask", "Why?", "--no-wait", **environment)).out.strip()
        async with pseudo_terminal(PARLEY, "result", name, "--wait", environment=seen) as terminal:
            await terminal.read_until("thinking")
            os.kill(empty_nats.pid, signal.SIGKILL)
            assert await terminal.end() == NO_SERVICE
            assert "NATS is gone" in terminal.text
