"""What happens to a deliberation, and what follows from it: the events that `react` (reactions.py) takes, and the effects
that it answers with. Values only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from parley.broker.core.messages import ErrorType
from parley.broker.core.phase_plan import PhaseKind, Select, Step
from parley.broker.core.states_and_moves import Cause

# ── events ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Requested:
    """A valid request, stored at `seq` in REQUESTS at the instant `at`. `num_agents` is at least 1.

    `question`: the digest of what it asks (`question_digest`); None: not known.
    """

    task_id: str
    seq: int
    at: float
    deadline: float
    role: str
    num_agents: int
    min_responses: int = 1
    finish_early: bool = False
    rounds: int = 1
    metadata: Mapping[str, str] = field(default_factory=dict)
    reply_to: str | None = None
    traceparent: str | None = None
    question: str | None = None
    select: Select = Select.NONE
    plan: tuple[Step, ...] = ()
    agree: int | None = None
    max_calls: int | None = None
    synthesize: bool = False

    @property
    def is_plain(self) -> bool:
        """As `Tally.is_plain`."""
        return self.select is Select.NONE and not self.plan


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that cannot be run. `cause` REFUSED: it is invalid. ABANDONED: every attempt to handle it failed."""

    task_id: str
    seq: int
    at: float
    error: str
    cause: Literal[Cause.REFUSED, Cause.ABANDONED] = Cause.REFUSED
    reply_to: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Reported:
    """An agent's outcome, stored at `seq` in AGENT_RESPONSES. `error_type` None: it succeeded. `said`: as in
    `Outcome`."""

    agent_id: str
    round: int
    seq: int
    error_type: ErrorType | None = None
    phase: PhaseKind = PhaseKind.ANSWER
    said: str | None = None


@dataclass(frozen=True, slots=True)
class DeadlineReached:
    """The deadline's timer fired, which is also the alarm of each phase. Timers may fire early or be forged, so `react`
    compares `now` with the limit."""


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """A cancel, stored at `seq` in REQUESTS at the instant `at`. None: not known."""

    reason: str | None = None
    seq: int | None = None
    at: float | None = None


@dataclass(frozen=True, slots=True)
class EndingPublished:
    """The ending is stored at `seq` in DELIBERATIONS."""

    seq: int


Event = Requested | Refused | Reported | DeadlineReached | CancelRequested | EndingPublished


# ── effects ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class ArmDeadline:
    """Have the server send the deadline at `at`."""

    at: float


@dataclass(frozen=True, slots=True)
class RequestAgents:
    """Publish one `agent.requested` for each of these agents of this round and phase."""

    round: int
    agents: tuple[str, ...]
    phase: PhaseKind = PhaseKind.ANSWER


@dataclass(frozen=True, slots=True)
class PublishEnding:
    """Compose the ending, publish it, and mark it."""


@dataclass(frozen=True, slots=True)
class StopAgents:
    """Tell the workers that the outcomes still missing are not needed any more: of one phase, or, without `phase`, of
    the deliberation."""

    reason: str
    round: int | None = None
    phase: PhaseKind | None = None


@dataclass(frozen=True, slots=True)
class SendEnding:
    """Send the ending, stored at `seq` in DELIBERATIONS, to the inbox of another asker."""

    seq: int
    reply_to: str


Effect = ArmDeadline | RequestAgents | PublishEnding | StopAgents | SendEnding
