"""`parley deadletters`: look at the messages that no consumer could use, put them back, or remove them.

Payloads hold prompts: only `show --payload` prints them. Control characters of a sender's text are escaped.
"""

import base64
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.text import Text

from parley.broker.core.errors import SettingsError
from parley.broker.core.printable import on_one_line, visible
from parley.broker.core.timestamps import format_timestamp
from parley.broker.jetstream.deadletters import REPLAYABLE, CannotReplay, DeadLetterInfo
from parley.broker.jetstream.topology import DEAD_LETTERS, RESULTS_BUCKET
from parley.cli_common import FAILED, OK, age_seconds, out, print_error, with_client
from parley.cli_common_options import ShellCommand, ShellGroup
from parley.client import Client
from parley.terminal import write_line

# JetStream counts in 64 bits. Python and typer take any integer, so larger ones are refused here.
MAX_SEQUENCE = 2**63 - 1

app = typer.Typer(
    cls=ShellGroup, no_args_is_help=True, help="The messages nobody could use: list, show, replay, purge."
)

# fmt: off
Sequences = Annotated[list[int] | None, typer.Argument(
    metavar="SEQ", min=1, max=MAX_SEQUENCE, help="Which, as `list` numbers them.")]
Everything = Annotated[bool, typer.Option("--all", help="All of them, or all that --subject leaves.")]
Subject = Annotated[str | None, typer.Option(
    metavar="FILTER", help="Only of this original subject: deliberation.requested, agent.>, …")]
Payload = Annotated[bool, typer.Option("--payload", help="Its payload too. That may be somebody's prompt.")]
Age = Annotated[str | None, typer.Option(
    metavar="AGE", help="Only those put aside longer ago: 7d, 12h, 30m.")]
# fmt: on
Json = Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")]


@app.command("list", cls=ShellCommand)
def list_(
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    subject: Subject = None,
    as_json: Json = False,
) -> None:
    """The newest first: number, when it was put aside, original subject, size of the payload; and why, below."""

    async def run(client: Client) -> int:
        found = await client.deadletters.newest(limit + 1, subject=subject)
        letters, more = found[:limit], len(found) > limit
        if as_json:
            write_line(out, json.dumps([_facts(letter) for letter in letters], indent=2))
            return OK
        for letter in letters:
            size = "size unknown" if letter.size is None else f"{letter.size:,} bytes"
            second = f"{format_timestamp(letter.buried_at)[:19]}Z"
            line = f"{letter.seq:>6}  {second}  {visible(letter.subject)}  {size}"
            out.print(Text(line, "bold"), no_wrap=True, overflow="ellipsis")
            why = Text(f"        {_one_line(letter.reason) or '(no reason given)'}")
            out.print(why, no_wrap=True, overflow="ellipsis")
        if not letters:
            out.print("no dead letters" if subject is None else "no dead letters of this subject")
        if more:
            out.print(f"There are older ones: --limit shows more than {limit}.")
        return OK

    raise typer.Exit(with_client(run))


@app.command(cls=ShellCommand)
def show(
    seq: Annotated[int, typer.Argument(min=1, max=MAX_SEQUENCE)],
    payload: Payload = False,
    as_json: Json = False,
) -> None:
    """Everything about one. Not its payload, unless asked for."""

    async def run(client: Client) -> int:
        letter = await client.deadletters.find(seq)
        if letter is None:
            print_error(_missing(seq))
            return FAILED
        body = await client.deadletters.payload(letter) if payload else None
        if as_json:
            facts = {**_facts(letter), **(_encoded(body) if payload else {})}
            write_line(out, json.dumps(facts, indent=2))
        else:
            for name, value in _lines(letter):
                out.print(Text.assemble((f"{name:<12} ", "bold"), visible(value)), soft_wrap=True)
        if payload and body is None:
            print_error(f"{seq}: its payload is no longer kept")
            return FAILED
        if body is not None and not as_json:
            write_line(out, f"\n{readable(body)}")
        return OK

    raise typer.Exit(with_client(run))


@app.command(cls=ShellCommand)
def replay(
    seqs: Sequences = None,
    everything: Everything = False,
    subject: Subject = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the dead letter where it is.")] = False,
) -> None:
    """Put messages back on the subjects they came from; then remove them here.

    The service takes a replayed message for a new one. Nothing is mended: what
    could not be used comes back here, unless the service was changed.

    A request without a task_id gets a new name, d-N by its new place N. One
    whose task_id has had its ending gets no second one while that is remembered.
    An agent's work or outcome for a deliberation that has ended is dropped.
    The client that asked is not told any more: see `parley result`.

    Doing it again within the hour (agents' messages: two minutes) stores
    nothing, and says so.
    """
    _which(seqs, everything, {"--subject": subject})

    async def run(client: Client) -> int:
        letters = client.deadletters
        # Listed once, before the first replay: what is dead-lettered again meanwhile is not replayed again.
        wanted = seqs or await letters.sequences(subject=subject)
        good = True
        for seq in wanted:
            letter = await letters.find(seq)
            if letter is None:
                print_error(_missing(seq))
                good = False
                continue
            try:
                placed = await letters.replay(letter, keep=keep)
            except CannotReplay as error:
                print_error(str(error))
                good = False
                continue
            where = f"message {placed.seq} of {REPLAYABLE[letter.subject]}"
            done = f"{seq}: back on {letter.subject}, as {where}"
            if placed.duplicate:
                done = f"{seq}: had been replayed before, as {where}; nothing was stored"
            out.print(done, highlight=False, soft_wrap=True)
        if not wanted:
            out.print("no dead letters to replay")
        return OK if good else FAILED

    raise typer.Exit(with_client(run))


@app.command(cls=ShellCommand)
def purge(
    seqs: Sequences = None,
    everything: Everything = False,
    subject: Subject = None,
    older_than: Age = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove dead letters for good, payloads too. Asks first."""
    _which(seqs, everything, {"--subject": subject, "--older-than": older_than})
    age = age_seconds("--older-than", older_than) if older_than is not None else None
    if not yes and not sys.stdin.isatty():
        why = "purge asks before it deletes, and there is no terminal to ask on"
        raise SettingsError([f"{why}; say --yes to delete without asking"])

    # The question is asked while no connection is open, since the answer may take long.
    async def selected(client: Client) -> Sequence[int]:
        before = await client.deadletters.ago(age) if age is not None else None
        return seqs or await client.deadletters.sequences(subject=subject, before=before)

    wanted = with_client(selected)
    if not wanted:
        out.print("no dead letters to purge")
        return
    many = f"{len(wanted)} dead letters" if len(wanted) > 1 else f"dead letter {wanted[0]}"
    if not yes and not typer.confirm(f"Delete {many} for good?"):
        print_error("nothing was deleted")
        raise typer.Exit(FAILED)

    async def run(client: Client) -> int:
        letters = client.deadletters
        if not seqs:
            await letters.purge(wanted[-1], subject=subject)
            out.print(f"deleted {many}")
            return OK
        good = True
        for seq in wanted:
            letter = await letters.find(seq)
            if letter is not None and await letters.erase(letter):
                out.print(f"deleted dead letter {seq}")
            else:
                print_error(_missing(seq))
                good = False
        return OK if good else FAILED

    raise typer.Exit(with_client(run))


# ── the command line ──────────────────────────────────────────────────────────────────────────────────────────────


def _which(seqs: Sequence[int] | None, everything: bool, filters: dict[str, str | None]) -> None:
    """Refuse a command line that does not say which dead letters it means."""
    if bool(seqs) == everything:
        raise SettingsError(["say which: one or more SEQ, or --all; `parley deadletters list` shows them"])
    given = [name for name, value in filters.items() if value is not None]
    if given and not everything:
        raise SettingsError([f"{given[0]} goes with --all, not with SEQ"])


# ── what is shown ─────────────────────────────────────────────────────────────────────────────────────────────────


def _missing(seq: int) -> str:
    return f"{seq}: not in {DEAD_LETTERS} (any more); `parley deadletters list` shows what is"


def _facts(letter: DeadLetterInfo) -> dict[str, Any]:
    return {**asdict(letter), "buried_at": format_timestamp(letter.buried_at)}


def _encoded(body: bytes | None) -> dict[str, str | None]:
    if body is None:
        return {"payload": None}
    try:
        return {"payload": body.decode()}
    except UnicodeDecodeError:
        return {"payload": None, "payload_base64": base64.b64encode(body).decode()}


def _lines(letter: DeadLetterInfo) -> list[tuple[str, str]]:
    came = f"message {letter.sequence or '?'} of {letter.stream or '?'}, stored {letter.stored_at or '?'}"
    deliveries = "delivery" if letter.deliveries == 1 else "deliveries"
    gave_up = f"{letter.consumer or '?'}, after {letter.deliveries or '?'} {deliveries}"
    size = "of unknown size" if letter.size is None else f"{letter.size:,} bytes"
    where = f", in the object store {RESULTS_BUCKET}/{letter.put_aside}" if letter.put_aside else ""
    return [
        ("dead letter", f"{letter.seq} of {DEAD_LETTERS}, since {format_timestamp(letter.buried_at)}"),
        ("subject", letter.subject),
        ("reason", _one_line(letter.reason) or "(none given)"),
        ("came from", came),
        ("given up by", gave_up),
        *(("header", f"{key}: {_one_line(value)}") for key, value in letter.headers.items()),
        *(("not replayed", f"{key}: {_one_line(value)}") for key, value in letter.control_headers.items()),
        ("payload", f"{size}{where}"),
    ]


def readable(body: bytes) -> str:
    """A payload for a terminal: JSON indented, anything else unchanged; what cannot be printed safely as escapes."""
    try:
        parsed = json.loads(body, object_pairs_hook=_plain)
        return visible(json.dumps(parsed, indent=2, ensure_ascii=False))
    except (ValueError, RecursionError):  # not JSON, or JSON that would not be shown unchanged
        return visible(body)


def _plain(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a name occurs twice: indented, one of them would not be seen")
    return found


def _one_line(text: str) -> str:
    return on_one_line(text)
