"""`parley result`, `cancel` and `ls`: look at deliberations of a service that runs somewhere, and stop them."""

import asyncio
import json
import math
import time
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any

import typer

from parley.broker.core.errors import SettingsError, Unavailable
from parley.broker.core.messages import DeliberationStatus, Ending
from parley.broker.core.states_and_moves import ENDED_STATUSES
from parley.broker.core.tally import Tally
from parley.cli_common import (
    FAILED,
    NO_SERVICE,
    OK,
    RUNNING,
    UNKNOWN,
    age_seconds,
    out,
    print_error,
    with_client,
)
from parley.cli_waiting import follow
from parley.client import Client
from parley.client_errors import never_stored
from parley.display import show_list, show_result
from parley.errors_in_flags import errors_in_flags
from parley.statuses import STATUSES, ending_of_tally, has_status, may_become, read_statuses
from parley.terminal import write_json

# Between two looks at a deliberation that is waited for: doubled from the first to the last.
FIRST_LOOK_SECONDS, LAST_LOOK_SECONDS = 0.1, 1.0
# What `--json` adds of the ending.
_OF_ENDING = {
    "failed_agents", "missing_agents", "stopped_agents", "degraded", "selection", "dissent", "degraded_reasons",
    "phases", "cost",
}  # fmt: skip


def result(
    task_id: str,
    wait: Annotated[
        float | None,
        typer.Option(metavar="[SECONDS]", help="Wait for the ending: so long, or as long as it takes."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")] = False,
) -> None:
    """Status and result of a deliberation: its question, each answer, who failed and why.

    Exit codes: 0 completed, 1 ended otherwise, 3 no service, 4 not ended yet, 5 unknown: never stored, or forgotten.
    """
    if wait is not None and not wait >= 0:
        raise SettingsError(["--wait: seconds, 0 or more"])

    async def run(client: Client) -> int:
        status = await client.status(task_id)
        if wait is not None and status.status not in (*ENDED_STATUSES, "UNKNOWN"):
            status = await _wait(client, task_id, wait, live=not as_json)
        found = await _all_about(client, status)
        if as_json:
            write_json(out, json.dumps(_as_json(status, *found), indent=2, ensure_ascii=False))
        else:
            show_result(out, status, *found)
        return _exit_code(status)

    raise typer.Exit(with_client(run))


async def _wait(client: Client, task_id: str, seconds: float, *, live: bool) -> DeliberationStatus:
    """The status once it has ended, or after so many seconds. Raises Unavailable soon after the service is gone."""

    async def ended() -> DeliberationStatus:
        pause = FIRST_LOOK_SECONDS
        while True:
            with suppress(Unavailable):  # `follow` looks at that
                status = await client.status(task_id)
                if status.status in ENDED_STATUSES:
                    return status
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST_LOOK_SECONDS)

    try:
        async with asyncio.timeout(None if math.isinf(seconds) else seconds):
            return await follow(client, task_id, ended(), live=live, hint=False)
    except TimeoutError:
        return await client.status(task_id)


async def _all_about(
    client: Client, status: DeliberationStatus
) -> tuple[Ending | None, Tally | None, str | None]:
    """The ending of an ended one, its tally, and its question; each None if it is not to be had."""
    if status.status == "UNKNOWN":
        return None, None, None
    ending, tally, question = None, None, None
    with suppress(Unavailable):  # no right to read there, or gone this moment
        ending = await client.find(status.task_id) if status.status in ENDED_STATUSES else None
    with suppress(Unavailable):
        tally = await client.tally(status.task_id)
    if tally is not None:
        question = (await client.questions([tally])).get(status.task_id)
    return ending, tally, question


def _as_json(
    status: DeliberationStatus, ending: Ending | None, tally: Tally | None, question: str | None
) -> dict[str, Any]:
    known = ending.model_dump(mode="json", include=_OF_ENDING) if ending else {}
    word: str | None = None
    if ending is not None:
        word = ending.status
    elif tally is not None and status.status in ENDED_STATUSES:
        word = ending_of_tally(tally)  # no right to read the ending
    return {**status.model_dump(mode="json"), **known, "ending": word, "question": question}


def _exit_code(status: DeliberationStatus) -> int:
    if status.status == "COMPLETED":
        return OK
    if status.status in ENDED_STATUSES:
        return FAILED
    if status.status != "UNKNOWN":
        return RUNNING
    return UNKNOWN if never_stored(status) else NO_SERVICE


def cancel(
    task_id: str, reason: Annotated[str | None, typer.Option(help="Recorded in the ending.")] = None
) -> None:
    """Stop a deliberation.

    Exit codes: 0 asked to stop, 1 it has ended already or is unknown, 3 no service.
    """

    async def run(client: Client) -> int:
        status = await client.status(task_id)
        if status.status == "UNKNOWN":
            print_error(f"{task_id} is unknown: never stored, or forgotten")
            return FAILED
        if status.status in ENDED_STATUSES:
            print_error(f"{task_id} has ended already: {status.status}")
            return FAILED
        with errors_in_flags():
            await client.cancel(task_id, reason)
        out.print(f"asked to stop {task_id}", markup=False, highlight=False)
        return OK

    raise typer.Exit(with_client(run))


def list_(
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest first.")] = 50,
    status: Annotated[
        str | None, typer.Option(metavar="STATUS", help=f"Only of this status: {', '.join(STATUSES)}.")
    ] = None,
    role: Annotated[str | None, typer.Option(help="Only of this role.")] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="AGE", help="Only those asked since: 30m, 12h, 7d, or 2026-01-31T12:00Z."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")] = False,
) -> None:
    """The deliberations the service remembers, with the first words of each question.

    Into a pipe: one line each, with a tab between the columns.
    """
    wanted = None if status is None else status.upper().replace("-", "_")
    if wanted is not None and wanted not in STATUSES:
        raise SettingsError([f"--status: {status} is none; there are {', '.join(STATUSES)}"])
    earliest = -math.inf if since is None else _instant(since)

    def may_be_wanted(tally: Tally) -> bool:
        return (
            (wanted is None or may_become(tally, wanted))
            and (role is None or tally.role == role.upper())
            and tally.accepted_at >= earliest
        )

    async def run(client: Client) -> int:
        candidates = [tally for tally in await client.tallies() if may_be_wanted(tally)]
        statuses = await read_statuses(client, candidates[:limit] if wanted is None else candidates)
        tallies = [
            tally
            for tally in candidates
            if wanted is None or has_status(tally, statuses[tally.task_id], wanted)
        ][:limit]
        questions = await client.questions(tallies)
        if as_json:
            rows = [_row(tally, statuses[tally.task_id], questions.get(tally.task_id)) for tally in tallies]
            write_json(out, json.dumps(rows, indent=2, ensure_ascii=False))
        else:
            show_list(out, tallies, statuses, questions)
        return OK

    raise typer.Exit(with_client(run))


def _row(tally: Tally, status: str, question: str | None) -> dict[str, Any]:
    words = {
        "status": status,
        "ending": ending_of_tally(tally) if status in ENDED_STATUSES else None,
        "question": question,
        "question_digest": tally.question,  # a tally's own `question`
    }
    return {**tally.model_dump(mode="json"), **words}


def _instant(since: str) -> float:
    """Seconds since the epoch, of an age or an ISO 8601 instant (without an offset: local time)."""
    if since[:4].isdigit() and "-" in since:
        with suppress(ValueError, OverflowError):
            return datetime.fromisoformat(since).timestamp()
    return time.time() - age_seconds("--since", since, ", or an instant: 2026-01-31T12:00Z")
