"""What travels over gRPC, to and from what Parley knows. Pure, but for the clock in `about`."""

import json
import time
from functools import cache
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, cast

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet
from google.rpc import error_details_pb2, status_pb2

from parley.broker.core.errors import InvalidMessage
from parley.broker.core.messages import AgentResult, DeliberationFailed, DeliberationStatus, Ending
from parley.broker.core.timestamps import parse_timestamp
from parley.gateway.caller import status_word
from parley.gateway.grpc_stubs import orchestrator_pb2 as pb
from parley.gateway.problems import Problem, invalid
from parley.job_events import AgentAnswered, Ended, JobEvent, PhaseOpened

KEY_NAME = "idempotency_key"
PREFIX = "DELIBERATION_STATUS_"
# Not fields of a request.
_OF_THE_CALL = (KEY_NAME, "request_json")
# What the list's parameters are called here, where that differs.
_NAMES = {"after": "page_token"}
_CODES = {
    HTTPStatus.BAD_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    HTTPStatus.UNAUTHORIZED: grpc.StatusCode.UNAUTHENTICATED,
    HTTPStatus.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    HTTPStatus.CONFLICT: grpc.StatusCode.FAILED_PRECONDITION,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: grpc.StatusCode.INVALID_ARGUMENT,
    HTTPStatus.UNPROCESSABLE_ENTITY: grpc.StatusCode.INVALID_ARGUMENT,
    HTTPStatus.TOO_MANY_REQUESTS: grpc.StatusCode.RESOURCE_EXHAUSTED,
    HTTPStatus.SERVICE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
}
# Clients take 8 KiB of trailing metadata; these are written twice there, once percent-encoded.
_MAX_DETAIL, _MAX_FIELD_WORDS, _MAX_FIELDS = 500, 150, 8


# ── requests ──────────────────────────────────────────────────────────────────────────────────────────────────────


def body_of_question(request: pb.DeliberateRequest) -> bytes:
    """The request as JSON of the contract. Raises InvalidMessage."""
    _check_known(request, "")
    _check_known(request.constraints, "constraints.")
    fields = _given(request)
    more = _read_json(request.request_json) if request.request_json else {}
    if twice := sorted(fields.keys() & more.keys()):
        raise InvalidMessage([f"{name}: given here and in request_json" for name in twice])
    return json.dumps({**fields, **more}).encode()


def _given(message: Message) -> dict[str, Any]:
    """The fields that are not empty, as JSON has them."""
    found: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.name in _OF_THE_CALL:
            continue
        if isinstance(value, Message):
            found[field.name] = _given(value)
        elif field.is_repeated:
            found[field.name] = dict(value) if hasattr(value, "items") else list(value)
        else:
            found[field.name] = value
    return found


def _check_known(message: Message, where: str) -> None:
    # gRPC's custom is to pass over them. A question whose `select` is passed over would be another question.
    unknown: Any = UnknownFieldSet(message)  # its types leave out that it is a sequence
    numbers = sorted({field.field_number for field in unknown})
    if numbers:
        raise InvalidMessage([f"{where}{number}: no field has this number here" for number in numbers[:20]])


def _read_json(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InvalidMessage(["request_json: is no JSON object"])
    return found


def query_of_list(request: pb.ListDeliberationsRequest) -> list[tuple[str, str]]:
    """The parameters of `GET /v1/deliberations` that ask for the same."""
    query = [("status", _status_name(number)) for number in request.status]
    query += [(f"metadata.{key}", value) for key, value in request.metadata.items()]
    named = {
        "role": request.role, "since": request.since, "after": request.page_token,
        "limit": str(request.limit) if request.limit else "",
    }  # fmt: skip
    return query + [(name, value) for name, value in named.items() if value]


def _status_name(number: int) -> str:
    known = pb.DeliberationStatus.DESCRIPTOR.values_by_number.get(number)
    return known.name.removeprefix(PREFIX) if known is not None else str(number)


def renamed(problem: Problem) -> Problem:
    """A problem of the list's parameters, under the names that they have here."""
    return invalid([f"{_NAMES.get(name, name)}: {words}" for name, words in problem.fields])


# ── answers ───────────────────────────────────────────────────────────────────────────────────────────────────────


def of_status(status: DeliberationStatus) -> pb.GetDeliberationResultResponse:
    return pb.GetDeliberationResultResponse(
        task_id=status.task_id, status=number_of(status.status), results=[of_result(each) for each in status.results],
        winner_id=status.winner_id or "", duration_ms=status.duration_ms, error_message=status.error_message,
        metadata=about(status.metadata), total_agents=status.total_agents, received_count=status.received_count,
        failed_count=status.failed_count,
    )  # fmt: skip


def of_ending(ending: Ending, *, with_json: bool) -> pb.GetDeliberationResultResponse:
    told = pb.GetDeliberationResultResponse(
        task_id=ending.task_id, status=number_of(status_word(ending)),
        results=[of_result(each) for each in ending.results], duration_ms=ending.duration_ms,
        metadata=about(ending.metadata), answer=ending.answer or "", total_agents=ending.total_agents,
        received_count=ending.successful_responses, failed_count=ending.failed_responses,
        ending_json=ending.model_dump_json().encode() if with_json else b"",
    )  # fmt: skip
    if isinstance(ending, DeliberationFailed):
        told.error_message = ending.error
    else:
        told.winner_id, told.degraded = ending.winner_id or "", ending.degraded
    return told


def of_result(result: AgentResult) -> pb.DeliberationResult:
    proposal = result.proposal
    return pb.DeliberationResult(
        proposal=pb.Proposal(
            author_id=proposal.author_id, author_role=proposal.author_role, content=proposal.content,
            created_at_ms=int(1000 * parse_timestamp(result.timestamp)),
        ),
        agent_id=result.agent_id, model=proposal.model or "", finish_reason=result.finish_reason, round=result.round,
        duration_ms=result.duration_ms, total_tokens=result.usage.total_tokens, attempts=result.attempts,
    )  # fmt: skip


def of_event(event: JobEvent, *, with_json: bool) -> pb.DeliberationEvent:
    told = pb.DeliberationEvent(id=event.id, type=event.type, task_id=event.task_id)
    if isinstance(event, Ended):
        told.ending.CopyFrom(of_ending(event.ending, with_json=with_json))
        return told
    told.phase, told.round = event.phase, event.round
    if isinstance(event, PhaseOpened):
        told.agents.extend(event.agents)
        told.limit = event.limit
        return told
    told.agent_id = event.agent_id
    if isinstance(event, AgentAnswered):
        told.kept = event.kept
        if event.result is not None:
            told.result.CopyFrom(of_result(event.result))
    return told


def of_page(page: dict[str, Any]) -> pb.ListDeliberationsResponse:
    lines = [
        pb.DeliberationSummary(**{**line, "status": number_of(line["status"])})
        for line in page["deliberations"]
    ]
    return pb.ListDeliberationsResponse(deliberations=lines, next_page_token=page["next"] or "")


def number_of(word: str) -> pb.DeliberationStatus:
    number: Any = pb.DeliberationStatus.Value(PREFIX + word)  # an int that its types do not take for a status
    return cast("pb.DeliberationStatus", number)


def about(metadata: dict[str, str]) -> pb.OrchestratorMetadata:
    return pb.OrchestratorMetadata(
        orchestrator_version=_version(), timestamp_ms=time.time_ns() // 1_000_000, tags=metadata
    )


@cache
def _version() -> str:
    return version("parley-queue")


# ── errors ────────────────────────────────────────────────────────────────────────────────────────────────────────


def code_of(problem: Problem) -> grpc.StatusCode:
    if problem.status is HTTPStatus.CONFLICT and problem.fields:  # the key is another question's
        return grpc.StatusCode.ALREADY_EXISTS
    return _CODES.get(problem.status, grpc.StatusCode.INTERNAL)


def detail_of(problem: Problem) -> str:
    return problem.detail[:_MAX_DETAIL]


def trailing_metadata(problem: Problem) -> tuple[tuple[str, bytes], ...]:
    """google.rpc.Status: which fields are wrong, and after how long to try again."""
    details: list[Message] = []
    if problem.fields:
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(
                        field=name[:_MAX_FIELD_WORDS], description=words[:_MAX_FIELD_WORDS]
                    )
                    for name, words in problem.fields[:_MAX_FIELDS]
                ]
            )
        )
    if problem.retry_seconds is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(max(1, round(1000 * problem.retry_seconds)))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    # Any grpc.StatusCode is (number, words).
    told = status_pb2.Status(code=code_of(problem).value[0], message=detail_of(problem))
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        told.details.append(packed)
    return (("grpc-status-details-bin", told.SerializeToString()),)
