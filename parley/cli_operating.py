"""`parley settings`, `doctor` and `provision`: look at an installation, and prepare NATS for it."""

import json
import logging
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Column, Table
from rich.text import Text

from parley.broker.core.printable import on_one_line, visible
from parley.cli_common import NO_SERVICE, OK, out, run_command, start_logging
from parley.env_file import load_for_service
from parley.settings import shown
from parley.terminal import write_json, write_line

log = logging.getLogger("parley")


def settings() -> None:
    """Every setting as a command started here sees it, secrets masked. Into a pipe: one NAME=value a line."""
    if not out.is_terminal:
        for name, value, _ in shown(load_for_service()):
            write_line(out, f"{name}={value}")
        return
    # Folded: what is too long for its column would be cut off.
    table = Table(*(Column(name, overflow="fold") for name in ("setting", "value", "meaning")))
    for row in shown(load_for_service()):
        table.add_row(*(Text(visible(cell)) for cell in row))  # not markup: a value may hold brackets
    out.print(table)


def doctor(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the findings as JSON, nothing else.")
    ] = False,
) -> None:
    """Does the service run, and is everything there that it needs? Each line is ok, or what to do.

    Exit codes: 0 all is well, 3 something is not.
    """
    log.setLevel(logging.CRITICAL)  # each finding is printed

    async def run() -> int:
        from parley.doctor import examine

        findings = []
        async for finding in examine(load_for_service().with_local_nats()):
            findings.append(finding)
            if as_json:
                continue
            mark, style = ("ok", "green") if finding.ok else ("no", "red")
            mark, style = ("--", "") if finding.skipped else (mark, style)
            line = f"{mark}  {on_one_line(f'{finding.what}: {finding.detail}')}"
            out.print(line, style=style, markup=False, highlight=False, soft_wrap=True)
        if as_json:
            write_json(out, json.dumps([asdict(finding) for finding in findings], indent=2))
        return OK if all(finding.ok for finding in findings) else NO_SERVICE

    raise typer.Exit(run_command(run()))


def provision(
    apply: Annotated[
        bool, typer.Option("--apply/--check", help="Change what loses nothing, or only say what differs.")
    ] = False,
) -> None:
    """Streams and consumers in NATS: what is missing or differs from what these settings and this version need.

    Exit codes: 0 all is as it is needed, 1 something is missing or differs, 3 it can't be changed.
    """
    from parley.cli_provision import run

    settings = load_for_service().with_local_nats()
    start_logging(settings)
    raise typer.Exit(run_command(run(settings, apply=apply)))
