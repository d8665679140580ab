"""The subcommands of `parley`. Exit codes: 0 success (a deliberation: completed), 1 otherwise, 2 usage, 3 no service."""

import asyncio
import json
import logging
import os
import sys
import tempfile
from contextlib import AsyncExitStack, suppress
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import Annotated, Any, Unpack

import typer
from rich.live import Live
from rich.table import Table
from rich.text import Text

from parley import deadletters, find_nats
from parley.broker.core.errors import InvalidMessage, ParleyError, SettingsError, Unavailable
from parley.broker.core.messages import DeliberationCompleted, Ending
from parley.broker.core.printable import safe_json, visible
from parley.broker.core.url_masking import masked
from parley.broker.process_tuning import tune_gc, use_batch_scheduling
from parley.cli_common import FAILED, NO_SERVICE, OK, USAGE, err, out, print_error, run_command, with_client
from parley.client import ENDED, Asking, Client, connect
from parley.display import Progress, listing, show_ending, show_status
from parley.settings import Settings, load, shown
from parley.shutdown import Interrupted, Shutdown

# The demo's simulated model takes about as long as a real one on one GPU: there is something to watch.
DEMO_MODEL = ("--latency-ms", "400", "--tokens-per-second", "25")
ALL_PARTS = "intake,dispatch,aggregate,query"
DEMO_QUESTION = "Write a function that computes the factorial of a non-negative integer."

log = logging.getLogger("parley")
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(deadletters.app, name="deadletters")


def main() -> None:
    """Run the command. Parley's own errors become one line on stderr and an exit code."""
    try:
        app()
    except (ParleyError, OSError) as error:
        for problem in error.problems if isinstance(error, SettingsError) else (str(error),):
            print_error(problem)
        usage = isinstance(error, SettingsError | InvalidMessage)
        sys.exit(USAGE if usage else NO_SERVICE if isinstance(error, Unavailable) else FAILED)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", is_eager=True, help="Print the version.")] = False,
) -> None:
    """A task queue for questions that several agents should answer.

    Exit codes: 0 it worked (a deliberation: completed), 1 it ended otherwise, 2 usage, 3 no service.
    """
    if version:
        print(distribution_version("parley-queue"))
        raise typer.Exit


# ── running it ────────────────────────────────────────────────────────────────────────────────────────────────────


@app.command()
def up() -> None:
    """The whole service on this machine, until Ctrl-C. Starts what the settings do not name: NATS, Ray, a simulated
    model."""
    settings = load()
    _log(settings)
    use_batch_scheduling()
    raise typer.Exit(run_command(_up(settings)))


async def _up(settings: Settings) -> int:
    from parley.app import service
    from parley.local_backends import embedded

    simulated = settings.vllm_url is None
    # Signals are handled before the first process starts, so that each started process is also stopped.
    shutdown = Shutdown()
    async with AsyncExitStack() as stack:
        try:
            local = embedded(settings, settings.home / "nats")
            filled = await shutdown.during(stack.enter_async_context(local))
            running = await shutdown.during(stack.enter_async_context(service(filled)))
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
            out.print(f"  metrics  {running.http_url}/metrics", highlight=False)
            out.print(f"  docs     {running.http_url}/docs", highlight=False)
            what = "SIMULATED: answers are made up; set VLLM_URL for a real one"
            what = what if simulated else masked(filled.vllm_url or "")
            out.print(f"  model    {what}", markup=False, highlight=False, soft_wrap=True)
            out.print(f"  agents   {pool.slots if pool else 0} at a time ({settings.pool})", highlight=False)
            out.print('Ask with `parley ask "…"` in another terminal. Ctrl-C stops.')
            disabled = await shutdown.wait(running)
            out.print("Stopping: no more work is taken, running calls may finish.")
    return _stopped(disabled)


@app.command()
def serve(parts: Annotated[str, typer.Option(help="Which parts, comma-separated.")] = ALL_PARTS) -> None:
    """Run parts of the service against the NATS, Ray and model servers that the settings name."""
    from parley.handlers.routes import Part

    names = [name.strip() for name in parts.split(",") if name.strip()]
    unknown = sorted(set(names) - set(Part))
    if unknown or not names:
        raise SettingsError([f"--parts: {', '.join(unknown) or 'none'} unknown; there are {', '.join(Part)}"])
    settings = load()
    _log(settings)
    use_batch_scheduling()
    raise typer.Exit(run_command(_serve(settings, frozenset(Part(name) for name in names))))


async def _serve(settings: Settings, parts: Any) -> int:
    from parley.app import service

    shutdown = Shutdown()
    async with AsyncExitStack() as stack:
        try:
            running = await shutdown.during(stack.enter_async_context(service(settings, parts)))
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


@app.command()
def demo(question: Annotated[str, typer.Argument()] = DEMO_QUESTION) -> None:
    """Start everything, ask one question of three agents, show the answers, stop."""
    settings = load(http_port=0)
    _log(settings.model_copy(update={"log_level": "WARNING"}))
    raise typer.Exit(run_command(_demo(settings, question)))


async def _demo(settings: Settings, question: str) -> int:
    from parley.app import service
    from parley.local_backends import embedded

    simulated = settings.vllm_url is None
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="parley-demo-")))
        with out.status("Starting NATS, Ray and the service on this machine…"):
            filled = await stack.enter_async_context(embedded(settings, folder, simulated=DEMO_MODEL))
            running = await stack.enter_async_context(service(filled))
            client = await stack.enter_async_context(connect(running.nats_url))
        slots = running.pool.slots if running.pool else 0
        nats = masked(running.nats_url)
        out.print(f"Up: NATS {nats}, {slots} agent slots ({settings.pool}).", markup=False)
        out.print(f"Asking three agents: {question}", style="bold", markup=False)
        ending = await _ask(client, question, live=True, agents=3, role="DEV", diversity=True)
        show_ending(out, ending, simulated=simulated)
    out.print("Everything is stopped again.")
    return OK if isinstance(ending, DeliberationCompleted) else FAILED


# ── using it ──────────────────────────────────────────────────────────────────────────────────────────────────────


# fmt: off
@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="What to deliberate on.")],
    role: Annotated[str, typer.Option(help="DEV, QA, ARCHITECT, DEVOPS, DATA, or any other.")] = "DEV",
    agents: Annotated[int, typer.Option(help="How many agents.")] = 3,
    rubric: Annotated[str | None, typer.Option(help="How answers are judged.")] = None,
    requirement: Annotated[
        list[str] | None, typer.Option(help="What must hold. May be given several times.")] = None,
    diversity: Annotated[
        bool, typer.Option("--diversity", help="A persona, a temperature and a seed for each agent.")
    ] = False,
    min_responses: Annotated[int, typer.Option(help="How many answers make it completed.")] = 1,
    finish_early: Annotated[
        bool, typer.Option("--finish-early", help="End as soon as that many have answered.")] = False,
    timeout: Annotated[float | None, typer.Option(help="Deadline in seconds, queueing included.")] = None,
    task_id: Annotated[
        str | None, typer.Option(help="Your own name for it; the same name twice is one deliberation.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Makes sampling repeatable, where the server supports it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the ending as JSON, nothing else.")] = False,
) -> None:
    """Ask a question of several agents and wait for the ending."""

    async def run(client: Client) -> int:
        asking = Asking(
            agents=agents, role=role, rubric=rubric, requirements=requirement or (), diversity=diversity,
            min_responses=min_responses, finish_early=finish_early, timeout_seconds=timeout, task_id=task_id,
            seed=seed)
        ending = await _ask(client, question, live=not as_json, **asking)
        if as_json:
            print(safe_json(ending.model_dump_json(indent=2)))
        else:
            show_ending(out, ending)
        return OK if isinstance(ending, DeliberationCompleted) else FAILED

    raise typer.Exit(with_client(run))
# fmt: on


async def _ask(client: Client, question: str, *, live: bool, **asking: Unpack[Asking]) -> Ending:
    await client.status("is-anyone-there")  # raises NoService now, rather than after a silent wait
    submitted = await client.submit(question, **asking)
    if not live:
        return await client.ending(submitted)
    progress = Progress(submitted.task_id)

    async def follow() -> None:
        async for tally in client.watch(submitted.task_id):
            progress.tally = tally

    watching = asyncio.create_task(follow())
    try:
        with Live(progress, console=out, refresh_per_second=8, transient=True):
            return await client.ending(submitted)
    except asyncio.CancelledError:
        name = submitted.task_id
        how = f"`parley result {name}` asks for it, `parley cancel {name}` stops it"
        err.print(f"{name} goes on without you: {how}", markup=False)
        raise
    finally:
        watching.cancel()
        # Whatever went wrong with the picture, the ending counts.
        with suppress(asyncio.CancelledError, Exception):
            await watching


@app.command()
def result(task_id: str, as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Status and result of a deliberation. Exit code 0 only if it is completed."""

    async def run(client: Client) -> int:
        status = await client.status(task_id)
        if as_json:
            print(safe_json(status.model_dump_json(indent=2)))
        else:
            show_status(out, status)
        return OK if status.status == "COMPLETED" else FAILED

    raise typer.Exit(with_client(run))


@app.command()
def cancel(
    task_id: str, reason: Annotated[str | None, typer.Option(help="Recorded in the ending.")] = None
) -> None:
    """Stop a deliberation."""

    async def run(client: Client) -> int:
        status = await client.status(task_id)
        if status.status == "UNKNOWN":
            print_error(f"{task_id} is unknown: never stored, or forgotten")
            return FAILED
        if status.status in ENDED:
            print_error(f"{task_id} has ended already: {status.status}")
            return FAILED
        await client.cancel(task_id, reason)
        out.print(f"asked to stop {task_id}", markup=False)
        return OK

    raise typer.Exit(with_client(run))


@app.command("ls")
def list_(
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest first.")] = 50,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """The deliberations the service remembers."""

    async def run(client: Client) -> int:
        tallies = (await client.tallies())[:limit]
        if as_json:
            print(json.dumps([tally.model_dump(mode="json") for tally in tallies], indent=2))
        else:
            out.print(listing(tallies))
        return OK

    raise typer.Exit(with_client(run))


# ── operating it ──────────────────────────────────────────────────────────────────────────────────────────────


@app.command()
def settings() -> None:
    """Every setting as a command started here sees it, secrets masked. Into a pipe: one NAME=value a line."""
    if not out.is_terminal:
        for name, value, _ in shown(load()):
            print(f"{name}={value}")
        return
    table = Table("setting", "value", "meaning")
    for row in shown(load()):
        table.add_row(*map(Text, row))  # not markup: a value may hold brackets
    out.print(table)


@app.command()
def doctor() -> None:
    """Is everything there? Each line is ok, or what to do."""
    log.setLevel(logging.CRITICAL)  # each finding is printed

    async def run() -> int:
        from parley.doctor import examine

        good = True
        async for finding in examine(load().with_local_nats()):
            good = good and finding.ok
            mark, style = ("ok", "green") if finding.ok else ("no", "red")
            mark, style = ("--", "") if finding.skipped else (mark, style)
            line = visible(f"{mark}  {finding.what}: {finding.detail}")
            out.print(line, style=style, markup=False, highlight=False, soft_wrap=True)
        return OK if good else NO_SERVICE

    raise typer.Exit(run_command(run()))


@app.command()
def provision(
    apply: Annotated[
        bool, typer.Option("--apply/--check", help="Change what loses nothing, or only say what differs.")
    ] = False,
) -> None:
    """Streams and consumers in NATS: what is missing or differs from what these settings and this version need.

    Exit codes: 0 all is as it is needed, 1 something is missing or differs, 3 it can't be changed.
    """
    from parley.provisioning import run

    settings = load().with_local_nats()
    _log(settings)
    raise typer.Exit(run_command(run(settings, apply=apply)))


# ── plumbing ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _log(settings: Settings) -> None:
    shape = "%(asctime)s %(levelname)s %(name)s %(message)s"
    logging.basicConfig(level=logging.WARNING, format=shape, stream=sys.stderr)
    log.setLevel(settings.log_level)
