"""How a terminal shows a deliberation: its progress, its ending, its status."""

import time
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.markdown import Markdown
from rich.panel import Panel
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from parley.broker.core.messages import AgentResult, DeliberationCompleted, DeliberationStatus, Ending
from parley.broker.core.printable import harmless
from parley.broker.core.tally import Outcome, Tally
from parley.broker.core.timestamps import format_timestamp

# Agents with a line of their own while a deliberation runs.
SHOWN_AGENTS = 20


class Progress:
    """A line for each agent, redrawn as the tally changes. Rich asks for the picture several times a second."""

    def __init__(self, task_id: str) -> None:
        self._task_id = task_id
        self._started = time.monotonic()
        self._spinner = Spinner("dots")
        # The latest one; None before the service has accepted the request.
        self.tally: Tally | None = None

    def __rich__(self) -> RenderableType:
        elapsed = f"{time.monotonic() - self._started:.1f} s"
        if self.tally is None:
            self._spinner.update(text=f" {self._task_id}: waiting to be taken in, {elapsed}")
            return self._spinner
        phase = self.tally.phase
        reported = f"{len(phase.outcomes)} of {len(phase.agents)} agents have reported"
        self._spinner.update(text=f" {self._task_id}: {reported}, {elapsed}")
        agents = phase.agents[:SHOWN_AGENTS]
        lines = [Text.assemble(f"   {agent}  ", _mark(phase.outcomes.get(agent))) for agent in agents]
        if len(phase.agents) > SHOWN_AGENTS:
            lines.append(Text(f"   and {len(phase.agents) - SHOWN_AGENTS} more"))
        return Group(self._spinner, *lines)


def _mark(outcome: Outcome | None) -> tuple[str, str]:
    """A word and its style."""
    if outcome is None:
        return "thinking", "dim"
    return ("answered", "green") if outcome.succeeded else ("failed", "red")


def show_ending(console: Console, ending: Ending, *, simulated: bool = False) -> None:
    """Print each agent's answer or failure, then one line of summary."""
    for result in ending.results:
        console.print(_answer(result))
    for failed in ending.failed_agents:
        why = f" failed ({failed.error_type.value}): {harmless(failed.error)}"
        console.print(Text.assemble((failed.agent_id, "bold"), why), style="red")
    if ending.missing_agents:
        console.print(Text(f"Not heard from: {', '.join(ending.missing_agents)}"), style="yellow")
    if isinstance(ending, DeliberationCompleted) and ending.stopped_agents:
        console.print(Text(f"Stopped, as asked: {', '.join(ending.stopped_agents)}"), style="dim")
    _say_left_out(console, ending)
    if ending.results_ref is not None and not ending.results:
        where = f"{ending.results_ref.bucket}/{ending.results_ref.name}"
        console.print(Text(f"Results are in the object store {where}"))
    console.print(summary(ending))
    if simulated:
        console.print(simulation_notice())


def _say_left_out(console: Console, message: Ending | DeliberationStatus) -> None:
    if not message.left_out:
        return
    console.print(Text(f"Left out for want of room: {harmless(', '.join(message.left_out))}"), style="yellow")
    if "results" in message.left_out:
        console.print(Text("The answers are in the stream AGENT_RESPONSES."), style="yellow")


def summary(ending: Ending) -> Text:
    seconds = ending.duration_ms / 1000
    heard = f"{ending.successful_responses} of {ending.total_agents} agents answered in {seconds:.1f} s"
    if isinstance(ending, DeliberationCompleted):
        word = ("completed, degraded", "bold yellow") if ending.degraded else ("completed", "bold green")
        return Text.assemble(f"{ending.task_id} ", word, f": {heard}")
    why = f": {harmless(ending.error)} ({heard})"
    return Text.assemble(f"{ending.task_id} ", (ending.status, "bold red"), why)


def simulation_notice() -> Panel:
    return Panel(
        "These answers are simulated: no model has read your question.\n"
        "Point Parley at a real one with  [bold]VLLM_URL=http://host:8000 make demo[/bold]  "
        "(any OpenAI-compatible server).",
        border_style="yellow",
        expand=False,
    )


def _answer(result: AgentResult) -> Panel:
    proposal = result.proposal
    facts = f"{proposal.model}, {proposal.tokens} tokens, {result.duration_ms / 1000:.1f} s"
    if proposal.temperature is not None:
        facts += f", temperature {proposal.temperature:g}"
    # Markdown, not Rich's markup: a model's text must not be read as our own formatting.
    answer, title, subtitle = (
        Markdown(harmless(proposal.content)),
        Text(result.agent_id),
        Text(harmless(facts)),
    )
    return Panel(answer, title=title, title_align="left", subtitle=subtitle, subtitle_align="right")


def show_status(console: Console, status: DeliberationStatus) -> None:
    for result in status.results:
        console.print(_answer(result))
    _say_left_out(console, status)
    heard = f"{status.received_count} answered, {status.failed_count} failed, of {status.total_agents}"
    words = f"{status.task_id} {status.status}{f': {heard}' if status.total_agents else ''}"
    console.print(Text(f"{words}. {harmless(status.error_message)}" if status.error_message else words))


def listing(tallies: Sequence[Tally]) -> Table:
    table = Table("task", "state", "role", "answered", "failed", "agents", "asked at")
    for tally in tallies:
        answered, agents = tally.phase.successes, len(tally.phase.agents)
        counts = map(str, (answered, len(tally.phase.outcomes) - answered, agents))
        asked_at = format_timestamp(tally.accepted_at)
        table.add_row(tally.task_id, tally.state.value, tally.role, *counts, asked_at)
    return table
