"""`parley ask`: ask a question of a service that runs somewhere, and wait for the ending."""

import json
from dataclasses import asdict
from typing import Annotated, Unpack

import typer

from parley.broker.core.errors import SettingsError
from parley.broker.core.messages import DeliberationCompleted, DeliberationFailed, Ending
from parley.choice_in_words import no_choice_line
from parley.cli_common import FAILED, OK, err, out, with_client
from parley.cli_waiting import follow
from parley.client import Client
from parley.display import show_ending, show_plan, summary
from parley.errors_in_flags import errors_in_flags, in_flags
from parley.job import Job
from parley.question_input import read_messages, read_panel, read_question, read_schema
from parley.request_arguments import Asking, compose, read_key
from parley.request_plan import phases_of
from parley.terminal import write_json, write_line, write_words


# fmt: off
def ask(
    question: Annotated[str | None, typer.Argument(
        help="What to deliberate on, at most 256 KiB. - or nothing: standard input.", show_default=False)] = None,
    file: Annotated[str | None, typer.Option(
        metavar="FILE", help="Read the question from this file.", show_default=False)] = None,
    messages: Annotated[str | None, typer.Option(
        metavar="FILE", help="A conversation instead of a question: JSON, as in OpenAI's chat API.",
        show_default=False)] = None,
    role: Annotated[
        str, typer.Option(help="DEV, QA, ARCHITECT, DEVOPS, DATA, NONE (the question as it is), or any other.")
    ] = "DEV",
    system: Annotated[str | None, typer.Option(help="Your own system message, instead of the role's.")] = None,
    agents: Annotated[
        int | None, typer.Option(help="How many agents. Default 3, or one for each of several --model.", show_default=False)
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Model to ask. Several times: the agents take them in turn.")] = None,
    panel: Annotated[str | None, typer.Option(
        metavar="FILE", help="Who is asked: a JSON list of members, each with a model, system, persona, … of its own.",
        show_default=False)] = None,
    rubric: Annotated[str | None, typer.Option(help="How answers are judged.")] = None,
    requirement: Annotated[
        list[str] | None, typer.Option(help="What must hold. May be given several times.")] = None,
    diversity: Annotated[
        bool, typer.Option("--diversity", help="A persona, a temperature and a seed for each agent.")
    ] = False,
    rounds: Annotated[int, typer.Option(
        help="How often the agents answer, 1 to 5: in each further round they revise, having read others' answers.")] = 1,
    min_responses: Annotated[int, typer.Option(help="How many answers make it completed.")] = 1,
    finish_early: Annotated[
        bool, typer.Option("--finish-early", help="End as soon as that many have answered.")] = False,
    timeout: Annotated[float | None, typer.Option(help="Deadline in seconds, queueing included.")] = None,
    task_id: Annotated[
        str | None, typer.Option(help="Your own name for it; the same name twice is one deliberation.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Makes sampling repeatable, where the server supports it.")] = None,
    schema: Annotated[str | None, typer.Option(
        metavar="FILE", help="Answers are JSON by the JSON Schema in this file.", show_default=False)] = None,
    select: Annotated[
        str, typer.Option(help="How a winner is chosen: none, judge, rank or vote.")] = "none",
    synthesize: Annotated[bool, typer.Option(
        "--synthesize", help="Have an answer written from the best; judges must prefer it to the winner's.")] = False,
    judges: Annotated[int, typer.Option(help="How many judges, 1 to 5, with --select judge or --synthesize.")] = 3,
    judge_model: Annotated[
        list[str] | None, typer.Option(help="Model of the judges. Several times: they take them in turn.")] = None,
    answer_key: Annotated[str | None, typer.Option(
        metavar="KEY", help="With --select vote: number, line, after:WORDS or json:/POINTER.",
        show_default=False)] = None,
    agree: Annotated[
        int | None, typer.Option(help="With --select vote: end once so many answers are the same.")] = None,
    max_calls: Annotated[int | None, typer.Option(help="Agents and judges to ask at most.")] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print phases, calls and shares of the time; ask nothing.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Show the other answers, too.")] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="Print the chosen answer's words and nothing else.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait for the ending, or print the id at once.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the ending as JSON, nothing else.")] = False,
) -> None:
    """Ask a question of several agents and wait for the ending.

    Exit codes: 0 completed, 1 ended otherwise, 2 usage, 3 no service (any more), 129 SIGHUP, 130 Ctrl-C, 143 SIGTERM.
    """
    _check_output(select, plan=plan, every=every, raw=raw, wait=wait, as_json=as_json)
    with errors_in_flags():
        key = read_key(answer_key) if answer_key is not None else None
    form = read_schema(schema) if schema is not None else None
    members = read_panel(panel) if panel is not None else None
    asking = Asking(
        agents=agents, role=role, system=system, rubric=rubric, requirements=requirement or (), diversity=diversity,
        rounds=rounds, min_responses=min_responses, finish_early=finish_early, timeout_seconds=timeout, task_id=task_id,
        seed=seed, select=select, judges=judges, judge_models=judge_model, agree=agree, max_calls=max_calls,
        answer_key=key, response_format=form, panel=members, synthesize=synthesize)
    if model and len(model) > 1:
        asking["models"] = model
    elif model:
        asking["model"] = model[0]
    text = None
    if messages is None:
        text = read_question(question, file)
    elif question is None and file is None:
        asking["messages"] = read_messages(messages)
    else:
        raise SettingsError(["--messages and a question: only one of them"])
    with errors_in_flags():
        request = compose(text, **asking)  # a wrong value is said before any connection is opened
    if plan:
        if as_json:
            write_json(out, json.dumps({"phases": [asdict(phase) for phase in phases_of(request)]}, indent=2))
        else:
            show_plan(out, request)
        raise typer.Exit(OK)

    async def run(client: Client) -> int:
        if not wait:
            return await _print_id(client, text, asking, as_json=as_json)
        ending = await ask_and_follow(client, text, live=not as_json, **asking)
        if as_json:
            write_json(out, ending.model_dump_json(indent=2))
        elif raw:
            return _print_words(ending)
        else:
            show_ending(out, _in_flags(ending), all_answers=every)
        return OK if isinstance(ending, DeliberationCompleted) else FAILED

    raise typer.Exit(with_client(run))
# fmt: on


def _check_output(select: str, *, plan: bool, every: bool, raw: bool, wait: bool, as_json: bool) -> None:
    """What is printed, and when, has to fit together. Raises SettingsError."""
    if raw and select == "none":
        raise SettingsError(
            ["--raw: prints the answer that was chosen; it needs --select judge, rank or vote"]
        )
    given = [("--raw", raw), ("--json", as_json), ("--all", every)]
    forms = [flag for flag, is_given in given if is_given]
    if len(forms) > 1:
        raise SettingsError([f"{' and '.join(forms)}: only one of them"])
    shows_answers = [flag for flag in forms if flag != "--json"]
    if shows_answers and (plan or not wait):
        other = "--plan" if plan else "--no-wait"
        raise SettingsError(
            [f"{shows_answers[0]} and {other}: only one of them; {other} waits for no answer"]
        )


def _in_flags(ending: Ending) -> Ending:
    """The ending, with the flags in what the service says of a request that it cannot use."""
    if not isinstance(ending, DeliberationFailed) or ending.status != "rejected":
        return ending
    problems = (in_flags(problem) for problem in ending.error.split("; "))
    return ending.model_copy(update={"error": "; ".join(problems)})


def _print_words(ending: Ending) -> int:
    """The chosen answer alone; without one, why, on standard error."""
    if ending.answer is None:
        why = no_choice_line(ending)
        if why:
            err.print(why, markup=False, highlight=False, soft_wrap=True)
        err.print(summary(_in_flags(ending)), soft_wrap=True)
        return FAILED
    write_words(out, ending.answer)
    return OK


async def _print_id(client: Client, question: str | None, asking: Asking, *, as_json: bool) -> int:
    submitted = await _submitted(client, question, **asking)
    write_line(out, json.dumps({"task_id": submitted.task_id}) if as_json else submitted.task_id)
    if out.is_terminal and not as_json:
        err.print(f"`parley result {submitted.task_id} --wait` waits for it", markup=False, soft_wrap=True)
    return OK


async def _submitted(client: Client, question: str | None, **asking: Unpack[Asking]) -> Job:
    await client.status("is-anyone-there")  # raises NoService now, rather than after a silent wait
    return await client.submit(question, **asking)


async def ask_and_follow(
    client: Client, question: str | None, *, live: bool, hint: bool = True, **asking: Unpack[Asking]
) -> Ending:
    """Ask and wait for the ending. `live`: show each agent's progress meanwhile. `hint`: as for `follow`.

    Raises as `Client.deliberate` does, and Unavailable soon after the service or NATS is gone.
    """
    submitted = await _submitted(client, question, **asking)
    return await follow(client, submitted.task_id, client.ending(submitted), live=live, hint=hint)
