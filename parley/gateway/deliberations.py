"""Ask, look, cancel, list, ask again: `/v1/deliberations`."""

import contextlib
import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from parley.broker.core.messages import (
    DeliberationFailed,
    DeliberationRequested,
    DeliberationStatus,
    Ending,
    decode,
)
from parley.broker.core.states_and_moves import ENDED_STATUSES
from parley.gateway.caller import (
    MAX_WAIT_SECONDS,
    Caller,
    ending_within,
    known,
    status_word,
    stop,
)
from parley.gateway.listing import Listing, Sought
from parley.gateway.problems import Problem, invalid
from parley.gateway.question import named, question_of
from parley.job import Job

PATH = "/v1/deliberations"
# What a caller sends under this name.
KEY_NAME = "Idempotency-Key"


def caller_of(request: Request) -> Caller:
    """Set by the application, which lets nobody else in."""
    caller: Caller = request.scope["parley.caller"]
    return caller


async def ask(request: Request) -> Response:
    """Store a question. 202 at once; with `?wait=` the ending, if it comes in time."""
    caller = caller_of(request)
    wait = wait_seconds(request)
    asked = await read_question(request, caller)
    job = await caller.submit(asked)
    # Under a key that was used before it may have ended.
    return await _answer(caller, job, wait, just_asked="idempotency-key" not in request.headers)


async def look(request: Request) -> Response:
    """How it is doing, and its ending. With `?wait=` it waits for that."""
    caller = caller_of(request)
    return await _answer(caller, caller.job(request.path_params["task_id"]), wait_seconds(request))


async def cancel(request: Request) -> Response:
    """Ask for it to be stopped; `?reason=`. 202: its ending says whether it was."""
    caller = caller_of(request)
    job = caller.job(request.path_params["task_id"])
    status = await stop(job, request.query_params.get("reason"))
    return _json(HTTPStatus.ACCEPTED, {"task_id": job.task_id, "status": status.status})


async def list_(request: Request) -> Response:
    """A page of what is remembered, the newest first."""
    caller = caller_of(request)
    listing: Listing = request.app.state.listing
    page = await listing.page(Sought.of(request.query_params.multi_items(), caller.tenant))
    return _json(HTTPStatus.OK, page)


async def ask_again(request: Request) -> Response:
    """Ask the same question once more, as another deliberation."""
    caller = caller_of(request)
    wait = wait_seconds(request)
    job = caller.job(request.path_params["task_id"])
    await known(job)
    body = await caller.client.request_of(job.task_id)
    if body is None:
        raise Problem(HTTPStatus.GONE, f"{job.task_id}: its question is no longer stored")
    fields = {name: value for name, value in json.loads(body).items() if name != "task_id"}
    again = decode(DeliberationRequested, json.dumps(fields).encode())
    return await _answer(caller, await caller.submit(named(again, caller, None)), wait, just_asked=True)


# ── the question ──────────────────────────────────────────────────────────────────────────────────────────────────


async def read_question(request: Request, caller: Caller) -> DeliberationRequested:
    """The question in the body. Raises Problem that names each field."""
    check_type(request)
    body = await request.body()
    lenient = "handling=lenient" in request.headers.get("prefer", "").replace(" ", "")
    key = request.headers.get("idempotency-key")
    return await question_of(caller, body, key, key_name=KEY_NAME, lenient=lenient)


def check_type(request: Request) -> None:
    """Raises Problem for a body that is no JSON by its own words."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send the body as content-type: application/json")


def wait_seconds(request: Request) -> float:
    """`?wait=`: 0 to 60 seconds. Raises Problem for anything else."""
    text = request.query_params.get("wait")
    if text is None:
        return 0.0
    with contextlib.suppress(ValueError):
        if 0 <= (seconds := float(text)) <= MAX_WAIT_SECONDS:
            return seconds
    raise invalid([f"wait: 0 to {MAX_WAIT_SECONDS:g} seconds"])


# ── the answer ────────────────────────────────────────────────────────────────────────────────────────────────────


async def _answer(caller: Caller, job: Job, wait: float, *, just_asked: bool = False) -> Response:
    ending = await ending_within(job, wait) if wait else None
    if ending is None:
        if just_asked:
            return told(HTTPStatus.ACCEPTED, _status(job.task_id, "PENDING"))
        status = await known(job)
        if status.status not in ENDED_STATUSES:
            return told(HTTPStatus.ACCEPTED if wait else HTTPStatus.OK, _under_way(status))
        ending = await caller.client.find(job.task_id)
        if ending is None:
            return told(HTTPStatus.OK, _under_way(status))
    return told(HTTPStatus.OK, ended(ending))


def ended(ending: Ending) -> dict[str, Any]:
    """What is told of one that has ended."""
    answer = None if isinstance(ending, DeliberationFailed) else ending.answer
    return {
        **_status(ending.task_id, status_word(ending)),
        "answer": answer,
        "ending": ending.model_dump(mode="json"),
    }


def _under_way(status: DeliberationStatus) -> dict[str, Any]:
    more = status.model_dump(
        mode="json",
        include={
            "phase",
            "limit",
            "total_agents",
            "received_count",
            "failed_count",
            "metadata",
            "error_message",
        },
    )
    return {**_status(status.task_id, status.status), **more}


def _status(task_id: str, status: str) -> dict[str, Any]:
    return {
        "task_id": task_id, "status": status, "answer": None, "ending": None,
        "links": {"self": f"{PATH}/{task_id}", "events": f"{PATH}/{task_id}/events"},
    }  # fmt: skip


def told(status: HTTPStatus, body: Mapping[str, Any]) -> Response:
    return _json(status, body, {"Location": f"{PATH}/{body['task_id']}"})


def _json(status: HTTPStatus, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse(body, status.value, headers)


async def hung_up(request: Request) -> None:
    """Return once the caller has hung up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
