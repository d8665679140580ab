"""The payloads that clients publish: ask, cancel, look; and the deadline that the NATS scheduler publishes."""

import hashlib
import json
from collections.abc import Callable
from functools import cache
from json.encoder import encode_basestring_ascii
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, StringConstraints, model_validator

from parley.broker.core.judging_orders import MAX_JUDGES, MAX_SHOWN
from parley.broker.core.messages.answer_key import AnswerKey
from parley.broker.core.messages.base import (
    KIB,
    MAX_AGENTS,
    MAX_CONSTRAINTS_BYTES,
    MAX_DESCRIPTION_BYTES,
    MAX_EXTRA_BYTES,
    MAX_METADATA_BYTES,
    MAX_PANEL_BYTES,
    MAX_REASON_CHARACTERS,
    MAX_REQUEST_BYTES,
    MAX_REQUEST_CONTAINERS,
    MAX_REQUIREMENTS,
    MAX_RESPONSE_FORMAT_BYTES,
    MAX_ROUNDS,
    MAX_SMALL_BYTES,
    MAX_STOP_SEQUENCES,
    MAX_SYSTEM_BYTES,
    Description,
    MaxTokens,
    Message,
    Metadata,
    ModelName,
    Role,
    SystemWords,
    TaskId,
    Temperature,
    TimeoutSeconds,
    check_size,
)
from parley.broker.core.messages.conversation import MAX_MESSAGES_BYTES, Conversation, has_system_message
from parley.broker.core.messages.extra_fields import ExtraFields
from parley.broker.core.messages.json_schema import MAX_PATTERNS_PARTS, MAX_SCHEMAS
from parley.broker.core.messages.panel import Member, given_by
from parley.broker.core.messages.response_format import ResponseFormat
from parley.broker.core.messages.schema_pattern import MAX_PATTERN_CHARACTERS, MAX_PATTERN_PARTS
from parley.broker.core.phase_plan import Select, Step, is_over, plan

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


_NO_CONSTRAINTS = Constraints()


def no_constraints() -> Constraints:
    """The default of a field. Given as an object, pydantic would copy it, with all that is in it, for each message."""
    return _NO_CONSTRAINTS


class Sampling(Message):
    """Overrides of the sampling parameters, named and bounded as in OpenAI's chat API."""

    model: ModelName | None = Field(
        None, description="Model to ask for. Default: the service's `VLLM_MODEL`."
    )
    temperature: Temperature | None = Field(
        None,
        description="Sampling temperature. Default: the server's; with `diversity`, 0.7 and a little off.",
    )
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = Field(
        None, description="Nucleus sampling. Default: the server's."
    )
    max_tokens: MaxTokens | None = Field(
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
    logprobs: bool | None = Field(
        None,
        description="Ask for the log probabilities of an answer's tokens. They come back as `logprobs` of its result.",
    )
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = Field(
        None, description="With `logprobs`: also those of so many other tokens at each place."
    )
    response_format: ResponseFormat | None = Field(
        None,
        description='The form of an answer, as in OpenAI\'s chat API: `{"type": "json_object"}`, or `{"type": "json_schema", '
        '"json_schema": {"name", "schema"}}`. An answer of another form is asked for once more, and then fails '
        f"(`invalid_output`). At most {MAX_RESPONSE_FORMAT_BYTES // KIB} KiB as JSON, with at most {MAX_SCHEMAS:,} schemas; a "
        f"`pattern` as in ECMA-262, of at most {MAX_PATTERN_CHARACTERS:,} characters, and {MAX_PATTERN_PARTS:,} parts when "
        f"what must be there several times is written out (all together {MAX_PATTERNS_PARTS:,}), without references back and "
        "flags. Judges are asked without it.",
    )
    extra: ExtraFields | None = Field(
        None,
        description="More fields of an agent's call, passed on to the model server as they are: its own, or OpenAI's that "
        f"are no fields here. At most {MAX_EXTRA_BYTES // KIB} KiB as JSON. Judges are asked without them.",
    )


_ONE_QUESTION: Any = {"oneOf": [{"required": ["task_description"]}, {"required": ["messages"]}]}
# Of no use without judges, or without votes: the fields and their defaults.
_OF_JUDGES: dict[str, Any] = {"judges": 3, "judge_model": None, "judge_models": None}
_OF_VOTES: dict[str, Any] = {"answer_key": None, "agree": None}
# Where another round does harm: docs/deliberation.md says by how much.
_OF_ONE_ROUND = {
    Select.VOTE: "agents who have read each other's answers are no independent votes",
    Select.RANK: "members would rank answers that they have written into each other",
}
# Members who rank the answers of the others: with three, each pair of answers has one judge, and more than eight answers
# are too many to rank.
LEAST_RANKING, MOST_RANKING = 4, MAX_SHOWN + 1
# What a program that asks again may change: the name is what it repeats, the time that is left is less, and metadata
# reaches no agent.
_NOT_THE_QUESTION: Any = {
    "task_id": True, "timeout_seconds": True, "metadata": True, "constraints": {"timeout_seconds"},
}  # fmt: skip
_encode = json.JSONEncoder(sort_keys=True).encode


class DeliberationRequested(Sampling, json_schema_extra=_ONE_QUESTION):
    """`deliberation.requested`: please deliberate."""

    max_body_bytes: ClassVar[int | None] = MAX_REQUEST_BYTES
    max_containers: ClassVar[int | None] = MAX_REQUEST_CONTAINERS

    task_id: TaskId | None = Field(
        None,
        description="Name of the deliberation and idempotency key: the same question twice is one deliberation, "
        "another question of this name is rejected. "
        "Default: `d-<stream sequence>`. A client may not choose a name of that form.",
    )
    task_description: Description | None = Field(
        None,
        description=f"The question. At most {MAX_DESCRIPTION_BYTES // KIB} KiB as UTF-8. Required without `messages`.",
    )
    messages: Conversation | None = Field(
        None,
        description="Instead of `task_description`: a conversation, as in OpenAI's chat API, with texts and images "
        f"(`image_url`). Passed on as it is. At most {MAX_MESSAGES_BYTES // KIB} KiB as JSON.",
    )
    role: Role = Field(
        "DEV",
        description="Role of every agent: at most 32 of `A-Z`, `0-9` and `_`, a letter first; lower case is converted. DEV, QA, "
        "ARCHITECT, DEVOPS and DATA have prompts of their own; any other gets a general expert's. With NONE nothing of "
        "Parley's stands around the question.",
    )
    system: SystemWords | None = Field(
        None,
        description="The system message, instead of the role's; `role` then only names the agents. At most "
        f"{MAX_SYSTEM_BYTES // KIB} KiB as UTF-8.",
    )
    num_agents: Annotated[int, Field(ge=1, le=MAX_AGENTS)] = Field(
        3,
        description="Agents to ask. The service may allow fewer (`PARLEY_MAX_AGENTS`). Default with `panel` or `models`: "
        "one for each.",
    )
    panel: (
        Annotated[tuple[Member, ...], Field(min_length=1, max_length=MAX_AGENTS, fail_fast=True)] | None
    ) = Field(
        None,
        description="Who is asked: the agents take these members in turn. What a member leaves out is the request's own. At "
        f"most {MAX_PANEL_BYTES // KIB} KiB as JSON.",
    )
    models: (
        Annotated[tuple[ModelName, ...], Field(min_length=1, max_length=MAX_AGENTS, fail_fast=True)] | None
    ) = Field(
        None,
        description="Models that the agents take in turn: a `panel` of members that differ in nothing else.",
    )
    constraints: Constraints = Field(
        default_factory=no_constraints,
        description=f"What an answer must respect. At most {MAX_CONSTRAINTS_BYTES // KIB} KiB as JSON.",
    )
    diversity: bool = Field(
        False, description="Give each agent a persona, a seed and a temperature of its own."
    )
    rounds: Annotated[int, Field(ge=1, le=MAX_ROUNDS)] = Field(
        1,
        description="How often the agents answer. In each round after the first an agent reads two answers of others beside "
        "its own, none with a name, and writes a better one or keeps one of the three. More than 1 needs `select` `none` or "
        "`judge`.",
    )
    min_responses: Annotated[int, Field(ge=1)] = Field(
        1, description="Answers that make the deliberation `completed`. At most `num_agents`."
    )
    finish_early: bool = Field(
        False, description="End as soon as `min_responses` agents have answered, and cancel the others."
    )
    select: Select = Field(
        Select.NONE,
        description="How a winner is chosen. `none`: all answers are returned. `vote`: the answer that most agents gave, "
        "read by `answer_key`. `judge`: judges who did not answer rank the answers, without names, each in another order; more "
        "than eight in heats first. `rank`: those who answered rank the answers of the others.",
    )
    judges: Annotated[int, Field(ge=1, le=MAX_JUDGES)] = Field(
        _OF_JUDGES["judges"], description="Judges to ask, with `select: judge` or `synthesize`."
    )
    judge_model: ModelName | None = Field(
        None,
        description="Model that judges and the editor are asked of. Default: as the agents. If no server has it, no agent is "
        "asked.",
    )
    judge_models: (
        Annotated[tuple[ModelName, ...], Field(min_length=1, max_length=MAX_JUDGES, fail_fast=True)] | None
    ) = Field(
        None,
        description="Models that the judges take in turn, instead of `judge_model`. If no server has any of them, no agent is asked.",
    )
    synthesize: bool = Field(
        False,
        description="After the choice an editor writes an answer from the best five at most. It is the answer if the judges "
        "then prefer it to the winner's. Needs `select`.",
    )
    answer_key: AnswerKey | None = Field(None, description="How a final answer is read, with `select: vote`.")
    agree: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="End as soon as so many answers are the same, with `select: vote`. At most `num_agents`; from "
        "`num_agents // 2 + 1` on nothing that comes later can change the winner.",
    )
    max_calls: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="Agents and judges to ask at most. A phase that would need more is left out, and the ending says so. "
        "At least `num_agents`.",
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

    # One for all: pydantic's way to each takes longer than most of these looks.
    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        problem = self._problem_of_question() or self._problem_of_panel()
        if not problem and self.min_responses > self.num_agents:
            problem = f"min_responses is {self.min_responses}, more than num_agents, {self.num_agents}"
        problem = problem or self._problem_of_choice()
        if problem:
            raise ValueError(problem)
        return self

    def _problem_of_question(self) -> str:
        if self.top_logprobs is not None and not self.logprobs:
            return "top_logprobs needs logprobs"
        if self.messages is None:
            return "" if self.task_description is not None else "task_description is required, or messages"
        if self.task_description is not None:
            return "task_description and messages are given; give one of them"
        own = [self.system, *(member.system for member in self.panel or ())]
        if has_system_message(self.messages) and any(own):
            return "system and messages both have a system message; give one of them"
        return ""

    def _problem_of_panel(self) -> str:
        """Sets the number of agents where the panel decides it."""
        members = self.panel or self.models
        if members is None:
            return ""
        several = [name for name in ("panel", "models", "model") if getattr(self, name) is not None]
        if self.models is not None and len(several) > 1:
            return f"{' and '.join(several)} are given; give one of them"
        if self.panel is not None:
            sent = [member.model_dump(exclude_none=True) for member in self.panel]
            check_size(sent, MAX_PANEL_BYTES, "panel")
        if "num_agents" not in self.model_fields_set:
            object.__setattr__(self, "num_agents", len(members))  # frozen for everybody else
        elif self.num_agents < len(members):
            name = "panel" if self.panel is not None else "models"
            return f"num_agents is {self.num_agents}, fewer than the {len(members)} of {name}"
        return ""

    def _problem_of_choice(self) -> str:
        agents = self.num_agents
        if self.synthesize and self.select is Select.NONE:
            return "synthesize needs select, which chooses what it is compared with; select is none"
        if problem := self._problem_of_idle_fields():
            return problem
        if self.select is Select.VOTE and self.answer_key is None:
            return "select vote needs answer_key, which says how a final answer is read"
        if self.rounds > 1 and self.select in _OF_ONE_ROUND:
            why = _OF_ONE_ROUND[self.select]
            return f"rounds is {self.rounds}; select {self.select} has one round ({why}); use select judge"
        if self.agree is not None and self.agree > agents:
            return f"agree is {self.agree}, more than num_agents, {agents}"
        if self.select is Select.RANK and not LEAST_RANKING <= agents <= MOST_RANKING:
            why = (
                "each pair of answers would have one judge" if agents < LEAST_RANKING else "too many to rank"
            )
            allowed = f"select rank needs {LEAST_RANKING} to {MOST_RANKING}"
            return f"num_agents is {agents}; {allowed} ({why}); use select judge"
        if self.judge_model is not None and self.judge_models is not None:
            return "judge_model and judge_models are both given; give one of them"
        if is_over(agents, self.max_calls):
            return f"max_calls is {self.max_calls}, fewer than num_agents, {agents}"
        return ""

    def _problem_of_idle_fields(self) -> str:
        """Fields that nothing here makes use of."""
        idle = {} if self.select is Select.VOTE else dict.fromkeys(_OF_VOTES, (_OF_VOTES, "select vote"))
        if self.select is not Select.JUDGE and not self.synthesize:
            idle |= dict.fromkeys(_OF_JUDGES, (_OF_JUDGES, "select judge"))
        given = [name for name, (defaults, _) in idle.items() if getattr(self, name) != defaults[name]]
        if not given:
            return ""
        wanted = " and ".join(dict.fromkeys(idle[name][1] for name in given))
        needs = "need" if len(given) > 1 else "needs"
        return f"{' and '.join(given)} {needs} {wanted}; select is {self.select}"

    @property
    def plan(self) -> tuple[Step, ...]:
        """Its phases; none where it has one."""
        return plan(self.select, self.num_agents, self.judges, synthesize=self.synthesize, rounds=self.rounds)

    def model_of_judge(self, number: int) -> str | None:
        """The model that this judge, from 1, is asked of; None: the service's."""
        if self.judge_models:
            return self.judge_models[(number - 1) % len(self.judge_models)]
        return self.judge_model or self.of_agent(number).get("model", self.model)

    def of_agent(self, number: int) -> dict[str, Any]:
        """The fields in which agents of a panel may differ, as this one, from 1, is asked with them. The same fields for
        each; none without a panel."""
        if self.models:
            return {"model": self.models[(number - 1) % len(self.models)]}
        if self.panel is None:
            return {}
        given = given_by(self.panel, number)
        return {name: given.get(name, getattr(self, name, None)) for name in Member.model_fields}

    @property
    def asked_timeout_seconds(self) -> float | None:
        """The caller's own limit: the request's field before the constraints' one."""
        return self.timeout_seconds if self.timeout_seconds is not None else self.constraints.timeout_seconds

    @property
    def question(self) -> str:
        """A digest of what is asked. Two requests ask the same if they differ only in their name, their time limits,
        their metadata, the order of keys, or in what is not given and what is given as its default."""
        words = self._asked_plainly()
        if words is None:
            asked = self.model_dump(exclude=_NOT_THE_QUESTION, exclude_defaults=True)
            if not asked.get("constraints"):
                asked.pop("constraints", None)
            words = _encode(asked)
        # Tallies hold it: another form of it would make a question another one during an upgrade.
        return hashlib.sha256(words.encode()).hexdigest()[:32]

    def _asked_plainly(self) -> str | None:
        """As `_encode` would write it, in a third of the time; None for a request with more than texts and numbers."""
        values, parts = self.__dict__, []
        for name, default in _plain_defaults().items():
            value = values[name]
            if value is default or value == default:
                continue
            write = _PLAIN_WORDS.get(type(value))
            if write is None:
                return None
            parts.append(f'"{name}": {write(value)}')
        return f"{{{', '.join(parts)}}}"


# How JSON writes values of these types.
_PLAIN_WORDS: dict[type, Callable[[Any], str]] = {
    str: encode_basestring_ascii, Select: encode_basestring_ascii, int: repr, float: repr,
    bool: lambda value: "true" if value else "false",
}  # fmt: skip


@cache
def _plain_defaults() -> dict[str, Any]:
    """The defaults of the fields that make a question, in the order of their names."""
    fields = DeliberationRequested.model_fields
    return {
        name: field.get_default(call_default_factory=True)
        for name, field in sorted(fields.items())
        if _NOT_THE_QUESTION.get(name) is not True
    }


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


# Answers that one question about a running deliberation may ask for.
MAX_ANSWERS_OF = 8


class DeliberationGet(Message):
    """`deliberation.get`: the status of this deliberation, please."""

    max_body_bytes: ClassVar[int | None] = MAX_SMALL_BYTES

    task_id: TaskId = Field(description="The deliberation to look up.")
    answers_of: tuple[str, ...] = Field(
        (),
        max_length=MAX_ANSWERS_OF,
        fail_fast=True,
        description="While it runs: whose answers to return in `results`, as far as they are there; at most 8 names, such "
        "as `agent-dev-001`, or `agent-dev-001/2` of a later round. Once it has ended all are returned.",
    )
