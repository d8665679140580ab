"""Every payload that travels, as the wire contract names it (docs/contract.md).

This file knows shapes and bounds. It does not know subjects' streams, NATS or time. Inbound payloads are read
strictly (a string is not a number), unknown fields are ignored, and what is wrong comes back as one `InvalidMessage`
that names each field and quotes none of them: prompts do not belong in logs.
"""

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import to_json

from parley.broker.core.errors import InvalidMessage
from parley.broker.core.timestamps import parse_timestamp

KIB = 1024

# Bounds of the contract. A deployment may lower some of them through settings (`Limits`), never raise them.
MAX_DESCRIPTION_BYTES = 256 * KIB
MAX_CONSTRAINTS_BYTES = 64 * KIB
MAX_METADATA_BYTES = 16 * KIB
MAX_AGENTS = 256
MAX_ROUNDS = 5
MIN_TIMEOUT_SECONDS = 0.1
MAX_TIMEOUT_SECONDS = 86_400.0
# OpenAI's chat API takes at most four stop sequences.
MAX_STOP_SEQUENCES = 4
# Longer than any context window on sale; keeps a typing slip from becoming an integer overflow in a server.
MAX_MAX_TOKENS = 10_000_000
# One line of these is enough to act on; a hostile payload could otherwise make us write a book about it.
MAX_REPORTED_PROBLEMS = 8
MAX_REASON_CHARACTERS = 1_000
# What a JSON number holds exactly in every language. A larger one does not fit a metric's float and spoils what counts it.
MAX_FIGURE = 2**53

TASK_ID_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"
# What the service calls a request without a name. Nobody else may: one name would be two deliberations', and one not get its ending.
OWN_NAME = re.compile(r"d-[0-9]+")

TaskId = Annotated[str, StringConstraints(pattern=TASK_ID_PATTERN)]
Role = Annotated[
    str,
    BeforeValidator(lambda role: role.upper() if isinstance(role, str) else role),
    StringConstraints(pattern=r"^[A-Z][A-Z0-9_]{0,31}$"),
]
FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]
TimeoutSeconds = Annotated[float, Field(ge=MIN_TIMEOUT_SECONDS, le=MAX_TIMEOUT_SECONDS, allow_inf_nan=False)]
Figure = Annotated[int, Field(ge=-MAX_FIGURE, le=MAX_FIGURE)]
# As `agent_id` makes them: 6 letters, a role's 32, a number's few. It becomes part of a header.
AgentId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
StopSequence = Annotated[str, StringConstraints(min_length=1, max_length=256)]


def _readable(timestamp: str) -> str:
    try:
        parse_timestamp(timestamp)
    except (ValueError, OverflowError):
        raise ValueError("is no instant as RFC 3339 writes it") from None
    return timestamp


# With nanoseconds and an offset RFC 3339 needs 35.
Instant = Annotated[str, StringConstraints(max_length=40), AfterValidator(_readable)]


class Message(BaseModel):
    """A frozen payload. Outbound JSON carries every field; inbound JSON may carry more."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    def encode(self) -> bytes:
        return self.model_dump_json().encode()


AnyMessage = TypeVar("AnyMessage", bound=Message)


def decode(kind: type[AnyMessage], body: bytes) -> AnyMessage:
    """Read `body` as `kind`. Raises InvalidMessage naming each bad field."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise InvalidMessage(describe(error)) from None


def describe(error: ValidationError) -> list[str]:
    """What is wrong, field by field, without quoting the input."""
    details = error.errors(include_input=False, include_url=False, include_context=False)
    problems = [
        f"{_where(detail['loc'])}: {_UNQUOTED.get(detail['type'], detail['msg'])}"
        for detail in details[:MAX_REPORTED_PROBLEMS]
    ]
    if len(details) > MAX_REPORTED_PROBLEMS:
        problems.append(f"and {len(details) - MAX_REPORTED_PROBLEMS} more")
    return problems


# Below these fields the names are the sender's own words, of any length: a problem there is told without them.
_FREE = {"metadata": "metadata.*", "rubric": "rubric"}
# Where pydantic's own words quote the input.
_UNQUOTED = {"union_tag_invalid": "status is none that an ending can have"}


def _where(location: Sequence[int | str]) -> str:
    named = [str(part) for part in location]
    for place, part in enumerate(named[:-1]):
        if part in _FREE:
            named[place:] = [_FREE[part]]
            break
    return ".".join(named) or "payload"


def _within(value: Any, limit: int, name: str) -> None:
    size = len(to_json(value))
    if size > limit:
        raise ValueError(f"{name} is {size} bytes as JSON, more than {limit}")


def _metadata_fits(metadata: dict[str, str]) -> dict[str, str]:
    if metadata:
        _within(metadata, MAX_METADATA_BYTES, "metadata")
    return metadata


Metadata = Annotated[dict[str, str], AfterValidator(_metadata_fits)]


# ── what a client asks ────────────────────────────────────────────────────────────────────────────────────────────


class Constraints(Message):
    """What an answer must respect. Everything here reaches the agents' prompts."""

    rubric: str | dict[str, JsonValue] | None = None
    requirements: tuple[str, ...] = ()
    metadata: dict[str, JsonValue] = Field(default_factory=dict)
    max_iterations: Annotated[int, Field(ge=1, le=1_000)] | None = None
    timeout_seconds: TimeoutSeconds | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.rubric or self.requirements or self.metadata:  # nothing else in it can be long
            # As it was sent: defaults that were not in it are not the sender's bytes.
            _within(self.model_dump(exclude_unset=True), MAX_CONSTRAINTS_BYTES, "constraints")
        return self


class Sampling(Message):
    """Overrides of the sampling parameters, named and bounded as in OpenAI's chat API."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MAX_MAX_TOKENS)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: StopSequence | Annotated[tuple[StopSequence, ...], Field(max_length=MAX_STOP_SEQUENCES)] | None = (
        None
    )


class DeliberationRequested(Sampling):
    """`deliberation.requested`: please deliberate. `timeout_seconds` None means the service's default."""

    task_id: TaskId | None = None
    task_description: Annotated[str, StringConstraints(min_length=1)]
    role: Role = "DEV"
    num_agents: Annotated[int, Field(ge=1, le=MAX_AGENTS)] = 3
    constraints: Constraints = Constraints()
    diversity: bool = False
    rounds: Annotated[int, Field(ge=1, le=MAX_ROUNDS)] = 1
    min_responses: Annotated[int, Field(ge=1)] = 1
    finish_early: bool = False
    timeout_seconds: TimeoutSeconds | None = None
    metadata: Metadata = Field(default_factory=dict)

    @field_validator("task_description")
    @classmethod
    def _description_fits(cls, description: str) -> str:
        size = len(description.encode())
        if size > MAX_DESCRIPTION_BYTES:
            raise ValueError(f"is {size} bytes, more than {MAX_DESCRIPTION_BYTES}")
        return description

    @field_validator("rounds")
    @classmethod
    def _one_round(cls, rounds: int) -> int:
        if rounds > 1:
            raise ValueError("rounds above 1 are not supported by this version; send 1")
        return rounds

    @model_validator(mode="after")
    def _quorum_is_reachable(self) -> Self:
        if self.min_responses > self.num_agents:
            raise ValueError(
                f"min_responses is {self.min_responses}, more than num_agents, {self.num_agents}"
            )
        return self

    @property
    def asked_timeout_seconds(self) -> float | None:
        """The caller's own limit: the request's field before the constraints' one."""
        return self.timeout_seconds if self.timeout_seconds is not None else self.constraints.timeout_seconds


class DeliberationCancel(Message):
    """`deliberation.cancel`: stop this one."""

    task_id: TaskId
    reason: Annotated[str, StringConstraints(max_length=MAX_REASON_CHARACTERS)] | None = None


class DeliberationDeadline(Message):
    """`deliberation.deadline.<task_id>`: produced by the NATS scheduler when a deliberation's time is up."""

    task_id: TaskId


class DeliberationGet(Message):
    """`deliberation.get`: how is this one doing?"""

    task_id: TaskId


# ── one agent's work and how it went ──────────────────────────────────────────────────────────────────────────────


def agent_id(role: str, number: int) -> str:
    """`agent-dev-001`. Numbers count from 1."""
    return f"agent-{role.lower()}-{number:03d}"


class AgentRequested(Sampling):
    """`agent.requested`: one agent's work. `deadline` is an absolute instant that travels with the work."""

    task_id: TaskId
    agent_id: AgentId
    agent_number: Annotated[int, Field(ge=1, le=MAX_AGENTS)]
    round: Annotated[int, Field(ge=1, le=MAX_ROUNDS)] = 1
    role: Role
    num_agents: Annotated[int, Field(ge=1, le=MAX_AGENTS)]
    task_description: str
    constraints: Constraints = Constraints()
    diversity: bool = False
    requested_at: Instant
    deadline: Instant
    metadata: Metadata = Field(default_factory=dict)


class AgentCancel(Message):
    """`agent.cancel`, broadcast over core NATS: drop this task's calls now."""

    task_id: TaskId
    reason: str = ""


class Proposal(Message):
    """What one agent said. `tokens` counts the generated ones, as the model server reports them."""

    content: str
    author_id: str
    author_role: str
    model: str
    temperature: float | None
    tokens: Figure


class Usage(Message):
    prompt_tokens: Figure = 0
    completion_tokens: Figure = 0
    total_tokens: Figure = 0


class ErrorType(StrEnum):
    """The closed set of `error_type`. docs/contract.md says what each one means and who should act."""

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
    INTERNAL_ERROR = "internal_error"


class AgentCompleted(Message):
    """`agent.response.completed`. `attempt` counts the model calls this outcome took, from 1."""

    task_id: TaskId
    agent_id: AgentId
    round: int = 1
    role: str
    status: Literal["completed"] = "completed"
    proposal: Proposal
    finish_reason: str
    usage: Usage
    attempt: Figure
    queue_ms: Figure
    duration_ms: Figure
    timestamp: Instant
    model: str
    diversity: bool
    persona: str | None = None
    seed: int | None = None
    num_agents: int
    metadata: dict[str, str] = Field(default_factory=dict)


class AgentFailed(Message):
    """`agent.response.failed`. `error` is never empty."""

    task_id: TaskId
    agent_id: AgentId
    round: int = 1
    role: str
    status: Literal["failed"] = "failed"
    error: Annotated[str, StringConstraints(min_length=1)]
    error_type: ErrorType
    attempt: Figure
    queue_ms: Figure = 0
    duration_ms: Figure
    timestamp: Instant
    num_agents: int = 0
    metadata: dict[str, str] = Field(default_factory=dict)


AgentOutcome = AgentCompleted | AgentFailed


# ── endings ───────────────────────────────────────────────────────────────────────────────────────────────────────


class AgentResult(Message):
    agent_id: str
    role: str
    proposal: Proposal
    duration_ms: int
    timestamp: str


class FailedAgent(Message):
    agent_id: str
    error: str
    error_type: ErrorType
    timestamp: str


class ResultsRef(Message):
    """Where `results` went when the ending was too large to carry them: a NATS object store."""

    bucket: str
    name: str
    size: int
    digest: str


class DeliberationCompleted(Message):
    """`deliberation.completed`: one of the two endings. Read `degraded` first."""

    task_id: TaskId
    status: Literal["completed"] = "completed"
    degraded: bool
    missing_agents: tuple[str, ...]
    failed_agents: tuple[FailedAgent, ...]
    results: tuple[AgentResult, ...]
    results_ref: ResultsRef | None = None
    total_agents: int
    successful_responses: int
    failed_responses: int
    winner_id: str | None = None
    duration_ms: int
    completed_at: str
    metadata: dict[str, str] = Field(default_factory=dict)


class DeliberationFailed(Message):
    """`deliberation.failed`: the other ending. `results` holds whatever did arrive."""

    task_id: TaskId
    status: Literal["failed", "timeout", "cancelled", "rejected"]
    error: Annotated[str, StringConstraints(min_length=1)]
    failed_agents: tuple[FailedAgent, ...]
    missing_agents: tuple[str, ...]
    results: tuple[AgentResult, ...]
    results_ref: ResultsRef | None = None
    total_agents: int
    successful_responses: int
    failed_responses: int
    duration_ms: int
    timestamp: str
    metadata: dict[str, str] = Field(default_factory=dict)


Ending = DeliberationCompleted | DeliberationFailed
_ENDING: TypeAdapter[Ending] = TypeAdapter(Annotated[Ending, Field(discriminator="status")])


def decode_ending(body: bytes) -> Ending:
    """An ending from its bytes; `status` tells which of the two it is. Raises InvalidMessage."""
    try:
        return _ENDING.validate_json(body)
    except ValidationError as error:
        raise InvalidMessage(describe(error)) from None


# ── status ────────────────────────────────────────────────────────────────────────────────────────────────────────


class DeliberationStatus(Message):
    """The answer to `deliberation.get`. `UNKNOWN` means never heard of, or forgotten; it is not `PENDING`.

    `ending_seq` is the ending's own place in the DELIBERATIONS stream, once it is stored there.
    """

    task_id: str
    status: Literal["UNKNOWN", "PENDING", "IN_PROGRESS", "COMPLETED", "FAILED", "TIMEOUT"]
    results: tuple[AgentResult, ...] = ()
    results_ref: ResultsRef | None = None
    error_message: str = ""
    duration_ms: int = 0
    total_agents: int = 0
    received_count: int = 0
    failed_count: int = 0
    winner_id: str | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
    ending_seq: int | None = None
