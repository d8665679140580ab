"""The picture of a deliberation while one waits for it: a line for each agent, and what keeps it from going on."""

import time
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.spinner import Spinner
from rich.text import Text

from parley.broker.core.choice import in_round
from parley.broker.core.phase_plan import PhaseKind
from parley.broker.core.tally import Outcome, Phase, Tally

# Agents with a line of their own while a deliberation runs.
SHOWN_AGENTS = 20
# Lines of the picture besides the agents'.
_OTHER_LINES = 4


# What the agents of a phase do, have done, and how many have; of the others, they vote.
_WORK = {
    PhaseKind.ANSWER: ("thinking", "answered", "agents have reported"),
    PhaseKind.REVISE: ("revising", "revised", "agents have revised"),
    PhaseKind.RANK: ("voting", "voted", "agents have voted"),
    PhaseKind.EDIT: ("writing", "wrote", "editors have written"),
}


class Progress:
    """A line for each agent, redrawn as the tally changes. Rich asks for the picture several times a second."""

    def __init__(self, task_id: str) -> None:
        self._task_id = task_id
        self._started = time.monotonic()
        # Made with the first picture, when the console's encoding is known.
        self._spinner: Spinner | None = None
        # The latest one; None before the service has accepted the request.
        self.tally: Tally | None = None
        # What keeps the deliberation from going on: NATS or the service is away. Empty while nothing does.
        self.trouble = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[RenderableType]:
        if self._spinner is None:
            self._spinner = Spinner("line" if options.ascii_only else "dots")
        agents = self._agent_lines(options)
        self._spinner.update(text=f" {self._task_id}: {self._state()}")
        trouble = [Text(f"   {self.trouble}", "bold yellow")] if self.trouble else []
        yield Group(self._spinner, *agents, *trouble)

    def _state(self) -> str:
        elapsed = f"{time.monotonic() - self._started:.1f} s"
        if self.tally is None:
            return f"waiting to be taken in, {elapsed}"
        phase = self.tally.phase
        who = _WORK.get(phase.kind, ("", "", "judges have voted"))[2]
        return f"{len(phase.outcomes)} of {len(phase.agents)} {who}, {elapsed}"

    def _agent_lines(self, options: ConsoleOptions) -> list[Text]:
        if self.tally is None:
            return []
        room = max(1, min(SHOWN_AGENTS, options.size.height - _OTHER_LINES))
        # Who works now comes before those who have.
        current = _phase_lines(self.tally.phase)[:room]
        earlier = [line for phase in self.tally.all_phases[:-1] for line in _phase_lines(phase)]
        lines = [*earlier[max(0, len(earlier) + len(current) - room) :], *current]
        more = len(agent_lines(self.tally)) - len(lines)
        return [*lines, Text(f"   and {more} more")] if more else lines


def agent_lines(tally: Tally) -> list[Text]:
    """Each agent and judge, and how it does."""
    return [line for phase in tally.all_phases for line in _phase_lines(phase)]


def _phase_lines(phase: Phase) -> list[Text]:
    return [_agent_line(phase, agent, phase.outcomes.get(agent)) for agent in phase.agents]


def _agent_line(phase: Phase, agent: str, outcome: Outcome | None) -> Text:
    working, done, _ = _WORK.get(phase.kind, ("voting", "voted", ""))
    if outcome is not None and outcome.kept is not None:
        done = "kept an answer"
    if outcome is None:
        mark = (working, "dim") if phase.closed_at is None else ("not waited for", "dim")
    else:
        mark = (done, "green") if outcome.succeeded else ("failed", "red")
    name = in_round(agent, phase.number) if phase.kind is PhaseKind.REVISE else agent
    return Text.assemble(f"   {name}  ", mark)
