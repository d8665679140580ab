"""The tables of docs/contract.md, made from the models, the topology, the wire names and the error policies."""

import json
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from parley.broker.core import headers_and_ids, messages
from parley.broker.core.agent_error_table import POLICIES, Signal
from parley.broker.core.messages import ErrorType, Message, Sampling
from parley.broker.core.phase_plan import PhaseKind, Select
from parley.broker.jetstream import topology
from parley.broker.jetstream.subject_streams import stream_of

# Who publishes each subject, and what it says. Streams and retention come from the topology.
SUBJECTS: Mapping[str, tuple[str, str]] = {
    topology.REQUESTED: ("any client", "please deliberate"),
    topology.CANCEL: ("any client", "stop this deliberation"),
    topology.GET: ("any client, as request-reply", "status and results of this deliberation, please"),
    topology.SERVICE: (
        "any client, as a request with many replies",
        "each process: what it serves, and is it ready",
    ),
    topology.COMPLETED: ("service", "one of the two endings"),
    topology.FAILED: ("service", "the other ending"),
    f"{topology.TIMER}.*": ("service", "a deadline that waits (a scheduled message); `*` is the `task_id`"),
    f"{topology.DEADLINE}.*": ("the NATS scheduler", "a deadline that has come"),
    topology.AGENT_REQUESTED: ("service", "one agent's work"),
    topology.AGENT_COMPLETED: ("workers", "one agent's outcome: it answered"),
    topology.AGENT_FAILED: ("workers", "one agent's outcome: it did not"),
    topology.AGENT_CANCEL: ("service", "workers drop this deliberation's calls now"),
    topology.AGENT_RUNNING: ("service, as request-reply", "who runs a call of this deliberation answers"),
    f"{topology.DEAD_LETTER}.>": (
        "service",
        "a message that could not be used, whole; `>` is its subject ([deadletters.md](deadletters.md))",
    ),
    f"{topology.SUSPECT}.*.*.*": (
        "service",
        "how often a message (by stream, consumer, sequence) was begun and not finished, because its process ended",
    ),
    topology.limit_subject("*"): (
        "workers",
        "what each worker has of a model server's limit ([endpoints.md](endpoints.md)); only where one has a limit",
    ),
}

HEADERS: Mapping[str, tuple[str, str]] = {
    "content-type": ("every message of the service", "`application/json`"),
    "Nats-Msg-Id": ("any message in a stream", "JetStream's own de-duplication"),
    "traceparent": (
        "a request; every later message of its deliberation, and the calls to the model",
        "W3C trace context. A client may write the names of its headers in any case",
    ),
    headers_and_ids.REPLY_TO: (
        "a request",
        "subject to which the service also sends the ending, over core NATS; it must begin with one of `PARLEY_REPLY_PREFIXES`",
    ),
    headers_and_ids.SUBJECT: (
        f"an ending sent to `{headers_and_ids.REPLY_TO}`",
        "subject on which it was published",
    ),
    headers_and_ids.REASON: ("a dead letter", "why the message could not be used"),
    headers_and_ids.STREAM: ("a dead letter", "stream it came from"),
    headers_and_ids.CONSUMER: ("a dead letter", "consumer that gave up on it"),
    headers_and_ids.SEQUENCE: ("a dead letter", "its sequence in that stream"),
    headers_and_ids.DELIVERIES: ("a dead letter", "how often it was delivered"),
    headers_and_ids.STORED_AT: ("a dead letter", "when that stream stored it, RFC 3339"),
    f"{headers_and_ids.ORIGINAL}Nats-…": (
        "a dead letter",
        "a header of the message that NATS would have obeyed",
    ),
    headers_and_ids.PAYLOAD_BUCKET: (
        "a dead letter too large for its headers",
        "object store that holds the payload",
    ),
    headers_and_ids.PAYLOAD_NAME: ("a dead letter too large for its headers", "name of the object"),
    headers_and_ids.PAYLOAD_SIZE: ("a dead letter too large for its headers", "its size in bytes"),
}

# Whose values are told where a field has one of them.
ENUMS: Mapping[str, type[StrEnum]] = {kind.__name__: kind for kind in (Select, PhaseKind)}

SIGNALS: Mapping[Signal, str] = {
    Signal.ALIVE: "alive",
    Signal.DEAD: "failure",
    Signal.AMBIGUOUS: "failure, counted once a deliberation",
    Signal.SLOW: "alive",
    Signal.IGNORED: "nothing",
}


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


# ── subjects, streams, consumers ──────────────────────────────────────────────────────────────────────────────────


def subjects() -> str:
    rows = []
    for subject, (publisher, meaning) in SUBJECTS.items():
        stream = stream_of(subject)
        rows.append((f"`{subject}`", publisher, f"`{stream}`" if stream else "none (core NATS)", meaning))
    return _table(("subject", "published by", "stream", "meaning"), rows)


def streams() -> str:
    rows = []
    for stream in topology.streams(limits=True):
        retention = stream.retention.value if stream.retention else "limits"
        window = stream.duplicate_window or topology.WORK_DUPLICATE_SECONDS
        rows.append(
            (
                f"`{stream.name}`",
                ", ".join(f"`{subject}`" for subject in stream.subjects or ()),
                retention,
                _duration(stream.max_age or 0),
                _duration(window),
            )
        )
    return _table(
        ("stream", "subjects", "retention", "keeps messages for", "remembers a `Nats-Msg-Id` for"), rows
    )


def consumers() -> str:
    return _table(
        ("consumer", "stream", "subject", "unacknowledged messages come again after"),
        (
            (
                f"`{durable.name}`",
                f"`{durable.stream}`",
                f"`{durable.filter}`",
                _duration(durable.ack_wait_seconds)
                if durable.ack_wait_seconds
                else f"`PARLEY_ACK_WAIT_SECONDS` ({_duration(topology.ACK_WAIT_SECONDS)})",
            )
            for durable in topology.DURABLES
        ),
    )


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"


# ── payloads ──────────────────────────────────────────────────────────────────────────────────────────────────────


def requests() -> str:
    asked = (
        messages.DeliberationRequested,
        messages.Constraints,
        messages.Member,
        messages.AnswerKey,
        messages.DeliberationCancel,
        messages.DeliberationGet,
    )
    return "\n\n".join(_section(model, received=True) for model in asked)


def endings() -> str:
    parts = (
        messages.AgentResult,
        messages.Proposal,
        messages.FailedAgent,
        messages.ToolCall,
        messages.ResultsRef,
    )
    choice = (
        messages.Selection, messages.CastBallot, messages.Synthesis, messages.Dissent, messages.DegradedReason, messages.PhaseReport,
        messages.Cost,
    )  # fmt: skip
    return "\n\n".join(
        _section(model)
        for model in (messages.DeliberationCompleted, messages.DeliberationFailed, *parts, *choice)
    )


def status() -> str:
    return _section(messages.DeliberationStatus)


def service() -> str:
    return _section(messages.ServiceProcess)


def outcomes() -> str:
    return "\n\n".join(
        _section(model)
        for model in (messages.AgentCompleted, messages.AgentFailed, messages.Ballot, messages.Usage)
    )


def work() -> str:
    return "\n\n".join(
        _section(model)
        for model in (
            messages.AgentRequested,
            messages.Candidate,
            messages.AgentCancel,
            messages.AgentRunning,
        )
    )


def _section(model: type[Message], *, received: bool = False) -> str:
    """A heading, the model's own words, and a row for each field. `received`: the sender may leave fields out."""
    schema = model.model_json_schema()
    properties, required = schema["properties"], schema.get("required", [])
    inherited = set(Sampling.model_fields) if issubclass(model, Sampling) else set()
    fields = sorted(properties, key=lambda name: name in inherited)
    rows = []
    for name in fields:
        shown = properties[name]
        row = [f"`{name}`", _type(shown)]
        if received:
            row.append("required" if name in required else _default(shown, model, name))
        rows.append([*row, str(shown["description"])])
    head = ("field", "type", "default", "meaning") if received else ("field", "type", "meaning")
    return f"### {model.__name__}\n\n{schema['description']}\n\n{_table(head, rows)}"


def _default(shown: Mapping[str, Any], model: type[Message], name: str) -> str:
    if shown.get("default") is None or ("$ref" in shown and _named(shown) not in ENUMS):
        field = model.model_fields.get(name)  # not under its alias
        return "`{}`" if field is not None and field.default is not None else ""
    return f"`{json.dumps(shown['default'])}`"


def _named(shown: Mapping[str, Any]) -> str:
    """The name of what a schema refers to."""
    return str(shown.get("$ref", "")).rpartition("/")[2]


# Any: JSON schema is untyped JSON.
def _type(shown: Mapping[str, Any]) -> str:  # one row for each kind of schema
    """A JSON schema in a few words, bounds included."""
    match shown:
        case {"$ref": reference}:
            name = str(reference).rpartition("/")[2]
            if name in ENUMS:
                return ", ".join(f'`"{value.value}"`' for value in ENUMS[name])
            return (
                "[`error_type`](#error_type)" if name == ErrorType.__name__ else f"[{name}](#{name.lower()})"
            )
        case {"anyOf": kinds}:
            return " or ".join(_type(kind) for kind in kinds)
        case {"const": value}:
            return f'`"{value}"`'
        case {"enum": values}:
            return ", ".join(f'`"{value}"`' for value in values)
        case {"type": "array", "items": items}:
            return f"list of {_type(items)}" + (
                f", at most {shown['maxItems']}" if "maxItems" in shown else ""
            )
        case {"type": "object", "additionalProperties": {"type": "string"}}:
            return "object of strings"
        case {"type": "string", "pattern": pattern}:
            return f"string `{str(pattern).strip('^$')}`"
        case {"type": "string"}:
            return "string" + _range(shown.get("minLength"), shown.get("maxLength"), " characters")
        case {"type": "integer" | "number" as kind}:
            most = shown.get(
                "maximum", shown["exclusiveMaximum"] - 1 if "exclusiveMaximum" in shown else None
            )
            return str(kind) + _range(shown.get("minimum"), most)
        case {"type": kind}:
            return str(kind)
    return "any JSON"


def _range(least: float | None, most: float | None, unit: str = "") -> str:
    if least == -messages.MAX_FIGURE or (least is None and most is None):
        return ""  # a bound that no sender meets
    if (least, most, unit) == (1, None, " characters"):
        return " (not empty)"
    if most is None:
        return f" (at least {_number(least)}{unit})"
    return (
        f" ({_number(least)} to {_number(most)}{unit})"
        if least is not None
        else f" (at most {_number(most)}{unit})"
    )


def _number(value: float | None) -> str:
    if value in (-(2**63), 2**63 - 1):
        return "-2^63" if value == -(2**63) else "2^63 - 1"
    return f"{value:,g}" if isinstance(value, float) else f"{value:,}"


# ── headers, Msg-Ids, errors ──────────────────────────────────────────────────────────────────────────────────────


def headers() -> str:
    return _table(
        ("header", "on", "meaning"), ((f"`{name}`", place, text) for name, (place, text) in HEADERS.items())
    )


def msg_ids() -> str:
    return _table(
        ("message", "`Nats-Msg-Id`, for example", "made of"),
        (
            ("an ending", f"`{headers_and_ids.ending_msg_id('t-1')}`", "`task_id`"),
            (
                "one agent's outcome",
                f"`{headers_and_ids.outcome_msg_id('t-1', 'agent-dev-001', 1)}`",
                "`task_id`, `agent_id`, round",
            ),
            (
                "one agent's work",
                f"`{headers_and_ids.work_msg_id('t-1', 'agent-dev-001', 1, 7)}`",
                "the same, and the request's place in the stream",
            ),
            (
                "one judge's outcome",
                f"`{headers_and_ids.outcome_msg_id('t-1', 'judge-001', 1, PhaseKind.JUDGE)}`",
                "`task_id`, `agent_id`, round, phase; its work likewise",
            ),
        ),
    )


def errors() -> str:
    rows = []
    for kind, policy in POLICIES.items():
        note = policy.retry_note
        retried = ("yes" if policy.retried else "no") + (f", {note}" if note else "")
        acts = str(policy.acts) + ("; `/readyz` fails meanwhile" if policy.final else "")
        rows.append((f"`{kind}`", policy.meaning, retried, SIGNALS[policy.signal], acts))
    return _table(("value", "what happened", "retried", "says of the endpoint", "who acts"), rows)
