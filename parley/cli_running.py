"""`parley up`, `serve` and `demo`: run the service, or parts of it, in this process."""

import asyncio
import logging
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from parley import find_nats
from parley.broker.core.errors import SettingsError
from parley.broker.core.messages import DeliberationCompleted
from parley.broker.core.printable import harmless, visible
from parley.broker.core.url_masking import masked
from parley.broker.process_tuning import tune_gc, use_batch_scheduling
from parley.cli_asking import ask_and_follow
from parley.cli_common import FAILED, NO_SERVICE, OK, err, out, print_error, run_command, start_logging
from parley.client import connect_with
from parley.display import show_ending
from parley.env_file import load_for_service
from parley.local_model_choice import LocalModel
from parley.request_arguments import Asking
from parley.settings import Settings
from parley.shutdown import Interrupted, Shutdown

# The demo's simulated model takes about as long as a real one on one GPU: there is something to watch.
DEMO_MODEL = ("--latency-ms", "400", "--tokens-per-second", "25")
# What `up` says of a model that it serves itself.
MODEL_WORDS = {
    LocalModel.SIMULATED: "SIMULATED: answers are made up; set VLLM_URL for a real one",
    LocalModel.TINY: "tiny: real and very small, do not trust its words; set VLLM_URL for a larger one",
}
ALL_PARTS = "intake,dispatch,aggregate,query"
# A part that is a client of the service, and may run without it.
GATEWAY = "gateway"
DEMO_QUESTION = "Write a function that computes the factorial of a non-negative integer."
# The tiny model cannot write code and takes no persona. At a higher temperature it leaves the question.
TINY_DEMO_QUESTION = "What are the benefits of walking every day? Name three."
TINY_DEMO_ASKING = Asking(role="TEACHER", diversity=False, temperature=0.4, max_tokens=120)

log = logging.getLogger("parley")


class Steps:
    """Prints each step of a start, and how long after the start it came."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def __call__(self, step: str) -> None:
        elapsed = f"{time.monotonic() - self._started:5.1f} s"
        out.print(f"{elapsed}  {visible(step)}", style="dim", markup=False, highlight=False, soft_wrap=True)


# fmt: off
def up(
    model: Annotated[LocalModel, typer.Option(
        help="What to serve where VLLM_URL names no server: made-up words at once, or a real model, very small.")
    ] = LocalModel.SIMULATED,
) -> None:
    """The whole service on this machine, until Ctrl-C. Starts what the settings do not name: NATS, Ray, a model."""
    # fmt: on
    settings = load_for_service()
    start_logging(settings)
    use_batch_scheduling()
    raise typer.Exit(run_command(_up(settings, model)))


async def _up(settings: Settings, model: LocalModel) -> int:
    from parley.app import service
    from parley.broker.jetstream.embedded import check_unused
    from parley.gateway.running import check_gateway, gateway
    from parley.local_nats_and_model import embedded
    from parley.operator_http import check_port
    from parley.tiny_model_process import LOG_NAME

    # Before anything is started. Of two `parley up` the second one is told of the first, and not of a port.
    if settings.nats_url is None:
        check_unused(settings.home / "nats")
    check_port(settings)
    check_gateway(settings)
    say = Steps()
    # Signals are handled before the first process starts, so that each started process is also stopped.
    shutdown = Shutdown(reads_again=settings.endpoints is not None)
    async with AsyncExitStack() as stack:
        try:
            if settings.nats_url is None:
                say("starting a nats-server on this machine")
            if not settings.has_servers and model is LocalModel.TINY:
                say("loading the tiny model")
            starting = embedded(settings, settings.home / "nats", model=model, say=say)
            local = await shutdown.during(stack.enter_async_context(starting))
            filled = local.settings
            running = await shutdown.during(stack.enter_async_context(service(filled, say=say)))
            door = await shutdown.during(stack.enter_async_context(gateway(filled)))
        except Interrupted:
            return OK
        shutdown.handle_signals()
        tune_gc()
        with find_nats.announce(settings.home, running.nats_url):
            pool = running.pool
            out.print("Parley is up.", style="bold green")
            shown_url = masked(running.nats_url)
            if settings.nats_url is None:
                # The token of our own server is for the user, and not for the journal of a supervisor.
                hidden = f"{shown_url}  (token: {settings.home / 'nats' / 'token'})"
                shown_url = running.nats_url if out.is_terminal else hidden
            out.print(f"  NATS     {shown_url}", markup=False, highlight=False, soft_wrap=True)
            out.print(f"  gateway  {door.http_url}/v1, gRPC {door.grpc_target}", highlight=False)
            out.print(f"  metrics  {running.http_url}/metrics", highlight=False)
            out.print(f"  docs     {running.http_url}/docs", highlight=False)
            what = MODEL_WORDS[local.model] if local.model else _where(filled)
            out.print(f"  model    {what}", markup=False, highlight=False, soft_wrap=True)
            out.print(f"  agents   {pool.slots if pool else 0} at a time ({settings.pool})", highlight=False)
            logs = ["this terminal"]
            if local.model is LocalModel.TINY:
                logs.insert(0, str(settings.home / "nats" / LOG_NAME))
            if settings.nats_url is None:
                logs.insert(0, str(settings.home / "nats" / "nats-server.log"))
            out.print(f"  logs     {'; '.join(logs)}", markup=False, highlight=False, soft_wrap=True)
            out.print('Ask with `parley ask "…"` in another terminal. Ctrl-C stops.')
            disabled = await shutdown.wait(running)
            out.print("Stopping: no more work is taken, running calls may finish.")
    return _stopped(disabled)


def _where(settings: Settings) -> str:
    """The model servers, in words."""
    named = [masked(settings.vllm_url)] if settings.vllm_url else []
    if settings.endpoints is not None:
        named.append(f"those of {settings.endpoints}")
    return " and ".join(named)


def serve(parts: Annotated[str, typer.Option(help="Which parts, comma-separated.")] = ALL_PARTS) -> None:
    """Run parts of the service against the NATS, Ray and model servers that the settings name."""
    from parley.handlers.routes import Part

    names = [name.strip() for name in parts.split(",") if name.strip()]
    unknown = sorted(set(names) - {*Part, GATEWAY})
    if unknown or not names:
        wrong = f"{', '.join(unknown)} unknown" if unknown else "none given"
        raise SettingsError([f"--parts: {wrong}; there are {', '.join((*Part, GATEWAY))}"])
    settings = load_for_service()
    start_logging(settings)
    use_batch_scheduling()
    chosen = frozenset(Part(name) for name in names if name != GATEWAY)
    if not chosen:
        raise typer.Exit(run_command(_serve_gateway(settings)))
    raise typer.Exit(run_command(_serve(settings, chosen, with_gateway=GATEWAY in names)))


async def _serve_gateway(settings: Settings) -> int:
    """The gateway alone: a client of NATS, with a client's rights."""
    from parley.gateway.running import gateway

    shutdown = Shutdown()
    async with AsyncExitStack() as stack:
        try:
            at = await shutdown.during(stack.enter_async_context(gateway(settings)))
        except Interrupted:
            return OK
        shutdown.handle_signals()
        log.info("serving the gateway at %s, gRPC at %s", at.http_url, at.grpc_target)
        await shutdown.wait_for_signal()
        log.info("stopping")
    return OK


async def _serve(settings: Settings, parts: Any, *, with_gateway: bool) -> int:
    from parley.app import service

    shutdown = Shutdown(reads_again=settings.endpoints is not None)
    async with AsyncExitStack() as stack:
        try:
            running = await shutdown.during(stack.enter_async_context(service(settings, parts)))
            if with_gateway:
                from parley.gateway.running import gateway

                at = await shutdown.during(stack.enter_async_context(gateway(settings)))
                log.info("serving the gateway at %s, gRPC at %s", at.http_url, at.grpc_target)
        except Interrupted:
            return OK
        shutdown.handle_signals()
        tune_gc()
        where = f"NATS {masked(running.nats_url)}; metrics {running.http_url}/metrics"
        log.info("serving %s; %s", ",".join(sorted(parts)), where)
        disabled = await shutdown.wait(running)
        log.info("stopping")
    return _stopped(disabled)


def _stopped(disabled: str | None) -> int:
    if disabled is None:
        return OK
    print_error(f"{disabled}; stopped, to be started again")
    sys.stdout.flush()
    # All our connections are closed. Ray's exit handler would wait for a head that is gone.
    os._exit(NO_SERVICE)


# fmt: off
def demo(
    question: Annotated[str | None, typer.Argument(
        help="What to ask. Without it, a question of the demo's own.", show_default=False)] = None,
    model: Annotated[LocalModel, typer.Option(
        help="What to ask where VLLM_URL names no server: a real model, very small, or made-up words.")
    ] = LocalModel.TINY,
) -> None:
    """Start everything, ask one question of three agents, let three judges choose, show the answers, stop."""
    # fmt: on
    settings = load_for_service(http_port=0)
    start_logging(settings.model_copy(update={"log_level": "WARNING"}))
    raise typer.Exit(run_command(_demo(settings, question, model)))


@asynccontextmanager
async def _said_if_cancelled(line: str) -> AsyncIterator[None]:
    """Stopping takes seconds: without a word it looks as if Ctrl-C had not been noticed."""
    try:
        yield
    except asyncio.CancelledError:
        err.print(line)
        raise


async def _demo(settings: Settings, question: str | None, model: LocalModel) -> int:
    from parley.app import service
    from parley.local_nats_and_model import embedded

    def say(line: str) -> None:
        out.print(Text(f"{line[:1].upper()}{visible(line[1:])}", "yellow"), soft_wrap=True)

    async with AsyncExitStack() as stack, _said_if_cancelled("Stopping what was started."):
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="parley-demo-")))
        with out.status("Starting NATS, Ray, a model and the service on this machine…"):
            starting = embedded(settings, folder, model=model, simulated=DEMO_MODEL, say=say)
            local = await stack.enter_async_context(starting)
            running = await stack.enter_async_context(service(local.settings))
            access = local.settings.nats_access
            client = await stack.enter_async_context(connect_with(running.nats_url, access))
        slots = running.pool.slots if running.pool else 0
        nats = masked(running.nats_url)
        out.print(f"Up: NATS {nats}, {slots} agent slots ({settings.pool}).", markup=False, soft_wrap=True)
        asking = Asking(agents=3, role="DEV", diversity=True, select="judge")
        if local.model is LocalModel.TINY:
            asking |= TINY_DEMO_ASKING
        asked = question or (TINY_DEMO_QUESTION if local.model is LocalModel.TINY else DEMO_QUESTION)
        asking_line = f"Asking three agents, then three judges: {harmless(asked)}"
        out.print(asking_line, style="bold", markup=False, soft_wrap=True)
        ending = await ask_and_follow(client, asked, live=True, hint=False, **asking)
        show_ending(out, ending, model=local.model, all_answers=True)
    out.print("Everything is stopped again.")
    return OK if isinstance(ending, DeliberationCompleted) else FAILED
