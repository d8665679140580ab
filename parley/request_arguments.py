"""The arguments with which a Python program asks, and the request that they make. Part of the client.

Its errors name the arguments as they were given, not the fields of the message that they become.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, Unpack

from pydantic_core import PydanticSerializationError, to_json

from parley.broker.core import headers_and_ids
from parley.broker.core.errors import InvalidMessage
from parley.broker.core.messages import DeliberationRequested, decode


class Asking(TypedDict, total=False):
    """The optional arguments of `Client.deliberate`, which explains them. None is the same as leaving one out."""

    messages: Sequence[Mapping[str, Any]] | None
    agents: int | None
    role: str
    system: str | None
    rubric: str | Mapping[str, Any] | None
    requirements: Sequence[str]
    context: Mapping[str, Any] | None
    diversity: bool
    rounds: int
    min_responses: int
    finish_early: bool
    timeout_seconds: float | None
    metadata: Mapping[str, str] | None
    task_id: str | None
    model: str | None
    models: Sequence[str] | None
    panel: Sequence[Mapping[str, Any]] | None
    temperature: float | None
    top_p: float | None
    max_tokens: int | None
    seed: int | None
    stop: str | Sequence[str] | None
    logprobs: bool | None
    top_logprobs: int | None
    response_format: Mapping[str, Any] | None
    extra: Mapping[str, Any] | None
    select: str
    judges: int
    judge_model: str | None
    judge_models: Sequence[str] | None
    answer_key: Mapping[str, str] | None
    agree: int | None
    max_calls: int | None
    synthesize: bool


# The message's fields that have another name than the argument.
_ARGUMENTS = {"num_agents": "agents"}
_CONSTRAINTS = {"rubric": "rubric", "requirements": "requirements", "context": "metadata"}
_UNWRITABLE = (PydanticSerializationError, TypeError, ValueError, RecursionError)
_WRONG_TYPE = "has the wrong type"
# What pydantic says, and how a person would say it.
_PLAIN = (
    (r"Input should be greater than or equal to (\S+)", r"at least \1"),
    (r"Input should be less than or equal to (\S+)", r"at most \1"),
    (r"Input should be less than (\S+)", r"less than \1"),
    (r"Input should be a valid integer.*", "must be a whole number"),
    (r"Input should be a (?:valid|finite) number.*", "must be a number"),
    (r"Input should be a valid boolean.*", "must be true or false"),
    (r"Input should be a valid (?:string|tuple|dictionary|list|array).*", _WRONG_TYPE),
    (r"Tuple should have at most (\d+) items? after validation.*", r"at most \1"),
    (r"Input should be an object", "must be an object"),
    (r"Input should be ('\w+'.*)", r"must be \1"),
    (r"^constraints is (\d+) bytes as JSON", r"rubric, requirements and context together are \1 bytes as JSON"),
    (r"String should have at least 1 character", "is empty"),
    (r"String should have at most (\d+) characters", r"at most \1 characters"),
    (r"String should match pattern '\^\[A-Za-z0-9_-\]\{1,64\}\$'", "1 to 64 of A-Z a-z 0-9 _ -"),
    (r"String should match pattern '\^\[A-Z\]\[A-Z0-9_\]\{0,31\}\$'",
     "1 to 32 of A-Z 0-9 _, a letter first"),
)  # fmt: skip


def body_of(request: DeliberationRequested) -> bytes:
    """What a client sends: what it was given, and nothing that the service assumes anyway."""
    return request.model_dump_json(exclude_unset=True).encode()


def compose(task_description: str | None, **asking: Unpack[Asking]) -> DeliberationRequested:
    """The request these arguments make. Raises InvalidMessage naming each bad argument, TypeError for a misspelt name."""
    known = Asking.__annotations__
    for word in set(asking) - set(known):
        close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise TypeError(f"no such argument: {word}{hint}")
    task_id = asking.get("task_id")
    if headers_and_ids.OWN_NAME.fullmatch(str(task_id)):
        raise InvalidMessage([f"task_id: {task_id} is a name the service gives; choose another, or none"])
    fields: dict[str, Any] = {"task_description": task_description, **asking}
    fields = {name: value for name, value in fields.items() if value is not None}
    given = fields
    constraints = {field: fields[name] for name, field in _CONSTRAINTS.items() if name in fields}
    fields = {
        "num_agents" if name == "agents" else name: value
        for name, value in fields.items()
        if name not in _CONSTRAINTS
    }
    try:
        body = to_json({**fields, "constraints": constraints})
        body.decode()
    except _UNWRITABLE:  # each alone only to name it
        unwritable = (_unwritable(name, value) for name, value in given.items())
        raise InvalidMessage(list(filter(None, unwritable))) from None
    try:
        # Through JSON, so that this client is held to exactly what a client in another language is held to.
        return decode(DeliberationRequested, body)
    except InvalidMessage as error:
        problems = [in_arguments(problem) for problem in error.problems]
    # Of a value that may have several types, each type has its problem: the closest says most.
    names = [problem.partition(":")[0] for problem in problems if not problem.endswith(_WRONG_TYPE)]
    kept = (p for p in problems if not p.endswith(_WRONG_TYPE) or p.partition(":")[0] not in names)
    raise InvalidMessage(list(dict.fromkeys(kept)))


def _unwritable(name: str, value: Any) -> str | None:
    """Why JSON cannot hold the value of this argument; None if it can."""
    try:
        to_json(value).decode()
    except _UNWRITABLE as error:
        if isinstance(error, UnicodeError) or "utf-8" in str(error) or "surrogate" in str(error):
            return f"{name}: is not UTF-8 text"
        return f"{name}: cannot be written as JSON: {str(error).removeprefix('Error calling function ')}"
    return None


def in_arguments(problem: str) -> str:
    """A problem of the request's fields, in the words of the arguments: `agents: at most 256`."""
    name, _, words = problem.partition(": ")
    parts = name.split(".")
    if parts[0] == "constraints" and len(parts) > 1:
        parts = [{"metadata": "context"}.get(parts[1], parts[1])]
    elif name.startswith("stop"):
        parts = ["stop"]
    for pattern, plain in _PLAIN:
        words = re.sub(pattern, plain, words)
    for field, argument in _ARGUMENTS.items():
        words = re.sub(rf"\b{field}\b", argument, words)
        parts = [argument if part == field else part for part in parts]
    if parts[0] in ("payload", "constraints"):  # it is about several, which it names
        return words
    return f"{'.'.join(parts)}: {words}"


def read_key(text: str) -> dict[str, str]:
    """An `answer_key` from one word: `number`, `line`, `after:ANSWER:` or `json:/answer`. Raises InvalidMessage."""
    way, _, rest = text.partition(":")
    if way in ("after", "json"):
        return {way: rest}
    if text not in ("number", "line"):
        raise InvalidMessage(["answer_key: must be number, line, after:WORDS or json:/POINTER"])
    return {"last": text}
