"""The payloads that clients publish: ask, cancel, look; and the deadline that the NATS scheduler publishes."""

import hashlib
import json
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from parley.broker.core.messages.base import (
    KIB,
    MAX_AGENTS,
    MAX_CONSTRAINTS_BYTES,
    MAX_DESCRIPTION_BYTES,
    MAX_MAX_TOKENS,
    MAX_METADATA_BYTES,
    MAX_REASON_CHARACTERS,
    MAX_REQUEST_BYTES,
    MAX_REQUIREMENTS,
    MAX_ROUNDS,
    MAX_SMALL_BYTES,
    MAX_STOP_SEQUENCES,
    Message,
    Metadata,
    Role,
    TaskId,
    TimeoutSeconds,
    check_size,
)

# Lists stop at their first problem: a hostile one would have 300,000.
StopSequence = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class Constraints(Message):
    """What an answer must respect. `rubric`, `requirements` and `metadata` reach the agents' prompts.

    Any: every JSON value. pydantic's JsonValue calls Python for each value, of which a hostile body has 400,000.
    """

    rubric: str | dict[str, Any] | None = Field(
        None, union_mode="left_to_right", description="How answers will be judged, as text or as an object."
    )
    requirements: Annotated[tuple[str, ...], Field(max_length=MAX_REQUIREMENTS, fail_fast=True)] = Field(
        (), description="Requirements an answer must meet, one each."
    )
    metadata: dict[str, Any] = Field(
        default_factory=dict, description="More facts for the agents, as any JSON."
    )
    max_iterations: Annotated[int, Field(ge=1, le=1_000)] | None = Field(
        None, description="Carried along; this version makes no use of it."
    )
    timeout_seconds: TimeoutSeconds | None = Field(
        None, description="Counts where the request's own `timeout_seconds` is not given."
    )

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.rubric or self.requirements or self.metadata:  # nothing else in it can be long
            # Measured as it was sent: defaults that were not sent are not the sender's bytes.
            sent = {name: getattr(self, name) for name in self.model_fields_set}
            check_size(sent, MAX_CONSTRAINTS_BYTES, "constraints")
        return self


class Sampling(Message):
    """Overrides of the sampling parameters, named and bounded as in OpenAI's chat API."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = Field(
        None, description="Model to ask for. Default: the service's `VLLM_MODEL`."
    )
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = Field(
        None,
        description="Sampling temperature. Default: the server's; with `diversity`, 0.7 and a little off.",
    )
    max_tokens: Annotated[int, Field(ge=1, le=MAX_MAX_TOKENS)] | None = Field(
        None, description="Most tokens of one answer. Default: the model server's."
    )
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = Field(
        None, description="Seed of the first agent; the n-th agent gets `seed + n - 1`."
    )
    stop: (
        StopSequence
        | Annotated[tuple[StopSequence, ...], Field(max_length=MAX_STOP_SEQUENCES, fail_fast=True)]
        | None
    ) = Field(None, description="Text at which the model stops: one sequence, or a list of them.")


# What a program that asks again may change: the name is what it repeats, the time that is left is less, and metadata
# reaches no agent.
_NOT_THE_QUESTION: Any = {
    "task_id": True, "timeout_seconds": True, "metadata": True, "constraints": {"timeout_seconds"},
}  # fmt: skip


class DeliberationRequested(Sampling):
    """`deliberation.requested`: please deliberate."""

    max_body_bytes: ClassVar[int | None] = MAX_REQUEST_BYTES

    task_id: TaskId | None = Field(
        None,
        description="Name of the deliberation and idempotency key: the same question twice is one deliberation, "
        "another question of this name is rejected. "
        "Default: `d-<stream sequence>`. A client may not choose a name of that form.",
    )
    task_description: Annotated[str, StringConstraints(min_length=1)] = Field(
        description=f"The question. At most {MAX_DESCRIPTION_BYTES // KIB} KiB as UTF-8."
    )
    role: Role = Field(
        "DEV",
        description="Role of every agent: at most 32 of `A-Z`, `0-9` and `_`, a letter first; lower case is converted. DEV, QA, "
        "ARCHITECT, DEVOPS and DATA have prompts of their own; any other gets a general expert's.",
    )
    num_agents: Annotated[int, Field(ge=1, le=MAX_AGENTS)] = Field(
        3, description="Agents to ask. The service may allow fewer (`PARLEY_MAX_AGENTS`)."
    )
    constraints: Constraints = Field(
        Constraints(),
        description=f"What an answer must respect. At most {MAX_CONSTRAINTS_BYTES // KIB} KiB as JSON.",
    )
    diversity: bool = Field(
        False, description="Give each agent a persona, a seed and a temperature of its own."
    )
    rounds: Annotated[int, Field(ge=1, le=MAX_ROUNDS)] = Field(
        1, description="Rounds of deliberation. This version rejects more than 1."
    )
    min_responses: Annotated[int, Field(ge=1)] = Field(
        1, description="Answers that make the deliberation `completed`. At most `num_agents`."
    )
    finish_early: bool = Field(
        False, description="End as soon as `min_responses` agents have answered, and cancel the others."
    )
    timeout_seconds: TimeoutSeconds | None = Field(
        None,
        description="Deadline in seconds after the request is stored, queueing included. Default: "
        "`constraints.timeout_seconds`, else the service's `PARLEY_TIMEOUT_SECONDS`.",
    )
    metadata: Metadata = Field(
        default_factory=dict,
        description=f"Returned in every message of the deliberation. At most {MAX_METADATA_BYTES // KIB} KiB as JSON.",
    )

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
        needed, agents = self.min_responses, self.num_agents
        if needed > agents:
            raise ValueError(f"min_responses is {needed}, more than num_agents, {agents}")
        return self

    @property
    def asked_timeout_seconds(self) -> float | None:
        """The caller's own limit: the request's field before the constraints' one."""
        return self.timeout_seconds if self.timeout_seconds is not None else self.constraints.timeout_seconds

    @property
    def question(self) -> str:
        """A digest of what is asked. Two requests ask the same if they differ only in their name, their time limits,
        their metadata, the order of keys, or in what is not given and what is given as its default."""
        asked = self.model_dump(exclude=_NOT_THE_QUESTION, exclude_defaults=True)
        if not asked.get("constraints"):
            asked.pop("constraints", None)
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]


class DeliberationCancel(Message):
    """`deliberation.cancel`: stop this deliberation."""

    max_body_bytes: ClassVar[int | None] = MAX_SMALL_BYTES

    task_id: TaskId = Field(description="The deliberation to stop.")
    reason: Annotated[str, StringConstraints(max_length=MAX_REASON_CHARACTERS)] | None = Field(
        None, description="Why. It becomes part of the ending's `error`."
    )


class DeliberationDeadline(Message):
    """`deliberation.deadline.<task_id>`: published by the NATS scheduler when a deliberation's time is up."""

    max_body_bytes: ClassVar[int | None] = MAX_SMALL_BYTES

    task_id: TaskId = Field(description="The deliberation whose time is up.")
    request_seq: int | None = Field(
        default=None, ge=1, description="Where its request is in REQUESTS, should its tally be lost."
    )


class DeliberationGet(Message):
    """`deliberation.get`: the status of this deliberation, please."""

    max_body_bytes: ClassVar[int | None] = MAX_SMALL_BYTES

    task_id: TaskId = Field(description="The deliberation to look up.")
