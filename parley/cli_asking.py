"""`parley ask`: ask a question of a service that runs somewhere, and wait for the ending."""

import json
from typing import Annotated, Unpack

import typer

from parley.broker.core.messages import DeliberationCompleted, DeliberationFailed, Ending
from parley.cli_common import FAILED, OK, err, out, with_client
from parley.cli_waiting import follow
from parley.client import Client, Submitted
from parley.display import show_ending
from parley.errors_in_flags import errors_in_flags, in_flags
from parley.question_input import read_question
from parley.request_arguments import Asking, compose
from parley.terminal import write_json, write_line


# fmt: off
def ask(
    question: Annotated[str | None, typer.Argument(
        help="What to deliberate on, at most 256 KiB. - or nothing: standard input.", show_default=False)] = None,
    file: Annotated[str | None, typer.Option(
        metavar="FILE", help="Read the question from this file.", show_default=False)] = None,
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
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait for the ending, or print the id at once.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the ending as JSON, nothing else.")] = False,
) -> None:
    """Ask a question of several agents and wait for the ending.

    Exit codes: 0 completed, 1 ended otherwise, 2 usage, 3 no service (any more), 130 Ctrl-C, 143 SIGTERM.
    """
    asking = Asking(
        agents=agents, role=role, rubric=rubric, requirements=requirement or (), diversity=diversity,
        min_responses=min_responses, finish_early=finish_early, timeout_seconds=timeout, task_id=task_id,
        seed=seed)
    text = read_question(question, file)
    with errors_in_flags():
        compose(text, **asking)  # a wrong value is said before any connection is opened

    async def run(client: Client) -> int:
        if not wait:
            return await _print_id(client, text, asking, as_json=as_json)
        ending = await ask_and_follow(client, text, live=not as_json, **asking)
        if as_json:
            write_json(out, ending.model_dump_json(indent=2))
        else:
            show_ending(out, _in_flags(ending))
        return OK if isinstance(ending, DeliberationCompleted) else FAILED

    raise typer.Exit(with_client(run))
# fmt: on


def _in_flags(ending: Ending) -> Ending:
    """The ending, with the flags in what the service says of a request that it cannot use."""
    if not isinstance(ending, DeliberationFailed) or ending.status != "rejected":
        return ending
    problems = (in_flags(problem) for problem in ending.error.split("; "))
    return ending.model_copy(update={"error": "; ".join(problems)})


async def _print_id(client: Client, question: str, asking: Asking, *, as_json: bool) -> int:
    submitted = await _submitted(client, question, **asking)
    write_line(out, json.dumps({"task_id": submitted.task_id}) if as_json else submitted.task_id)
    if out.is_terminal and not as_json:
        err.print(f"`parley result {submitted.task_id} --wait` waits for it", markup=False, soft_wrap=True)
    return OK


async def _submitted(client: Client, question: str, **asking: Unpack[Asking]) -> Submitted:
    await client.status("is-anyone-there")  # raises NoService now, rather than after a silent wait
    return await client.submit(question, **asking)


async def ask_and_follow(
    client: Client, question: str, *, live: bool, hint: bool = True, **asking: Unpack[Asking]
) -> Ending:
    """Ask and wait for the ending. `live`: show each agent's progress meanwhile. `hint`: as for `follow`.

    Raises as `Client.deliberate` does, and Unavailable soon after the service or NATS is gone.
    """
    submitted = await _submitted(client, question, **asking)
    return await follow(client, submitted.task_id, client.ending(submitted), live=live, hint=hint)
