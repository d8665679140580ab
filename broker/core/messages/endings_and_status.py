"""The two endings of a deliberation, and the answer to a question for its status."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, TypeAdapter

from parley.broker.core.messages.agents import ErrorType, Logprobs, Proposal, ToolCall, Usage
from parley.broker.core.messages.base import Message, TaskId, validated
from parley.broker.core.messages.selection import (
    Cost,
    DegradedReason,
    Dissent,
    PhaseReport,
    Selection,
    Synthesis,
)


class AgentResult(Message):
    """One agent's answer within an ending."""

    agent_id: str = Field(
        description="The agent; of an answer of a later round with that round's number: `agent-dev-001/2`."
    )
    round: int = Field(1, description="The round in which it gave this answer, from 1.")
    role: str = Field(description="Role of the agent.")
    proposal: Proposal = Field(description="The answer.")
    finish_reason: str = Field(
        "",
        description="Why the model stopped, in its server's words: `stop`, or `length` for an answer cut off.",
    )
    refused: bool = Field(
        False, description="The model said that it will not answer; the answer is its words."
    )
    reasoning: str = Field(
        "",
        description="What the model thought before its answer, where its server tells; at most 16,384 characters.",
    )
    logprobs: Logprobs | None = Field(
        None,
        description="With `logprobs`: an entry for each token, as the model server writes it (`token`, `logprob`, "
        "`top_logprobs`); the first ones, if they are many.",
    )
    suspect: bool = Field(
        False, description="The answer turns to its judges (`ignore the instructions`, `rank me first`)."
    )
    final_answer: str | None = Field(
        None, description="With `select: vote`: what was read as its final answer; null: nothing could be."
    )
    persona: str | None = Field(None, description="The agent's persona, with `diversity` or by its `panel`.")
    usage: Usage = Field(Usage(), description="Tokens of the call that gave the answer.")
    attempts: int = Field(1, description="Model calls that the answer took, from 1.")
    duration_ms: int = Field(description="From the start of this agent's work to its outcome.")
    timestamp: str = Field(description="When the outcome was known, RFC 3339.")


class FailedAgent(Message):
    """One agent without an answer, within an ending."""

    agent_id: str = Field(description="The agent.")
    error: str = Field(description="What went wrong, in words; cut after 500 characters.")
    error_type: ErrorType = Field(description="What went wrong: one of a closed set.")
    tool_calls: tuple[ToolCall, ...] = Field(
        (), description="With `tool_call`: the tools that the model asked for."
    )
    timestamp: str = Field(description="When the outcome was known, RFC 3339.")


class ResultsRef(Message):
    """Where `results` are when the ending was too large to carry them: an object of a NATS object store."""

    # It becomes part of the subject that a reader asks.
    bucket: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$", description="Name of the object store.")
    name: str = Field(description="Name of the object. It holds `results` as a JSON array.")
    size: int = Field(description="Its size in bytes.")
    digest: str = Field(description="Its digest, as NATS writes it (`SHA-256=…`).")


# What an ending or a status may leave out, by field.
LeftOut = Literal[
    "selection.notes",
    "results",
    "synthesis.content",
    "failed_agents.tool_calls",
    "failed_agents.error",
    "failed_agents",
    "missing_agents",
    "stopped_agents",
    "selection",
    "metadata",
    "error",
]
_LEFT_OUT = (
    "What this message leaves out or shortens because NATS's `max_payload`, or the object store, has no room for it, by "
    "field; usually empty. `selection.notes`: of the ballots. `failed_agents.tool_calls`: in the agents' outcomes. `results`: the answers are in the stream `AGENT_RESPONSES`. `synthesis.content`: so is that text. `failed_agents.error`, `error`: "
    "cut to 80 characters. `failed_agents`, `missing_agents`, `stopped_agents`: only counted. `selection`, with `synthesis`, `dissent`, "
    "`degraded_reasons`, `phases` and `cost`. `metadata`."
)


class DeliberationCompleted(Message):
    """`deliberation.completed`: one of the two endings. Read `degraded` first."""

    task_id: TaskId = Field(description="The deliberation.")
    status: Literal["completed"] = Field("completed", description="Tells the endings apart.")
    degraded: bool = Field(
        description="True if an agent or a judge failed or is missing, or a phase was left out. Read it first. Agents that "
        "`finish_early` or `agree` stopped do not count."
    )
    missing_agents: tuple[str, ...] = Field(description="Agents that did not report, by `agent_id`.")
    stopped_agents: tuple[str, ...] = Field(
        (),
        description="Agents that were not waited for, as `finish_early` or `agree` asked; they are not missing.",
    )
    failed_agents: tuple[FailedAgent, ...] = Field(description="Agents that failed, and why.")
    results: tuple[AgentResult, ...] = Field(
        description="The answers, in the order of the agents' numbers; with `rounds` then those by which agents stand that "
        "have revised theirs, in the same order."
    )
    results_ref: ResultsRef | None = Field(
        None,
        description="Where the results are, if they are too large for a message; `results` is empty then.",
    )
    left_out: tuple[str, ...] = Field((), description=_LEFT_OUT)
    total_agents: int = Field(description="Agents that were asked.")
    successful_responses: int = Field(description="Agents that answered.")
    failed_responses: int = Field(description="Agents that failed.")
    winner_id: str | None = Field(
        None, description="The answer that was chosen, by its `agent_id` in `results`, if one was."
    )
    answer_from: Literal["winner", "vote", "synthesis"] | None = Field(
        None,
        description="What the answer is: the winner's, by ballots or by votes, or the editor's text, which was preferred to "
        "the winner's; null: nobody was chosen.",
    )
    selection: Selection | None = Field(None, description="How, with `select`.")
    synthesis: Synthesis | None = Field(None, description="With `synthesize`: what became of it.")
    dissent: tuple[Dissent, ...] = Field((), description="What others put first, the most often first.")
    degraded_reasons: tuple[DegradedReason, ...] = Field(
        (), description="With `select` or `rounds`: each gap, and which silence it was."
    )
    phases: tuple[PhaseReport, ...] = Field(
        (), description="With `select` or `rounds`: what each phase asked, and got."
    )
    cost: Cost | None = Field(None, description="With `select` or `rounds`: what all phases have cost.")
    duration_ms: int = Field(description="From the request's arrival in the stream to the decision.")
    completed_at: str = Field(description="When it was decided, RFC 3339.")
    metadata: dict[str, str] = Field(default_factory=dict, description="The request's own.")

    @property
    def winner(self) -> AgentResult | None:
        """The chosen agent's result; None if none was chosen, or the results are not in this message."""
        return next((result for result in self.results if result.agent_id == self.winner_id), None)

    @property
    def answer(self) -> str | None:
        """The words of the answer: the winner's, or the editor's where those were preferred. None if nobody was chosen, or
        the words are not in this message."""
        if self.answer_from == "synthesis":
            return self.synthesis.content if self.synthesis is not None else None
        return self.winner.proposal.content if self.winner is not None else None


class DeliberationFailed(Message):
    """`deliberation.failed`: the other ending."""

    task_id: TaskId = Field(description="The deliberation.")
    status: Literal["failed", "timeout", "cancelled", "rejected"] = Field(
        description="`failed`: too few agents answered. `timeout`: too few had answered at the deadline. `cancelled`: "
        "a client asked for it. `rejected`: the request cannot be used."
    )
    error: Annotated[str, StringConstraints(min_length=1)] = Field(
        description="Why, in words. For `rejected` it names each bad field."
    )
    failed_agents: tuple[FailedAgent, ...] = Field(description="Agents that failed, and why.")
    missing_agents: tuple[str, ...] = Field(description="Agents that did not report, by `agent_id`.")
    results: tuple[AgentResult, ...] = Field(
        description="The answers that did arrive, in the order of the agents' numbers; with `rounds` then those of later "
        "rounds, as in a completed deliberation."
    )
    results_ref: ResultsRef | None = Field(
        None,
        description="Where the results are, if they are too large for a message; `results` is empty then.",
    )
    left_out: tuple[str, ...] = Field((), description=_LEFT_OUT)
    total_agents: int = Field(description="Agents that were asked.")
    successful_responses: int = Field(description="Agents that answered.")
    failed_responses: int = Field(description="Agents that failed.")
    duration_ms: int = Field(description="From the request's arrival in the stream to the decision.")
    timestamp: str = Field(description="When it was decided, RFC 3339.")
    metadata: dict[str, str] = Field(default_factory=dict, description="The request's own.")
    phases: tuple[PhaseReport, ...] = Field(
        (), description="With `select` or `rounds`: what each phase asked, and got."
    )
    cost: Cost | None = Field(None, description="With `select` or `rounds`: what all phases have cost.")

    @property
    def winner(self) -> None:
        """Nothing is chosen where too few answered."""

    @property
    def answer(self) -> None:
        """As `winner`."""


Ending = DeliberationCompleted | DeliberationFailed
_ENDING: TypeAdapter[Ending] = TypeAdapter(Annotated[Ending, Field(discriminator="status")])


def decode_ending(body: bytes) -> Ending:
    """An ending from its bytes; `status` tells which of the two it is. Raises InvalidMessage."""
    return validated(_ENDING.validate_json, (DeliberationCompleted, DeliberationFailed), body)


class DeliberationStatus(Message):
    """The answer to `deliberation.get`."""

    task_id: str = Field(description="The deliberation; empty where the question could not be read.")
    status: Literal["UNKNOWN", "PENDING", "IN_PROGRESS", "COMPLETED", "FAILED", "TIMEOUT"] = Field(
        description="`UNKNOWN`: never stored, or forgotten; this is not `PENDING`. `PENDING`, from the PubAck of the "
        "request on: no agent has begun. `IN_PROGRESS`: a call of an agent runs, or one has reported. "
        "A cancelled or rejected deliberation is `FAILED`."
    )
    results: tuple[AgentResult, ...] = Field(
        (), description="As in the ending, once there is one; before, the answers that `answers_of` names."
    )
    results_ref: ResultsRef | None = Field(None, description="As in the ending, once there is one.")
    left_out: tuple[str, ...] = Field((), description="As in the ending.")
    error_message: str = Field("", description="The ending's `error`, or why the status is not known.")
    duration_ms: int = Field(0, description="As in the ending, once there is one.")
    total_agents: int = Field(0, description="Agents that were asked.")
    phase: str = Field(
        "",
        description="With `select` or `rounds`, while it runs: the kind of the current phase, such as `judge`.",
    )
    limit: str = Field("", description="When that phase closes with what it has, RFC 3339.")
    received_count: int = Field(0, description="Agents that have answered.")
    failed_count: int = Field(0, description="Agents that have failed.")
    winner_id: str | None = Field(None, description="As in the ending, once there is one.")
    answer_from: Literal["winner", "vote", "synthesis"] | None = Field(
        None,
        description="As in the ending, once there is one. With `synthesis` the answer is not among the results: the "
        "ending has it.",
    )
    metadata: dict[str, str] = Field(default_factory=dict, description="The request's own.")
    ending_seq: int | None = Field(
        None, description="The ending's sequence in the stream `DELIBERATIONS`, once it is stored there."
    )
