"""How a deliberation's ending, its status and the list of all are shown: on a terminal, and as plain words in a pipe."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from unicodedata import east_asian_width

from rich.console import Console
from rich.text import Text

from parley.broker.core.choice import EDITOR
from parley.broker.core.finish_reasons import is_filtered, is_too_long
from parley.broker.core.messages import (
    AgentResult,
    CastBallot,
    DeliberationCompleted,
    DeliberationRequested,
    DeliberationStatus,
    Ending,
)
from parley.broker.core.phase_plan import LEAST_SECONDS
from parley.broker.core.printable import harmless, on_one_line, visible
from parley.broker.core.states_and_moves import STATUS_WORDS, State
from parley.broker.core.tally import Tally
from parley.broker.core.timestamps import format_timestamp
from parley.choice_in_words import choice_line, no_choice_line, revision_lines, synthesis_line
from parley.errors_in_flags import in_flags
from parley.live_picture import agent_lines
from parley.local_model_choice import LocalModel
from parley.request_plan import PlannedPhase, phases_of
from parley.styled_answer import folded, styled
from parley.terminal import write_line

# What to know of the answers of a model that was served here, and what to use in its place.
_MODEL_NOTICES = {
    LocalModel.SIMULATED: ("These answers are simulated: no model has read your question.", "a real one"),
    LocalModel.TINY: (
        "A real model wrote these answers and judged them, and a very small one: do not trust its words.",
        "a larger one",
    ),
}
# Characters of a question in a list.
QUESTION_WORDS = 60
# Characters of the question above its result.
SHOWN_QUESTION = 2_000


def show_ending(
    console: Console, ending: Ending, *, model: LocalModel | None = None, all_answers: bool = False
) -> None:
    """Print each agent's answer or failure, then one line of summary. Where one was chosen, it comes first, and the
    others are only named, unless `all_answers`. `model`: the one that was served here, whose answers need a word."""
    shown = _show_chosen(console, ending)
    others = [result for result in ending.results if result.agent_id != shown]
    if shown is None or all_answers:
        for result in others:
            _show_answer(console, result)
    elif others:
        _print(console, Text(f"Other answers: {_named(others)}. --all shows them.", "dim"))
    _show_absent(console, ending)
    _say_nothing_was_chosen(console, ending)
    _say_left_out(console, ending)
    if ending.results_ref is not None and not ending.results:
        where = f"{ending.results_ref.bucket}/{ending.results_ref.name}"
        _print(console, Text(f"Results are in the object store {harmless(where)}"))
    _print(console, summary(ending))
    if model is not None:
        _show_model_notice(console, model)


def _show_chosen(console: Console, ending: Ending) -> str | None:
    """Show the answer that was chosen, if its words are here; returns whose they are."""
    if not isinstance(ending, DeliberationCompleted):
        return None
    written = ending.synthesis
    if written is not None and ending.answer_from == "synthesis" and written.content is not None:
        facts = f"{written.model}, {written.tokens} tokens, written from {len(written.sources)} answers"
        _show_words(console, EDITOR, harmless(facts), written.content)
        console.print()
        _print(console, Text(synthesis_line(ending), "bold"))
        _print(console, Text(f"The winner it was preferred to: {choice_line(ending)}", "dim"))
        return EDITOR
    winner = ending.winner
    if winner is None:
        return None
    _show_answer(console, winner)
    _print(console, Text(choice_line(ending), "bold"))
    if line := synthesis_line(ending):
        _print(console, Text(line, "dim"))
    return winner.agent_id


def _say_nothing_was_chosen(console: Console, ending: Ending) -> None:
    why = no_choice_line(ending)
    if why:
        _print(console, Text(why, "bold yellow"))


def _named(results: Sequence[AgentResult]) -> str:
    return harmless(", ".join(result.agent_id for result in results))


def _show_absent(console: Console, ending: Ending) -> None:
    """Who has not answered, and why."""
    for failed in ending.failed_agents:
        why = f" failed ({failed.error_type.value}): {on_one_line(failed.error)}"
        _print(console, Text.assemble((harmless(failed.agent_id), "bold"), why, style="red"))
        for call in failed.tool_calls:
            _print(console, Text(f"  {harmless(call.name)}({on_one_line(call.arguments)})"))
    for ballot in _lost_ballots(ending):
        _print(console, Text(f"{harmless(ballot.judge)}: no ballot: {on_one_line(ballot.why)}", "yellow"))
    for line in revision_lines(ending):
        _print(console, Text(line, "yellow"))
    unread = _unread(ending)
    if unread:
        _print(console, Text(f"No final answer could be read: {_named(unread)}", "yellow"))
    if ending.missing_agents:
        _print(console, Text(f"Not heard from: {harmless(', '.join(ending.missing_agents))}", "yellow"))
    if isinstance(ending, DeliberationCompleted) and ending.stopped_agents:
        _print(console, Text(f"Stopped, as asked: {harmless(', '.join(ending.stopped_agents))}", "dim"))


def _unread(ending: Ending) -> list[AgentResult]:
    """Answers that are no votes."""
    if not isinstance(ending, DeliberationCompleted) or ending.selection is None:
        return []
    is_vote = ending.selection.method == "vote"
    return [result for result in ending.results if is_vote and result.final_answer is None]


def _lost_ballots(ending: Ending) -> list[CastBallot]:
    selection = ending.selection if isinstance(ending, DeliberationCompleted) else None
    cast = (*selection.heats, *selection.ballots) if selection is not None else ()
    return [ballot for ballot in cast if ballot.ranking is None]


def _print(console: Console, text: Text) -> None:
    # The terminal breaks the line, a pipe gets it whole.
    console.print(text, soft_wrap=True)


def _say_left_out(console: Console, message: Ending | DeliberationStatus) -> None:
    if not message.left_out:
        return
    _print(console, Text(f"Left out for want of room: {harmless(', '.join(message.left_out))}", "yellow"))
    if "results" in message.left_out:
        _print(console, Text("The answers are in the stream AGENT_RESPONSES.", "yellow"))


def summary(ending: Ending) -> Text:
    seconds = ending.duration_ms / 1000
    heard = f"{ending.successful_responses} of {ending.total_agents} agents answered in {seconds:.1f} s"
    word = STATUS_WORDS[State(ending.status)]
    if isinstance(ending, DeliberationCompleted):
        state = (f"{word}, degraded", "bold yellow") if ending.degraded else (word, "bold green")
        return Text.assemble(f"{ending.task_id} ", state, f": {heard}")
    why = on_one_line(ending.error)
    if ending.status in (State.CANCELLED, State.REJECTED) and not why.startswith(ending.status):
        why = f"{ending.status}: {why}"
    if ending.status != "rejected":  # nobody was asked
        why = f"{why} ({heard})"
    return Text.assemble(f"{ending.task_id} ", (word, "bold red"), f": {why}")


def _show_model_notice(console: Console, model: LocalModel) -> None:
    notice, wanted = _MODEL_NOTICES[model]
    _print(console, Text(notice, "yellow"))
    remedy = (
        f"Point Parley at {wanted} with VLLM_URL=http://host:8000 make demo (any OpenAI-compatible server)."
    )
    _print(console, Text(remedy))


def _show_answer(console: Console, result: AgentResult) -> None:
    proposal = result.proposal
    facts = f"{proposal.model}, {proposal.tokens} tokens, {result.duration_ms / 1000:.1f} s"
    if proposal.temperature is not None:
        facts += f", temperature {proposal.temperature:g}"
    agent = harmless(result.agent_id)
    _show_words(console, agent, harmless(facts), proposal.content)
    for note in _notes(result):
        _print(console, Text(f"{agent}: {note}", "bold yellow"))
    console.print()


def _show_words(console: Console, agent: str, facts: str, words: str) -> None:
    if console.is_terminal:
        # Reversed: no answer can look like the title of another one.
        _print(console, Text.assemble((f" {agent} ", "bold reverse"), (f" {facts}", "dim")))
        _print(console, folded(styled(words), console.width, console))
    else:
        write_line(console, f"{agent} ({facts}):")
        write_line(console, harmless(words))


def _notes(result: AgentResult) -> list[str]:
    """What a reader has to know of an answer besides its words."""
    notes, why = [], ""
    if is_too_long(result.finish_reason):
        why = "it reached the most tokens that an answer or the context may have"
    elif is_filtered(result.finish_reason):
        why = "the model server's filter left out the rest"
    if why:
        notes.append(f"the answer is cut off: {why} (finish_reason: {harmless(result.finish_reason)})")
    if result.refused:
        notes.append("the model refused to answer")
    if result.suspect:
        notes.append("the answer turns to its judges")
    if result.reasoning:
        notes.append(f"its reasoning, {len(result.reasoning):,} characters, is shown by --json")
    return notes


def show_result(
    console: Console,
    status: DeliberationStatus,
    ending: Ending | None = None,
    tally: Tally | None = None,
    question: str | None = None,
) -> None:
    """Print the question, each answer and failure, the chosen answer first, and one line of summary.

    `ending`: of one that has ended; otherwise `tally` tells how each agent does. None: not to be had.
    """
    if question is not None:
        _show_question(console, question)
    shown = _show_chosen(console, ending) if ending is not None else None
    for result in status.results:
        if result.agent_id != shown:
            _show_answer(console, result)
    if ending is not None:
        _show_absent(console, ending)
        _say_nothing_was_chosen(console, ending)
    elif tally is not None:
        for line in agent_lines(tally):
            _print(console, line)
    _say_left_out(console, status)
    if ending is not None:
        _print(console, summary(ending))
        return
    heard = f"{status.received_count} answered, {status.failed_count} failed, of {status.total_agents}"
    said = [heard] if status.total_agents else []
    said += [on_one_line(status.error_message)] if status.error_message else []
    words = f"{harmless(status.task_id)} {status.status}"
    _print(console, Text(f"{words}: {'. '.join(said)}" if said else words))


def _show_question(console: Console, question: str) -> None:
    shown = harmless(question)
    more = len(shown) - SHOWN_QUESTION
    _print(console, Text("Question: ", "bold").append(Text(shown[:SHOWN_QUESTION], "not bold")))
    if more > 0:
        _print(console, Text(f"and {more:,} more characters, which --json shows", "dim"))
    console.print()


def first_words(question: str | None) -> str:
    """The beginning of a question, on one line; empty where it is not known."""
    words = on_one_line(question or "")
    return words if len(words) <= QUESTION_WORDS else f"{words[: QUESTION_WORDS - 3]}..."


def show_list(
    console: Console, tallies: Sequence[Tally], statuses: Mapping[str, str], questions: Mapping[str, str]
) -> None:
    """One line each: a table on a terminal; in a pipe whole words, a tab between the columns.

    By `task_id`: `statuses` of all, `questions` as far as they are known.
    """
    names = ("task", "status", "role", "answered", "failed", "agents", "asked at", "question")
    rows = [_row(tally, statuses[tally.task_id], questions.get(tally.task_id)) for tally in tallies]
    if not console.is_terminal:
        for row in (names, *rows):
            write_line(console, "\t".join(row))
        return
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)][:-1]
    room = max(QUESTION_WORDS // 3, console.width - sum(widths) - 2 * len(widths))
    for place, row in enumerate((names, *rows)):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        _print(console, Text("  ".join([*cells, _cut(row[-1], room)]), "bold" if place == 0 else ""))


def _cut(words: str, columns: int) -> str:
    """The words as far as they fit. Letters of East Asia take two columns."""
    used = list(accumulate(2 if east_asian_width(letter) in "WF" else 1 for letter in words))
    return words if not used or used[-1] <= columns else words[: bisect_right(used, columns)]


def _row(tally: Tally, status: str, question: str | None) -> tuple[str, ...]:
    answered, agents = tally.answers.successes, len(tally.answers.agents)
    counts = map(str, (answered, len(tally.answers.outcomes) - answered, agents))
    asked_at = format_timestamp(tally.accepted_at)
    return (tally.task_id, status, visible(tally.role), *counts, asked_at, first_words(question))


def show_plan(console: Console, request: DeliberationRequested) -> None:
    """What a request would do: its phases, what each asks, and its share of the time."""
    phases = phases_of(request)
    for phase in phases:
        _print(console, Text(f"{phase.phase}: {_planned(phase)}"))
    limit = request.asked_timeout_seconds
    within = f", within {limit:g} s" if limit is not None else ""
    later = "; what a phase leaves of its time the next ones have" if len(phases) > 1 else ""
    _print(console, Text(f"{_calls(sum(phase.calls for phase in phases))} in all{within}{later}"))


def _planned(phase: PlannedPhase) -> str:
    if phase.left_out:
        return f"left out: {in_flags(phase.left_out)}"
    if phase.share is None:
        return f"{_calls(phase.calls)}, if {LEAST_SECONDS:g} s are left once the answers are in"
    return f"{_calls(phase.calls)}, {phase.share:.0%} of the time"


def _calls(number: int) -> str:
    return "1 call" if number == 1 else f"{number} calls"
