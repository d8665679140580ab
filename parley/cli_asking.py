"""`parley ask`, `result`, `cancel` and `ls`: use a service that runs somewhere."""

import asyncio
import json
from contextlib import suppress
from typing import Annotated, Unpack

import typer
from rich.live import Live

from parley.broker.core.messages import DeliberationCompleted, Ending
from parley.broker.core.printable import safe_json
from parley.cli_common import FAILED, OK, err, out, print_error, with_client
from parley.client import ENDED, Asking, Client
from parley.display import Progress, listing, show_ending, show_status


# fmt: off
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
        ending = await ask_and_follow(client, question, live=not as_json, **asking)
        if as_json:
            print(safe_json(ending.model_dump_json(indent=2)))
        else:
            show_ending(out, ending)
        return OK if isinstance(ending, DeliberationCompleted) else FAILED

    raise typer.Exit(with_client(run))
# fmt: on


async def ask_and_follow(client: Client, question: str, *, live: bool, **asking: Unpack[Asking]) -> Ending:
    """Ask and wait for the ending. `live`: show each agent's progress meanwhile. Raises as `Client.deliberate` does."""
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
