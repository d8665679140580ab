"""One agent's work, the broadcast that stops it, and how it went."""

from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from parley.broker.core.judging_orders import MAX_JUDGES, MAX_SHOWN
from parley.broker.core.messages.answer_key import AnswerKey
from parley.broker.core.messages.base import (
    KIB,
    MAX_AGENTS,
    MAX_OUTCOME_BYTES,
    MAX_ROUNDS,
    MAX_SMALL_BYTES,
    MAX_WORK_BYTES,
    AgentId,
    Figure,
    Instant,
    Message,
    Metadata,
    ModelName,
    Role,
    TaskId,
)
from parley.broker.core.messages.conversation import Conversation
from parley.broker.core.messages.requests import Constraints, Sampling, no_constraints
from parley.broker.core.phase_plan import PhaseKind, Select


def agent_id(role: str, number: int) -> str:
    """`agent-dev-001`. Numbers count from 1."""
    return f"agent-{role.lower()}-{number:03d}"


class Candidate(Message):
    """An answer that a judge compares with others, or that one writes from."""

    label: Annotated[str, StringConstraints(pattern=r"^[A-H]$")] = Field(
        description="Its place in the order in which it is shown: `A` is first."
    )
    seq: Annotated[int, Field(ge=1)] = Field(
        description="Where the answer is in the stream `AGENT_RESPONSES`."
    )


class AgentRequested(Sampling):
    """`agent.requested`: one agent's work. A field that has its default is absent."""

    max_body_bytes: ClassVar[int | None] = MAX_WORK_BYTES

    task_id: TaskId = Field(description="The deliberation.")
    agent_id: AgentId = Field(description="`agent-<role in lower case>-<number, three digits>`.")
    agent_number: Annotated[int, Field(ge=1, le=MAX_AGENTS)] = Field(
        description="Number of this agent, from 1."
    )
    round: Annotated[int, Field(ge=1, le=MAX_ROUNDS)] = Field(
        1, description="Round of the deliberation, from 1."
    )
    phase: PhaseKind = Field(
        PhaseKind.ANSWER,
        description="`answer`: answer the question. `revise`: write a better answer than the `candidates`, or keep one of "
        "them. `heat`, `judge`, `rank`, `confirm`: rank them. `edit`: write an answer from them.",
    )
    candidates: Annotated[tuple[Candidate, ...], Field(max_length=MAX_SHOWN, fail_fast=True)] = Field(
        (),
        description="The answers to rank, to revise or to write from, in the order in which they are shown.",
    )
    role: Role = Field(description="Role of the agent.")
    num_agents: Annotated[int, Field(ge=1, le=MAX_AGENTS)] = Field(description="Agents of the deliberation.")
    request_seq: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="Where the request is in the stream `REQUESTS`, if it is too large to be copied for each agent: "
        "what the request has is left out here.",
    )
    task_description: str | None = Field(None, description="The question; null with `messages`.")
    messages: Conversation | None = Field(
        None, description="The request's own: the question as a conversation."
    )
    system: str | None = Field(
        None, description="The request's own: the system message instead of the role's."
    )
    constraints: Constraints = Field(
        default_factory=no_constraints, description="What the answer must respect."
    )
    select: Select = Field(Select.NONE, description="The request's own: how a winner is chosen.")
    rounds: Annotated[int, Field(ge=1, le=MAX_ROUNDS)] = Field(
        1, description="The request's own: how often its agents answer."
    )
    answer_key: AnswerKey | None = Field(None, description="The request's own.")
    judge_model: ModelName | None = Field(
        None, description="The request's own: before an agent is asked, a server is looked for that has it."
    )
    judge_models: Annotated[tuple[ModelName, ...], Field(max_length=MAX_JUDGES, fail_fast=True)] | None = (
        Field(None, description="The request's own.")
    )
    # Without the look at its schema, which intake has had: 256 jobs would repeat it. Any: every JSON value.
    response_format: dict[str, Any] | None = Field(
        None, description="The request's own: the form of the answer."
    )
    persona: str | None = Field(None, description="Who this agent is among the others, by its `panel`.")
    diversity: bool = Field(
        False, description="This agent has a persona, a seed and a temperature of its own."
    )
    requested_at: Instant = Field(description="When the request was stored, RFC 3339.")
    deadline: Instant = Field(
        description="When the deliberation's time is up, RFC 3339. No call outlives it. A phase's calls are stopped "
        "(`agent.cancel`) when it closes."
    )
    metadata: Metadata = Field(default_factory=dict, description="The request's own.")

    @property
    def is_compared(self) -> bool:
        """Whether others are shown what the agents of this deliberation answer."""
        return self.select is not Select.NONE or self.rounds > 1

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if self.request_seq is None and self.task_description is None and self.messages is None:
            raise ValueError("task_description, messages or request_seq is required")
        return self

    def encode(self) -> bytes:
        """Without what is as it would be: half the bytes, which are stored, read twice and handed to an actor. Where the
        question is left out, a dispatcher of version 0.1.0 refuses the work, and asks no model an empty one."""
        return self.__pydantic_serializer__.to_json(self, exclude_defaults=True)


class AgentRunning(Message):
    """`agent.running`, a question over core NATS: who runs a call of this deliberation answers, with nothing."""

    max_body_bytes: ClassVar[int | None] = MAX_SMALL_BYTES

    task_id: TaskId = Field(description="The deliberation.")


class AgentCancel(Message):
    """`agent.cancel`, broadcast over core NATS: workers drop this deliberation's calls now."""

    max_body_bytes: ClassVar[int | None] = MAX_SMALL_BYTES

    task_id: TaskId = Field(description="The deliberation.")
    reason: str = Field("", description="Why its calls are not wanted any more.")
    round: int | None = Field(
        None,
        description="With `phase`: only the calls of this phase of this round. Null: all of the deliberation.",
    )
    phase: PhaseKind | None = Field(None, description="As `round`.")


class Proposal(Message):
    """One agent's answer."""

    content: str = Field(description="The answer's text, as the model gave it.")
    author_id: str = Field(description="The agent's `agent_id`.")
    author_role: str = Field(description="The agent's role.")
    model: str = Field(description="Model that answered, as its server names it.")
    temperature: float | None = Field(description="Temperature that was asked for.")
    tokens: Figure = Field(
        description="Generated tokens, as the model server counts them; 0 where it does not."
    )


def sum_of_known(*counts: int | None) -> int | None:
    """None where none is known: that is not 0."""
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


class Usage(Message):
    """Tokens of one call, as the model server counts them; 0 where it does not."""

    prompt_tokens: Figure = Field(0, description="Tokens of the prompt.")
    completion_tokens: Figure = Field(0, description="Generated tokens.")
    total_tokens: Figure = Field(0, description="Both together.")
    cached_tokens: Figure | None = Field(
        None,
        description="Tokens of the prompt that came from the server's prefix cache; null: it does not tell.",
    )

    def plus(self, other: "Usage") -> "Usage":
        """Those of two calls together."""
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            total_tokens=self.total_tokens + other.total_tokens,
            cached_tokens=sum_of_known(self.cached_tokens, other.cached_tokens),
        )


class ErrorType(StrEnum):
    """The closed set of `error_type`. `parley.broker.core.agent_error_table` says what each one means."""

    RATE_LIMITED = "rate_limited"
    SERVER_ERROR = "server_error"
    CONNECTION_FAILED = "connection_failed"
    CONNECTION_LOST = "connection_lost"
    FIRST_BYTE_TIMEOUT = "first_byte_timeout"
    TOTAL_TIMEOUT = "total_timeout"
    CONTEXT_TOO_LONG = "context_too_long"
    BAD_REQUEST = "bad_request"
    UNAUTHORIZED = "unauthorized"
    MODEL_NOT_FOUND = "model_not_found"
    EMPTY_ANSWER = "empty_answer"
    MALFORMED_ANSWER = "malformed_answer"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    CANCELLED = "cancelled"
    INVALID_BALLOT = "invalid_ballot"
    INVALID_OUTPUT = "invalid_output"
    TOOL_CALL = "tool_call"
    INTERNAL_ERROR = "internal_error"


# Of a final answer, this much is told.
MAX_FINAL_ANSWER_CHARACTERS = 200
# Of what a judge noted, this much is asked for and kept.
MAX_NOTES_CHARACTERS = 600


class Ballot(Message):
    """One judge's ranking of the answers it was shown."""

    ranking: Annotated[str, StringConstraints(pattern=r"^[A-H]{2,8}$")] = Field(
        description="The labels, the best first: `CAB`."
    )
    notes: str = Field(
        "", description=f"What the judge noted before it chose; the first {MAX_NOTES_CHARACTERS} characters."
    )
    shortened: str = Field("", description="Labels of the answers that were shown without their middle.")
    repaired: bool = Field(
        False, description="The ranking had to be looked for in the judge's words; it is whole all the same."
    )


# What is kept of an answer's log probabilities.
MAX_LOGPROBS_BYTES = 256 * KIB
# Any: as the server writes them.
Logprobs = tuple[dict[str, Any], ...]


class AgentCompleted(Message):
    """`agent.response.completed`: this agent answered."""

    max_body_bytes: ClassVar[int | None] = MAX_OUTCOME_BYTES

    task_id: TaskId = Field(description="The deliberation.")
    agent_id: AgentId = Field(description="The agent.")
    round: int = Field(1, description="Round of the deliberation, from 1.")
    phase: PhaseKind = Field(PhaseKind.ANSWER, description="What the agent was asked for.")
    key: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")] | None = Field(
        None, description="Digest of the answer, where one is chosen: the same for answers that are the same."
    )
    final_answer: Annotated[str, StringConstraints(max_length=MAX_FINAL_ANSWER_CHARACTERS)] | None = Field(
        None,
        description="With `select: vote`: the final answer that was read, in the form in which answers are compared; its "
        f"first {MAX_FINAL_ANSWER_CHARACTERS} characters.",
    )
    ballot: Ballot | None = Field(None, description="A judge's ranking.")
    kept: Annotated[str, StringConstraints(pattern=r"^[A-C]$")] | None = Field(
        None,
        description="With `phase: revise`: the label of the answer that the agent gives instead of one of its own. "
        "`proposal` has the model's words then, `KEEP B`.",
    )
    suspect: bool = Field(
        False,
        description="With `select: judge`: the answer turns to its judges. They are shown it all the same.",
    )
    role: str = Field(description="Role of the agent.")
    status: Literal["completed"] = Field("completed", description="Tells the two outcomes apart.")
    proposal: Proposal = Field(description="The answer.")
    finish_reason: str = Field(
        description="Why the model stopped, in its server's words, such as `stop` or `length` (it was cut off)."
    )
    refused: bool = Field(
        False, description="The model said that it will not answer; the answer is its words."
    )
    reasoning: str = Field(
        "",
        description="What the model thought before its answer, where its server tells; the last 16,384 characters.",
    )
    logprobs: Logprobs | None = Field(
        None,
        description="With `logprobs`: an entry for each token, as the model server writes it (`token`, `logprob`, "
        f"`top_logprobs`); the first ones that fit into {MAX_LOGPROBS_BYTES // KIB} KiB.",
    )
    usage: Usage = Field(description="Tokens of the call; of a judge that was asked twice, of both.")
    attempt: Figure = Field(description="Model calls this outcome took, from 1.")
    queue_ms: Figure = Field(description="From the request's arrival to the start of this agent's work.")
    duration_ms: Figure = Field(description="From the start of this agent's work to its outcome.")
    timestamp: Instant = Field(description="When the outcome was known, RFC 3339.")
    model: str = Field(description="Model that answered, as its server names it.")
    diversity: bool = Field(description="The agent had a persona, a seed and a temperature of its own.")
    persona: str | None = Field(None, description="Its persona, with `diversity` or by its `panel`.")
    seed: int | None = Field(None, description="The seed that was asked for, if any.")
    num_agents: int = Field(description="Agents of the deliberation.")
    metadata: dict[str, str] = Field(default_factory=dict, description="The request's own.")


# What is kept of an agent's calls of tools. More of them are dropped, the last ones first.
MAX_TOOL_CALLS_BYTES = 8 * KIB


class ToolCall(Message):
    """A tool that a model asked for instead of answering. Nothing runs it."""

    id: str = Field("", description="The model server's name for this call.")
    name: str = Field(description="The tool.")
    arguments: str = Field("", description="What the model passes to it, as it wrote it: JSON, usually.")


class AgentFailed(Message):
    """`agent.response.failed`: this agent has no answer, and why."""

    max_body_bytes: ClassVar[int | None] = MAX_OUTCOME_BYTES

    task_id: TaskId = Field(description="The deliberation.")
    agent_id: AgentId = Field(description="The agent.")
    round: int = Field(1, description="Round of the deliberation, from 1.")
    phase: PhaseKind = Field(PhaseKind.ANSWER, description="What the agent was asked for.")
    role: str = Field(description="Role of the agent.")
    status: Literal["failed"] = Field("failed", description="Tells the two outcomes apart.")
    error: Annotated[str, StringConstraints(min_length=1)] = Field(description="What went wrong, in words.")
    error_type: ErrorType = Field(description="What went wrong: one of a closed set.")
    tool_calls: tuple[ToolCall, ...] = Field(
        (),
        description="With `tool_call`: the tools that the model asked for. At most "
        f"{MAX_TOOL_CALLS_BYTES // KIB} KiB; the first ones, if they are more.",
    )
    usage: Usage = Field(
        Usage(),
        description="Tokens of its calls that a server counted: those of a judge without a ballot, of an answer in another "
        "form than was asked for. A call that failed has none.",
    )
    attempt: Figure = Field(description="Model calls this outcome took; 0 where none was made.")
    queue_ms: Figure = Field(0, description="From the request's arrival to the start of this agent's work.")
    duration_ms: Figure = Field(description="From the start of this agent's work to its outcome.")
    timestamp: Instant = Field(description="When the outcome was known, RFC 3339.")
    num_agents: int = Field(0, description="Agents of the deliberation.")
    metadata: dict[str, str] = Field(default_factory=dict, description="The request's own.")


AgentOutcome = AgentCompleted | AgentFailed


# Before the label of an answer that an agent keeps.
KEPT = "keep:"


def said_by(outcome: AgentOutcome) -> str | None:
    """What a choice needs of it: the ranking of a ballot, the answer that is kept ("keep:B"), or the digest of an
    answer."""
    if isinstance(outcome, AgentFailed):
        return None
    if outcome.kept is not None and outcome.phase is PhaseKind.REVISE:
        return KEPT + outcome.kept
    return outcome.ballot.ranking if outcome.ballot is not None else outcome.key
