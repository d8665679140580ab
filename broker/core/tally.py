"""The tally of one deliberation, as the KV bucket `deliberations` holds it. `react` (reactions.py) changes it.

A tally counts outcomes and does not hold them. It keeps each one's sequence in the stream AGENT_RESPONSES, so that a
tally of 256 agents stays at a few KiB. Ballots are in it, as letters: the winner is decided from the tally alone.

A deliberation has phases: its agents answer, then judges may rank the answers. It ends when the last one is closed.
Clients read tallies, so field names stay.
"""

from collections import Counter
from collections.abc import Mapping
from enum import StrEnum

from pydantic import BaseModel, Field

from parley.broker.core.frozen_models import changed
from parley.broker.core.messages import KEPT
from parley.broker.core.phase_plan import PhaseKind, Select, Step
from parley.broker.core.states_and_moves import ENDINGS, State


class Outcome(BaseModel, frozen=True):
    """One agent has reported. `seq`: where its outcome is in AGENT_RESPONSES.

    `said`: what a choice needs of it, at most 16 characters: of an answer a digest, the same for the same answers; of a
    ballot its labels, the best first ("CAB"); of who keeps an answer it was shown, that one's label ("keep:B").
    """

    succeeded: bool
    seq: int
    said: str | None = None

    @property
    def kept(self) -> str | None:
        """The label of the answer that is kept, where one is."""
        said = self.said or ""
        return said.removeprefix(KEPT) if said.startswith(KEPT) else None


class ClosedBy(StrEnum):
    """Why a phase was closed: all have reported, enough have answered (`finish_early`), enough answered the same
    (`agree`), its limit or the deadline came, or the deliberation was cancelled."""

    ALL = "all"
    ENOUGH = "enough"
    AGREE = "agree"
    LIMIT = "limit"
    DEADLINE = "deadline"
    CANCEL = "cancel"


class Phase(BaseModel, frozen=True):
    """Its agents, in order, and the outcomes counted so far, by agent. `number`: the round.

    Of a deliberation that chooses also: `opened_at`; `limit`, when it closes with what it has, if another phase or a
    choice follows; `closed_at`, `closed_by`. `opened_by`: the sequence of the outcome that closed the phase before;
    None: the limit did.
    """

    number: int
    agents: tuple[str, ...]
    outcomes: Mapping[str, Outcome] = Field(default_factory=dict)
    kind: PhaseKind = PhaseKind.ANSWER
    opened_at: float | None = None
    limit: float | None = None
    opened_by: int | None = None
    closed_at: float | None = None
    closed_by: ClosedBy | None = None

    def counting(self, agent: str, outcome: Outcome) -> "Phase":
        """With one more outcome."""
        return changed(self, outcomes={**self.outcomes, agent: outcome})

    @property
    def successes(self) -> int:
        return sum(outcome.succeeded for outcome in self.outcomes.values())

    @property
    def most_alike(self) -> int:
        """How many of the answers are the same, at most. 0 where none is known."""
        said = Counter(
            outcome.said for outcome in self.outcomes.values() if outcome.said and outcome.succeeded
        )
        return max(said.values(), default=0)

    @property
    def missing(self) -> tuple[str, ...]:
        """The agents that have not reported."""
        return tuple(agent for agent in self.agents if agent not in self.outcomes)


class Decision(BaseModel, frozen=True):
    """How the deliberation ended, and when that was decided: not before it was asked for. `error` is empty if it
    completed.

    `by`: the sequence of the outcome (in AGENT_RESPONSES) or the cancel (in REQUESTS) that decided it; else None.
    """

    error: str = ""
    decided_at: float
    by: int | None = None


class ChoiceStatus(StrEnum):
    """What a choice rests on. DECIDED: most of the ballots that were asked for, or more answers alike than of any other.
    INDICATED: fewer ballots. TIED: nothing that was said tells the best ones apart. ONLY_ONE: one candidate.
    NO_BALLOTS: nobody compared the candidates, and nobody wins."""

    DECIDED = "decided"
    INDICATED = "indicated"
    TIED = "tied"
    ONLY_ONE = "only_one"
    NO_BALLOTS = "no_ballots"


class Choice(BaseModel, frozen=True):
    """Which answer was chosen, by `agent_id`. Decided once, by the write that ends the deliberation.

    `scores`: by candidate, as "7/12"; None for one that was never compared. `margin`: how far the winner is before the
    next, in the same parts. `tied`: those with the highest score, where there are several. `tie_break`: the rule that
    named the winner among them.
    """

    status: ChoiceStatus
    winner: str | None = None
    runner_up: str | None = None
    scores: Mapping[str, str | None] = Field(default_factory=dict)
    margin: str | None = None
    tied: tuple[str, ...] = ()
    tie_break: str | None = None


class SynthesisStatus(StrEnum):
    """What became of the answer that was to be written from the best. ACCEPTED: most of the judges asked prefer it to
    the winner. REFUSED: they do not, a tie included. NOT_CONFIRMED: no ballot. NOT_WRITTEN: the editor was asked, and wrote
    none. LEFT_OUT: nobody was asked."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    NOT_CONFIRMED = "not_confirmed"
    NOT_WRITTEN = "not_written"
    LEFT_OUT = "left_out"


class SynthesisDecision(BaseModel, frozen=True):
    """Decided with the ending. `seq`: where the text is in AGENT_RESPONSES. `support`: ballots that prefer it, "2/3"."""

    status: SynthesisStatus
    seq: int | None = None
    support: str | None = None


class Tally(BaseModel, frozen=True):
    """The value under the key `task_id`. Instants are seconds since the epoch, on the NATS server's clock.

    `verdict`: the decision, None while the deliberation runs. `ending_seq`: where the ending is in DELIBERATIONS; it
    is set once the ending is stored, and so marks it as published. `more_reply_to`: inboxes of those who asked the same
    later. `question`: the digest of what was asked; None in tallies of version 0.1.0, and of an invalid request.

    `phases`: the phase in which the agents answer; empty if the request was refused. `later_phases`: what was opened
    after it. Version 0.2.0 does not know them: it counts no judge among the agents, and ends with the answers.

    `plan`: the phases that it is to have, empty where one is all. `rounds`: how often its agents answer. `agree`: so many answers alike end the first phase.
    `max_calls`: no phase is opened that would ask more agents in all. `choice`: set where it ends completed, if
    `select` is not NONE; before an editor is asked, where one is to write (`synthesize`). `synthesis`: what became of
    that.
    """

    task_id: str
    state: State
    request_seq: int
    role: str = ""
    min_responses: int = 1
    finish_early: bool = False
    rounds: int = 1
    accepted_at: float
    deadline: float
    phases: tuple[Phase, ...] = ()
    verdict: Decision | None = None
    ending_seq: int | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
    reply_to: str | None = None
    traceparent: str | None = None
    more_reply_to: tuple[str, ...] = ()
    question: str | None = None
    select: Select = Select.NONE
    plan: tuple[Step, ...] = ()
    agree: int | None = None
    max_calls: int | None = None
    choice: Choice | None = None
    synthesize: bool = False
    synthesis: SynthesisDecision | None = None
    later_phases: tuple[Phase, ...] = ()

    @property
    def inboxes(self) -> tuple[str, ...]:
        """Where the ending is to be sent."""
        return self.more_reply_to if self.reply_to is None else (self.reply_to, *self.more_reply_to)

    @property
    def phase(self) -> Phase:
        """The current phase. A deliberation that was refused has an empty phase 0."""
        if self.later_phases:
            return self.later_phases[-1]
        return self.phases[-1] if self.phases else Phase(number=0, agents=())

    @property
    def all_phases(self) -> tuple[Phase, ...]:
        """In the order in which they were opened."""
        return (*self.phases, *self.later_phases) if self.later_phases else self.phases

    @property
    def answers(self) -> Phase:
        """The phase in which the agents answered. It decides which ending there is."""
        return self.phases[0] if self.phases else self.phase

    @property
    def limit(self) -> float:
        """When the current phase closes with what it has: at the deadline, if nothing follows."""
        return self.deadline if self.phase.limit is None else self.phase.limit

    @property
    def limit_has_moved(self) -> bool:
        """Too little was there at the current phase's limit: it closes with the outcome that makes it enough."""
        return self.phase.limit is not None and self.phase.limit >= self.deadline

    @property
    def steps_left(self) -> tuple[Step, ...]:
        """What the plan has after the current phase."""
        return self.plan[len(self.all_phases) :]

    @property
    def is_plain(self) -> bool:
        """Its agents answer once, and nothing is chosen."""
        return self.select is Select.NONE and not self.plan

    def latest(self, kind: PhaseKind) -> Phase | None:
        """The phase of this kind that was opened last, if there is one."""
        return next((phase for phase in reversed(self.all_phases) if phase.kind is kind), None)

    @property
    def ended(self) -> bool:
        return self.state in ENDINGS

    @property
    def ending_unpublished(self) -> bool:
        """Ended, but not marked as published."""
        return self.ended and self.ending_seq is None

    @property
    def stopped(self) -> tuple[str, ...]:
        """The agents that were not waited for because the caller asked for that: `finish_early`, `agree`."""
        return self.not_waited_for if self.state is State.COMPLETED else ()

    @property
    def not_waited_for(self) -> tuple[str, ...]:
        """The agents without which the answers were closed as the caller asked."""
        if self.is_plain:
            return self.answers.missing if self.finish_early else ()
        return self.answers.missing if self.answers.closed_by in (ClosedBy.ENOUGH, ClosedBy.AGREE) else ()

    @property
    def missing(self) -> tuple[str, ...]:
        """The agents that have not answered and were waited for."""
        return () if self.stopped else self.answers.missing

    @property
    def outcomes_needed(self) -> int:
        """How many more outcomes could close the current phase, if all of them succeed. At least 1."""
        phase = self.phase
        needed = len(phase.agents) - len(phase.outcomes)
        if self.limit_has_moved:
            return 1
        if phase.kind is PhaseKind.ANSWER:
            if self.finish_early:
                needed = min(needed, self.min_responses - phase.successes)
            if self.agree is not None:
                needed = min(needed, self.agree - phase.most_alike)
        return max(1, needed)
