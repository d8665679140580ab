"""`parley watch`: a live table of what runs, and of what has just ended."""

import asyncio
from typing import Annotated, NoReturn

import typer
from rich.live import Live
from rich.table import Table
from rich.text import Text

from parley.broker.core.errors import SettingsError, Unavailable
from parley.broker.core.printable import harmless
from parley.broker.core.states_and_moves import ENDED_STATUSES
from parley.broker.core.tally import Tally
from parley.cli_common import out, with_client
from parley.client import Client
from parley.statuses import read_statuses

LOOK_SECONDS = 1.0
# Lines besides those of deliberations.
_OTHER_LINES = 4


def watch(
    limit: Annotated[int, typer.Option(min=1, max=200, help="At most so many, the newest first.")] = 20,
) -> None:
    """A live table of deliberations, until Ctrl-C. `parley ls` is for pipes."""
    if not out.is_terminal:
        raise SettingsError(["watch: needs a terminal; `parley ls` prints a list"])
    with_client(lambda client: _watch(client, limit))


async def _watch(client: Client, limit: int) -> NoReturn:
    with Live(console=out, auto_refresh=False, screen=True) as live:
        while True:
            try:
                live.update(await _table(client, min(limit, max(1, out.height - _OTHER_LINES))), refresh=True)
            except Unavailable as error:
                live.update(Text(str(error), "bold yellow"), refresh=True)
            await asyncio.sleep(LOOK_SECONDS)


async def _table(client: Client, limit: int) -> Table:
    tallies = await client.tallies()
    running = sum(tally.ending_seq is None for tally in tallies)
    shown = sorted(tallies, key=lambda tally: (tally.ending_seq is not None, -tally.accepted_at))[:limit]
    statuses = await read_statuses(client, shown)
    table = Table(title=f"{running} running, {len(tallies)} remembered", expand=True, title_justify="left")
    for name in ("id", "status", "phase", "heard", "role", "select"):
        table.add_column(name, no_wrap=True)
    for tally in shown:
        table.add_row(*_row(tally, statuses[tally.task_id]))
    return table


def _row(tally: Tally, status: str) -> tuple[Text, ...]:
    phase = tally.phase if tally.phases else None
    style = "" if status not in ENDED_STATUSES else "green" if status == "COMPLETED" else "red"
    heard = f"{len(phase.outcomes)} of {len(phase.agents)}" if phase is not None else ""
    rest = (phase.kind.value if phase else "", heard, tally.role, tally.select.value)
    return (Text(harmless(tally.task_id)), Text(status, style), *map(Text, rest))
