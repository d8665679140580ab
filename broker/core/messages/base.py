"""What all payloads share: their bounds, the types of their fields, how they are read, and how a bad one is described.

Inbound payloads are read strictly (a string is not a number) and unknown fields are ignored. A bad payload raises one
`InvalidMessage` that names each bad field and quotes none of them: prompts do not belong in logs.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, StringConstraints, ValidationError
from pydantic_core import to_json

from parley.broker.core.errors import InvalidMessage
from parley.broker.core.frozen_models import with_shared_names
from parley.broker.core.messages.null_fields import refused_for_null, without_nulls
from parley.broker.core.timestamps import parse_timestamp

KIB = 1024

# Bounds of the contract. A deployment may lower some of them through settings (`Bounds`), never raise them.
MAX_DESCRIPTION_BYTES = 256 * KIB
MAX_SYSTEM_BYTES = 64 * KIB
MAX_PANEL_BYTES = 128 * KIB
MAX_CONSTRAINTS_BYTES = 64 * KIB
MAX_METADATA_BYTES = 16 * KIB
MAX_EXTRA_BYTES = 16 * KIB
MAX_RESPONSE_FORMAT_BYTES = 64 * KIB
MAX_AGENTS = 256
MAX_ROUNDS = 5
MIN_TIMEOUT_SECONDS = 0.1
MAX_TIMEOUT_SECONDS = 86_400.0
# OpenAI's chat API takes at most four stop sequences.
MAX_STOP_SEQUENCES = 4
# Longer than any context window on sale. A typing error must not become an integer overflow in a model server.
MAX_MAX_TOKENS = 10_000_000
# One line of problems is enough to act on. A hostile payload could otherwise make the service write thousands.
MAX_REPORTED_PROBLEMS = 8
MAX_REASON_CHARACTERS = 1_000
# More problems are only counted: to describe 80,000 took 0.2 s of the event loop's time (measured).
MAX_DESCRIBED_PROBLEMS = 4_096
# The largest integer that every language reads exactly from JSON. A larger one does not fit a metric's float.
MAX_FIGURE = 2**53

# A JSON string may write one byte of text in six: `\u0007`, `\u0041`.
JSON_BYTES_A_BYTE = 6
# Larger than any valid request, however its sender writes JSON: what can be long in it, each byte written in six, and
# the other fields. A body is measured before it is read: servers with a max_payload of 64 MB exist.
MAX_REQUEST_BYTES = (
    JSON_BYTES_A_BYTE
    * (
        MAX_DESCRIPTION_BYTES
        + MAX_SYSTEM_BYTES
        + MAX_PANEL_BYTES
        + MAX_CONSTRAINTS_BYTES
        + MAX_METADATA_BYTES
        + MAX_EXTRA_BYTES
        + MAX_RESPONSE_FORMAT_BYTES
    )
    + 32 * KIB
)
# Lists and objects in a request, of which the largest conversation and schema together have half. Python's collector of
# garbage goes through all of them again and again while they are made: 330,000, in a field whose size is looked at
# afterwards, took 0.2 s (measured).
MAX_REQUEST_CONTAINERS = 32 * KIB
# One agent's work adds instants and names to the request.
MAX_WORK_BYTES = MAX_REQUEST_BYTES + 4 * KIB
# A model's answer, as long as a worker accepts one (`MAX_ANSWER_BYTES` of `workers/model/responses.py`), each byte
# written in six, and the other fields.
MAX_OUTCOME_BYTES = JSON_BYTES_A_BYTE * (4 * KIB * KIB + MAX_METADATA_BYTES) + 64 * KIB
# A name, and at most a reason of MAX_REASON_CHARACTERS, each written in twelve bytes (`\ud83d\ude00`).
MAX_SMALL_BYTES = 16 * KIB
# The shortest entry of metadata, `"":"",`, takes six bytes; the shortest requirement, `"",`, three.
MAX_METADATA_ENTRIES = MAX_METADATA_BYTES // 6 + 1
MAX_REQUIREMENTS = MAX_CONSTRAINTS_BYTES // 3

TASK_ID_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"

TaskId = Annotated[str, StringConstraints(pattern=TASK_ID_PATTERN)]
Role = Annotated[
    str,
    BeforeValidator(lambda role: role.upper() if isinstance(role, str) else role),
    StringConstraints(pattern=r"^[A-Z][A-Z0-9_]{0,31}$"),
]
TimeoutSeconds = Annotated[float, Field(ge=MIN_TIMEOUT_SECONDS, le=MAX_TIMEOUT_SECONDS, allow_inf_nan=False)]
ModelName = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Temperature = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]
MaxTokens = Annotated[int, Field(ge=1, le=MAX_MAX_TOKENS)]
Figure = Annotated[int, Field(ge=-MAX_FIGURE, le=MAX_FIGURE)]
# `agent_id()` makes them of a role (at most 32 characters) and a number. An agent_id becomes part of a header.
AgentId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


def _readable(timestamp: str) -> str:
    try:
        parse_timestamp(timestamp)
    except (ValueError, OverflowError):
        raise ValueError("is no instant as RFC 3339 writes it") from None
    return timestamp


def _at_most(limit: int) -> AfterValidator:
    """Of a text: so many bytes as UTF-8."""

    def fits(text: str) -> str:
        size = len(text.encode())
        if size > limit:
            raise ValueError(f"is {size} bytes, more than {limit}")
        return text

    return AfterValidator(fits)


Description = Annotated[str, StringConstraints(min_length=1), _at_most(MAX_DESCRIPTION_BYTES)]
SystemWords = Annotated[str, StringConstraints(min_length=1), _at_most(MAX_SYSTEM_BYTES)]

# RFC 3339 with nanoseconds and an offset needs 35 characters.
Instant = Annotated[str, StringConstraints(max_length=40), AfterValidator(_readable)]


class Message(BaseModel, frozen=True, strict=True, extra="ignore"):
    """A frozen payload. Outbound JSON carries every field; inbound JSON may carry more."""

    # The longest body that `decode` reads. None: any.
    max_body_bytes: ClassVar[int | None] = None
    # The most lists and objects in a body that `decode` reads. None: any.
    max_containers: ClassVar[int | None] = None

    def encode(self) -> bytes:
        # As `model_dump_json().encode()`, without a text between.
        return self.__pydantic_serializer__.to_json(self)


AnyMessage = TypeVar("AnyMessage", bound=Message)


def decode(kind: type[AnyMessage], body: bytes) -> AnyMessage:
    """Read `body` as `kind`. Raises InvalidMessage naming each bad field."""
    if kind.max_body_bytes is not None and len(body) > kind.max_body_bytes:
        raise InvalidMessage([f"payload: is {len(body)} bytes, more than {kind.max_body_bytes}"])
    if kind.max_containers is not None and (found := _containers(body)) > kind.max_containers:
        raise InvalidMessage([f"payload: has {found} lists and objects, more than {kind.max_containers}"])
    return with_shared_names(validated(kind.model_validate_json, (kind,), body))


def _containers(body: bytes) -> int:
    """Lists and objects in this JSON. What stands in its texts counts too, unless these are many together."""
    most = body.count(b"[") + body.count(b"{")
    if most <= MAX_REQUEST_CONTAINERS:
        return most
    plain = b"".join(body.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')[::2])
    return plain.count(b"[") + plain.count(b"{")


def validated(
    validate: Callable[[bytes], AnyMessage], kinds: Sequence[type[Message]], body: bytes
) -> AnyMessage:
    """What `validate` makes of `body`, whose fields are those of `kinds`; a `null` counts as not given.

    Raises InvalidMessage naming each bad field.
    """
    try:
        return validate(body)
    except ValidationError as error:
        problems, has_null = describe(error), refused_for_null(error)
    if has_null:
        for kind in kinds:
            body = without_nulls(kind, body)
        try:
            return validate(body)
        except ValidationError as error:
            problems = describe(error)
    # Raised out here: within `except` pydantic's error, with all it found in the body, would live on as the context of
    # this one, for as long as the refusal takes (measured: 23 MiB each).
    raise InvalidMessage(problems)


def describe(error: ValidationError) -> list[str]:
    """Each problem in one line that names the field and does not quote the input."""
    if error.error_count() > MAX_DESCRIBED_PROBLEMS:
        return [f"payload: has {error.error_count()} problems"]
    details = error.errors(include_input=False, include_url=False, include_context=False)
    # A list whose only item is wrong is told to be too short as well.
    inner = {detail["loc"][:-1] for detail in details} | {detail["loc"][:-2] for detail in details}
    details = [one for one in details if one["type"] != "too_short" or one["loc"] not in inner]
    problems = [
        f"{_where(detail['loc'])}: {_UNQUOTED.get(detail['type'], detail['msg']).removeprefix(_NAME_OF_OURS)}"
        for detail in details[:MAX_REPORTED_PROBLEMS]
    ]
    if len(details) > MAX_REPORTED_PROBLEMS:
        problems.append(f"and {len(details) - MAX_REPORTED_PROBLEMS} more")
    return problems


# Below these fields the sender chooses the names, of any length. A problem there is described without them.
_FREE = {"metadata": "metadata.*", "rubric": "rubric"}
# pydantic's own words for these quote the input.
_UNQUOTED = {"union_tag_invalid": "status is none that an ending can have"}
# pydantic puts this before the words of a check that is ours.
_NAME_OF_OURS = "Value error, "


def _where(location: Sequence[int | str]) -> str:
    named = [str(part) for part in location]
    for place, part in enumerate(named[:-1]):
        if part in _FREE:
            named[place:] = [_FREE[part]]
            break
    return ".".join(named) or "payload"


def check_size(value: Any, limit: int, name: str) -> None:
    """Raises ValueError if `value` is more than `limit` bytes as JSON. Any: every JSON value."""
    size = len(to_json(value))
    if size > limit:
        raise ValueError(f"{name} is {size} bytes as JSON, more than {limit}")


def _metadata_fits(metadata: Any) -> Any:
    # Before its values are looked at: a problem of each of 80,000 takes a second to note and 20 MiB to keep.
    if isinstance(metadata, dict) and metadata:
        if len(metadata) > MAX_METADATA_ENTRIES:
            raise ValueError(f"metadata has {len(metadata)} entries, more than {MAX_METADATA_ENTRIES}")
        check_size(metadata, MAX_METADATA_BYTES, "metadata")
    return metadata


Metadata = Annotated[dict[str, str], BeforeValidator(_metadata_fits)]
