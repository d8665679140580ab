"""Ask, look, cancel, list, ask again: `/v1/deliberations`."""

import contextlib
import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from parley.broker.core.errors import InvalidMessage
from parley.broker.core.messages import (
    DeliberationFailed,
    DeliberationRequested,
    DeliberationStatus,
    Ending,
    decode,
)
from parley.client_errors import NoEnding, UnknownDeliberation
from parley.gateway.caller import Caller
from parley.gateway.listing import Listing, Sought
from parley.gateway.problems import Problem, invalid, not_found
from parley.gateway.tenants import MAX_KEY_CHARACTERS
from parley.job import Job

PATH = "/v1/deliberations"
# A request waits so long for an ending at most: proxies give up after a minute or two.
MAX_WAIT_SECONDS = 60.0
ENDED = frozenset({"COMPLETED", "FAILED", "TIMEOUT"})
# Fields of a request that the gateway sets itself.
_OWN_FIELDS = {"task_id": "send the header Idempotency-Key instead"}


async def ask(request: Request) -> Response:
    """Store a question. 202 at once; with `?wait=` the ending, if it comes in time."""
    caller = Caller.of(request)
    wait = wait_seconds(request)
    asked = await read_question(request, caller)
    job = await caller.submit(asked)
    # Under a key that was used before it may have ended.
    return await _answer(caller, job, wait, just_asked="idempotency-key" not in request.headers)


async def look(request: Request) -> Response:
    """How it is doing, and its ending. With `?wait=` it waits for that."""
    caller = Caller.of(request)
    return await _answer(caller, caller.job(request.path_params["task_id"]), wait_seconds(request))


async def cancel(request: Request) -> Response:
    """Ask for it to be stopped; `?reason=`. 202: its ending says whether it was."""
    caller = Caller.of(request)
    job = caller.job(request.path_params["task_id"])
    status = await known(job)
    if status.status in ENDED:
        raise Problem(HTTPStatus.CONFLICT, f"{job.task_id} has ended: {status.status}")
    try:
        await job.cancel(request.query_params.get("reason"))
    except InvalidMessage as error:
        raise invalid(error.problems) from None
    return _json(HTTPStatus.ACCEPTED, {"task_id": job.task_id, "status": status.status})


async def list_(request: Request) -> Response:
    """A page of what is remembered, the newest first."""
    caller = Caller.of(request)
    listing: Listing = request.app.state.listing
    page = await listing.page(Sought.of(request.query_params.multi_items(), caller.tenant))
    return _json(HTTPStatus.OK, page)


async def ask_again(request: Request) -> Response:
    """Ask the same question once more, as another deliberation."""
    caller = Caller.of(request)
    wait = wait_seconds(request)
    job = caller.job(request.path_params["task_id"])
    await known(job)
    body = await caller.client.request_of(job.task_id)
    if body is None:
        raise Problem(HTTPStatus.GONE, f"{job.task_id}: its question is no longer stored")
    fields = {name: value for name, value in json.loads(body).items() if name != "task_id"}
    again = decode(DeliberationRequested, json.dumps(fields).encode())
    return await _answer(caller, await caller.submit(_named(again, caller, None)), wait, just_asked=True)


# ── the question ──────────────────────────────────────────────────────────────────────────────────────────────────


async def read_question(request: Request, caller: Caller) -> DeliberationRequested:
    """The question in the body. Raises Problem that names each field."""
    check_type(request)
    body = await request.body()
    lenient = "handling=lenient" in request.headers.get("prefer", "").replace(" ", "")
    try:
        asked = decode(DeliberationRequested, body)
        if not lenient:
            _check_names(json.loads(body))
    except InvalidMessage as error:
        raise invalid(error.problems) from None
    key = request.headers.get("idempotency-key")
    if key is not None and not 1 <= len(key) <= MAX_KEY_CHARACTERS:
        raise invalid([f"Idempotency-Key: 1 to {MAX_KEY_CHARACTERS} characters"])
    named = _named(asked, caller, key)
    if key is not None:
        await _check_same(caller, named)
    return named


def check_type(request: Request) -> None:
    """Raises Problem for a body that is no JSON by its own words."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send the body as content-type: application/json")


def _check_names(fields: Mapping[str, Any]) -> None:
    problems = [f"{name}: {remedy}" for name, remedy in _OWN_FIELDS.items() if name in fields]
    known_names = DeliberationRequested.model_fields.keys()
    unknown = sorted(str(name)[:64] for name in fields.keys() - known_names)[:20]
    problems += [f"{name}: no such field" for name in unknown]
    if problems:
        raise InvalidMessage(problems)


def _named(asked: DeliberationRequested, caller: Caller, key: str | None) -> DeliberationRequested:
    fields = {name: getattr(asked, name) for name in asked.model_fields_set if name != "task_id"}
    name = caller.tenant.task_id(key)
    try:
        return DeliberationRequested.model_validate(
            fields if name is None else {**fields, "task_id": name}, strict=False
        )
    except ValidationError as error:  # cannot be: it was valid before
        raise invalid([str(error)]) from None


async def _check_same(caller: Caller, asked: DeliberationRequested) -> None:
    """Raises Problem where the key is another question's."""
    assert asked.task_id is not None
    tally = await caller.client.tally(asked.task_id)
    if tally is not None and tally.question is not None and tally.question != asked.question:
        words = "this Idempotency-Key was used for another question"
        raise Problem(HTTPStatus.CONFLICT, words, fields=[("Idempotency-Key", words)])


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


async def known(job: Job) -> DeliberationStatus:
    """Its status. Raises Problem for one that is not known."""
    try:
        return await job.status()
    except UnknownDeliberation:
        raise not_found(job.task_id) from None


async def _answer(caller: Caller, job: Job, wait: float, *, just_asked: bool = False) -> Response:
    ending = await _ending_within(job, wait) if wait else None
    if ending is None:
        if just_asked:
            return told(HTTPStatus.ACCEPTED, _status(job.task_id, "PENDING"))
        status = await known(job)
        if status.status not in ENDED:
            return told(HTTPStatus.ACCEPTED if wait else HTTPStatus.OK, _under_way(status))
        ending = await caller.client.find(job.task_id)
        if ending is None:
            return told(HTTPStatus.OK, _under_way(status))
    return told(HTTPStatus.OK, ended(ending))


async def _ending_within(job: Job, seconds: float) -> Ending | None:
    try:
        return await job.ending(timeout=seconds)
    except NoEnding:
        return None
    except UnknownDeliberation:
        raise not_found(job.task_id) from None


def ended(ending: Ending) -> dict[str, Any]:
    """What is told of one that has ended."""
    word = ending.status.upper() if ending.status in ("completed", "failed", "timeout") else "FAILED"
    answer = None if isinstance(ending, DeliberationFailed) else ending.answer
    return {**_status(ending.task_id, word), "answer": answer, "ending": ending.model_dump(mode="json")}


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
