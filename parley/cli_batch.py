"""`parley batch`: a file of questions in, a file of endings out."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from parley.broker.asyncio_helpers import cancel_all
from parley.broker.core.errors import SettingsError
from parley.broker.core.messages import Ending
from parley.cli_common import FAILED, OK, err, print_error, with_client
from parley.client import Client
from parley.client_errors import NoEnding
from parley.question_lines import QuestionLine, ending_line, read_done, read_questions_file


# fmt: off
def batch(
    file: Annotated[Path, typer.Argument(metavar="FILE.jsonl", show_default=False,
        help="A question a line: a text in JSON, or an object of the arguments of Client.deliberate.")],
    endings: Annotated[Path | None, typer.Option(metavar="FILE", show_default=False,
        help="Where the endings go, a line each as they come. Default: FILE.endings.jsonl.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many run at a time.")] = 100,
    agents: Annotated[int | None, typer.Option(show_default=False, help="Of questions that do not say it.")] = None,
    select: Annotated[str | None, typer.Option(show_default=False, help="Of questions that do not say it.")] = None,
    timeout: Annotated[float | None, typer.Option(show_default=False, help="Of questions that do not say it.")] = None,
) -> None:
    # fmt: on
    """Ask every question of a file. Started again, it goes on with what has no ending yet.

    Exit codes: 0 all completed, 1 some ended otherwise, 2 a line that cannot be asked, 3 no service.
    """
    common = {"agents": agents, "select": select, "timeout_seconds": timeout}
    questions = read_questions_file(file, {name: value for name, value in common.items() if value is not None})
    to = endings or file.with_name(f"{file.name.removesuffix('.jsonl')}.endings.jsonl")
    if to.resolve() == file.resolve():
        raise SettingsError([f"--endings: {to} has the questions"])
    done = read_done(to)
    left = [question for question in questions if question.arguments["task_id"] not in done]
    raise typer.Exit(with_client(lambda client: _run(client, questions, left, to, limit)))


async def _run(
    client: Client, questions: Sequence[QuestionLine], left: Sequence[QuestionLine], to: Path, limit: int
) -> int:
    failed, silent = 0, 0
    with _opened(to) as file, _progress(len(questions), len(questions) - len(left)) as advance:
        async for question, ending in _endings(client, left, limit):
            if ending is None:
                silent += 1
                continue
            file.write(ending_line(question, ending.model_dump(mode="json")))
            file.flush()
            failed += ending.status != "completed"
            advance()
    if failed:
        print_error(f"{failed} of {len(left)} did not complete; {to} says why")
    if silent:
        print_error(f"{silent} of {len(left)} had no ending in time; the same command goes on with them")
    return FAILED if failed or silent else OK


async def _endings(
    client: Client, questions: Sequence[QuestionLine], limit: int
) -> AsyncIterator[tuple[QuestionLine, Ending | None]]:
    """As they come, with so many running at a time; None for one that did not come in time."""
    waiting = iter(questions)
    running: dict[asyncio.Task[Ending | None], QuestionLine] = {}
    try:
        while True:
            while len(running) < limit and (question := next(waiting, None)) is not None:
                running[asyncio.create_task(_ask(client, question))] = question
            if not running:
                return
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                yield running.pop(task), task.result()
    finally:
        await cancel_all(running)


async def _ask(client: Client, question: QuestionLine) -> Ending | None:
    # Any: checked when the file was read.
    arguments: Any = question.arguments
    try:
        return await client.deliberate(**arguments)
    except NoEnding:
        return None


@contextmanager
def _opened(to: Path) -> Iterator[IO[str]]:
    """To be added to. What a batch that died has left of a line is ended, so that the next line is one."""
    try:
        with to.open("a+", encoding="utf-8") as file:
            if file.tell() and _last_byte(to) != b"\n":
                file.write("\n")
            yield file
    except OSError as error:
        raise SettingsError([f"{to}: {error.strerror}"]) from None


def _last_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1)


@contextmanager
def _progress(total: int, done: int) -> Iterator[Any]:
    """A bar on a terminal, a line at the end elsewhere. Any: what is called for each ending."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, disable=not err.is_terminal) as bar:
        task = bar.add_task("asking", total=total, completed=done)
        count = done

        def advance() -> None:
            nonlocal count
            count += 1
            bar.advance(task)

        yield advance
    if not err.is_terminal:
        err.print(f"{count} of {total} have an ending", markup=False, highlight=False)
