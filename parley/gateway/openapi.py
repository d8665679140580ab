"""The OpenAPI 3.1 document of the gateway, from the messages' own descriptions. Pure."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel, Field, TypeAdapter

from parley.broker.core.messages import DeliberationCompleted, DeliberationFailed, DeliberationRequested
from parley.job_events import JobEvent

_REFS = "#/components/schemas/{model}"
_PROBLEM: dict[str, Any] = {
    "type": "object",
    "description": "An error, as RFC 9457 has them.",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"}, "title": {"type": "string"}, "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What is wrong, and what to do."},
        "errors": {
            "type": "array", "description": "Each field that is wrong.",
            "items": {"type": "object", "required": ["field", "message"],
                      "properties": {"field": {"type": "string"}, "message": {"type": "string"}}},
        },
    },
}  # fmt: skip


class Links(BaseModel):
    self: str = Field(description="Where this deliberation is.")
    events: str = Field(description="Where its events are.")


class Deliberation(BaseModel):
    """A deliberation: how it is doing, and its ending."""

    task_id: str = Field(description="Its name.")
    status: str = Field(description="`PENDING`, `IN_PROGRESS`, `COMPLETED`, `FAILED` or `TIMEOUT`.")
    answer: str | None = Field(description="The words of the answer that was chosen; null where none is.")
    ending: DeliberationCompleted | DeliberationFailed | None = Field(description="Once it has ended.")
    links: Links = Field(description="Where more is.")
    phase: str = Field("", description="The kind of the current phase, with `select` or `rounds`.")
    limit: str = Field("", description="When that phase closes, RFC 3339.")
    total_agents: int = Field(0, description="Agents that were asked.")
    received_count: int = Field(0, description="Agents that have answered.")
    failed_count: int = Field(0, description="Agents that have failed.")
    metadata: dict[str, str] = Field(default_factory=dict, description="The request's own.")
    error_message: str = Field("", description="Why its status is as it is.")


class DeliberationLine(BaseModel):
    """A deliberation in a list."""

    task_id: str = Field(description="Its name.")
    status: str = Field(description="As of a deliberation.")
    role: str = Field(description="The role of its agents.")
    select: str = Field(description="How its winner is chosen.")
    accepted_at: str = Field(description="When its question was stored, RFC 3339.")
    total_agents: int = Field(description="Agents that were asked.")
    received_count: int = Field(description="Agents that have answered.")
    metadata: dict[str, str] = Field(description="The request's own.")


class DeliberationPage(BaseModel):
    """A page of a list, the newest first."""

    deliberations: list[DeliberationLine] = Field(description="At most `limit`.")
    next: str | None = Field(description="The `after` of the next page; null on the last.")


def document() -> dict[str, Any]:
    schemas: dict[str, Any] = {"Problem": _PROBLEM}
    for name, adapter in _SHOWN.items():
        schema = adapter.json_schema(
            ref_template=_REFS, mode="validation" if name in _ASKED else "serialization"
        )
        schemas |= schema.pop("$defs", {})
        schemas[name] = schema
    schemas["DeliberationRequested"]["properties"].pop("task_id", None)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Parley gateway",
            "version": version("parley-queue"),
            "summary": "Questions that several language-model agents answer together.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"token": []}],
        "paths": _paths(),
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


_ASKED = frozenset({"DeliberationRequested"})
_SHOWN: Mapping[str, TypeAdapter[Any]] = {
    "DeliberationRequested": TypeAdapter(DeliberationRequested),
    "Deliberation": TypeAdapter(Deliberation),
    "DeliberationPage": TypeAdapter(DeliberationPage),
    "JobEvent": TypeAdapter(JobEvent),
}


def _paths() -> dict[str, Any]:
    one, every = "/v1/deliberations/{task_id}", "/v1/deliberations"
    named = _parameter("task_id", "path", "The deliberation.", required=True)
    wait = _parameter("wait", "query", "Seconds to wait for the ending, at most 60.", kind="number")
    key = _parameter(
        "Idempotency-Key", "header", "The same key twice is one deliberation. At most 255 characters."
    )
    prefer = _parameter("Prefer", "header", "`handling=lenient`: unknown fields are passed over.")
    return {
        every: {
            "post": _operation(
                "ask", "Store a question.", {"202": "Deliberation", "200": "Deliberation"}, [wait, key, prefer],
                body="DeliberationRequested", problems=("400", "401", "409", "413", "415", "422", "429", "503"),
            ),
            "get": _operation(
                "list", "What is remembered, the newest first.", {"200": "DeliberationPage"},
                [
                    _parameter("status", "query", "One status or several, comma-separated."),
                    _parameter("role", "query", "Of its agents."),
                    _parameter("since", "query", "Asked for at or after this, RFC 3339."),
                    _parameter("limit", "query", "At most so many, 1 to 200. Default 50.", kind="integer"),
                    _parameter("after", "query", "The `next` of the page before."),
                ],
            ),
        },
        one: {
            "parameters": [named],
            "get": _operation(
                "look", "How it is doing, and its ending.", {"200": "Deliberation", "202": "Deliberation"}, [wait],
                problems=("401", "404", "422", "429", "503"),
            ),
            "delete": _operation(
                "cancel", "Ask for it to be stopped.", {"202": "Deliberation"},
                [_parameter("reason", "query", "Recorded in its ending.")], problems=("401", "404", "409", "422", "503"),
            ),
        },
        f"{one}/events": {
            "parameters": [named],
            "get": {
                "operationId": "events",
                "summary": "What happens in it, as server-sent events; its ending is the last.",
                "parameters": [_parameter("Last-Event-ID", "header", "Go on behind this event.")],
                "responses": {
                    "200": {
                        "description": "Each event's data is a JobEvent.",
                        "content": {"text/event-stream": {"schema": {"type": "string"}}},
                    },
                    "204": {"description": "Nothing follows this event."},
                    **_problems(("401", "404", "422", "503")),
                },
            },
        },
        f"{one}/rerun": {
            "parameters": [named],
            "post": _operation(
                "rerun", "Ask the same question again.", {"202": "Deliberation", "200": "Deliberation"}, [wait],
                problems=("401", "404", "410", "422", "429", "503"),
            ),
        },
    }  # fmt: skip


def _parameter(
    name: str, where: str, words: str, *, kind: str = "string", required: bool = False
) -> dict[str, Any]:
    return {
        "name": name, "in": where, "description": words, "required": required, "schema": {"type": kind},
    }  # fmt: skip


def _operation(
    name: str,
    summary: str,
    answers: Mapping[str, str],
    parameters: list[dict[str, Any]],
    *,
    body: str | None = None,
    problems: tuple[str, ...] = ("401", "422", "429", "503"),
) -> dict[str, Any]:
    told = {
        status: {"description": summary, "content": {"application/json": {"schema": _ref(schema)}}}
        for status, schema in answers.items()
    }
    found: dict[str, Any] = {
        "operationId": name, "summary": summary, "parameters": parameters, "responses": {**told, **_problems(problems)},
    }  # fmt: skip
    if body is not None:
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": _ref(body)}}}
    return found


def _problems(statuses: tuple[str, ...]) -> dict[str, Any]:
    content = {"application/problem+json": {"schema": _ref("Problem")}}
    return {status: {"description": "A problem.", "content": content} for status in statuses}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": _REFS.format(model=name)}
