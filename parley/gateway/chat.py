"""OpenAI's chat API: a panel looks like a model, and its chosen answer like the model's words.

`POST /v1/chat/completions` and `GET /v1/models`. What a deliberation says beyond an answer is under `parley` in the
response: its id, who won, by how much, what is missing.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from http import HTTPStatus
from typing import Any

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from parley.broker.core.errors import InvalidMessage
from parley.broker.core.messages import DeliberationCompleted, DeliberationRequested, Ending, decode
from parley.client_errors import NoEnding
from parley.gateway.caller import Caller
from parley.gateway.deliberations import caller_of, check_type, hung_up
from parley.gateway.event_stream import COMMENT, HEADERS, with_pauses
from parley.gateway.panels import PREFIX, USUAL, PanelModel, panel_of_size
from parley.gateway.problems import Problem, invalid
from parley.job import Job
from parley.job_events import Ended, JobEvent

# Fields of OpenAI's that are a request's own, and what they are called there.
_SAME = ("messages", "temperature", "top_p", "seed", "stop", "logprobs", "top_logprobs", "response_format")
_OTHER_NAMES = {"max_tokens": "max_tokens", "max_completion_tokens": "max_tokens"}
# Passed on to the model servers as they are.
_PASSED_ON = ("frequency_penalty", "presence_penalty", "logit_bias", "reasoning_effort", "verbosity")
# About the call and not the answer: they change nothing here.
_IGNORED = frozenset(
    {"user", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "stream_options",
     "parallel_tool_calls", "modalities", "n", "stream", "model", "metadata", "parley", "tool_choice", "tools"}
)  # fmt: skip
_KNOWN = frozenset({*_SAME, *_OTHER_NAMES, *_PASSED_ON}) | _IGNORED
_PROGRESS = frozenset({"comments", "reasoning", "none"})
_OPTIONS = frozenset({"timeout_seconds", "progress"})


async def models(request: Request) -> Response:
    """The panels, as OpenAI lists models."""
    return JSONResponse({"object": "list", "data": [_as_model(panel) for panel in _listed(request)]})


async def model(request: Request) -> Response:
    return JSONResponse(_as_model(_panel(request, request.path_params["name"])))


async def completions(request: Request) -> Response:
    """Ask a panel, and answer as a model would."""
    caller = caller_of(request)
    check_type(request)
    asked = _json(await request.body())
    panel = _panel(request, str(asked.get("model") or ""))
    options = _options(asked)
    job = await caller.submit(_question(panel, asked, options, caller))
    if asked.get("stream"):
        lines = _streamed(job, panel, asked, options.get("progress", "comments"))
        return StreamingResponse(lines, media_type="text/event-stream", headers=HEADERS)
    ending = await _unless_hung_up(request, job)
    return JSONResponse(_completion(ending, panel)) if ending is not None else Response(status_code=499)


# ── the question ──────────────────────────────────────────────────────────────────────────────────────────────────


def _json(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise Problem(HTTPStatus.BAD_REQUEST, "the body is no JSON") from None
    if not isinstance(found, dict):
        raise Problem(HTTPStatus.BAD_REQUEST, "the body is no JSON object")
    return found


def _listed(request: Request) -> list[PanelModel]:
    own: Mapping[str, PanelModel] = request.app.state.panels
    return [*own.values(), *(panel for panel in USUAL if panel.name not in own)]


def _panel(request: Request, name: str) -> PanelModel:
    own: Mapping[str, PanelModel] = request.app.state.panels
    bare = name.removeprefix(PREFIX)
    # Without the prefix `gpt-4` would be four agents in a role of that name.
    panel = own.get(bare) or panel_of_size(bare) if bare != name else None
    if panel is None:
        known = ", ".join(f"{PREFIX}{each.name}" for each in _listed(request)[:8])
        words = f"there is no panel {name[:80]!r}; there are {known}, and others of this form"
        raise Problem(HTTPStatus.NOT_FOUND, words, fields=[("model", words)])
    return panel


def _options(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Parley's own, under `parley`. Raises Problem."""
    problems = [f"{name}: no such field" for name in sorted(str(key)[:64] for key in asked.keys() - _KNOWN)]
    options = asked.get("parley") or {}
    if not isinstance(options, dict) or options.keys() - _OPTIONS:
        problems.append(f"parley: an object with {' or '.join(sorted(_OPTIONS))}")
        options = {}
    if options.get("progress", "none") not in _PROGRESS:
        problems.append(f"parley.progress: one of {', '.join(sorted(_PROGRESS))}")
    if asked.get("n") not in (None, 1):
        problems.append("n: only 1; a panel has one answer")
    if asked.get("tools") or asked.get("tool_choice") not in (None, "none", "auto"):
        problems.append("tools: Parley runs none")
    if not asked.get("messages"):
        problems.append("messages: is missing")
    if problems:
        raise invalid(problems)
    return options


def _question(
    panel: PanelModel, asked: Mapping[str, Any], options: Mapping[str, Any], caller: Caller
) -> DeliberationRequested:
    fields = {**panel.fields, **{name: asked[name] for name in _SAME if asked.get(name) is not None}}
    fields |= {ours: asked[name] for name, ours in _OTHER_NAMES.items() if asked.get(name) is not None}
    passed_on = {name: asked[name] for name in _PASSED_ON if asked.get(name) is not None}
    if passed_on:
        fields["extra"] = {**(fields.get("extra") or {}), **passed_on}
    if options.get("timeout_seconds") is not None:
        fields["timeout_seconds"] = options["timeout_seconds"]
    if asked.get("metadata") is not None:
        fields["metadata"] = asked["metadata"]
    if any(_is_instruction(message) for message in asked["messages"]):
        fields.pop("system", None)  # the caller's own stands instead
    name = caller.tenant.task_id(None)
    if name is not None:
        fields["task_id"] = name
    try:
        return decode(DeliberationRequested, to_json(fields))
    except InvalidMessage as error:
        raise invalid(error.problems) from None


def _is_instruction(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") in ("system", "developer")


async def _unless_hung_up(request: Request, job: Job) -> Ending | None:
    """The ending; None, and the deliberation is stopped, if the caller hangs up before. Raises Problem."""
    waiting = asyncio.create_task(job.ending())
    gone = asyncio.create_task(hung_up(request))
    try:
        await asyncio.wait({waiting, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            await job.cancel("its caller hung up")
            return None
        return waiting.result()
    except NoEnding as error:
        raise Problem(HTTPStatus.GATEWAY_TIMEOUT, str(error)) from None
    finally:
        for task in (waiting, gone):
            task.cancel()
        await asyncio.wait({waiting, gone})


# ── the answer ────────────────────────────────────────────────────────────────────────────────────────────────────


def _completion(ending: Ending, panel: PanelModel) -> dict[str, Any]:
    words, reason = _answer(ending)
    return {
        **_head(ending.task_id, panel, "chat.completion"),
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": words, "refusal": None}, "logprobs": None,
             "finish_reason": reason},
        ],
        "usage": _usage(ending),
        "parley": _more(ending),
    }  # fmt: skip


def _answer(ending: Ending) -> tuple[str, str]:
    """The words and their finish_reason. Raises Problem where there are none."""
    if not isinstance(ending, DeliberationCompleted):
        status = {"timeout": HTTPStatus.GATEWAY_TIMEOUT, "rejected": HTTPStatus.UNPROCESSABLE_ENTITY}
        raise Problem(status.get(ending.status, HTTPStatus.BAD_GATEWAY), f"{ending.task_id}: {ending.error}")
    if ending.answer is not None:
        winner = ending.winner
        cut_off = (
            ending.answer_from != "synthesis" and winner is not None and winner.finish_reason == "length"
        )
        return ending.answer, "length" if cut_off else "stop"
    if len(ending.results) == 1:
        return ending.results[0].proposal.content, ending.results[0].finish_reason
    raise Problem(
        HTTPStatus.BAD_GATEWAY,
        f"{ending.task_id}: no answer was chosen; /v1/deliberations/{ending.task_id} has all",
    )


def _usage(ending: Ending) -> dict[str, Any]:
    """Of all calls, judges' included."""
    if ending.cost is not None:
        prompt, done, cached = (
            ending.cost.prompt_tokens,
            ending.cost.completion_tokens,
            ending.cost.cached_tokens,
        )
    else:
        prompt = sum(result.usage.prompt_tokens for result in ending.results)
        done, cached = sum(result.usage.completion_tokens for result in ending.results), None
    return {
        "prompt_tokens": prompt, "completion_tokens": done, "total_tokens": prompt + done,
        "prompt_tokens_details": {"cached_tokens": cached or 0},
    }  # fmt: skip


def _more(ending: Ending) -> dict[str, Any]:
    told: dict[str, Any] = {
        "task_id": ending.task_id,
        "status": ending.status,
        "duration_ms": ending.duration_ms,
    }
    if isinstance(ending, DeliberationCompleted):
        fields = {"winner_id", "answer_from", "degraded", "degraded_reasons", "dissent", "cost"}
        told |= ending.model_dump(mode="json", include=fields)
        if ending.selection is not None:
            told["selection"] = ending.selection.model_dump(mode="json", exclude={"ballots", "heats"})
    return told


def _head(task_id: str, panel: PanelModel, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{task_id}", "object": kind, "created": int(time.time()), "model": f"{PREFIX}{panel.name}",
        "system_fingerprint": None,
    }  # fmt: skip


def _as_model(panel: PanelModel) -> dict[str, Any]:
    return {
        "id": f"{PREFIX}{panel.name}", "object": "model", "created": 0, "owned_by": "parley",
        "description": panel.description,
    }  # fmt: skip


# ── the answer, streamed ──────────────────────────────────────────────────────────────────────────────────────────


async def _streamed(
    job: Job, panel: PanelModel, asked: Mapping[str, Any], progress: str
) -> AsyncIterator[bytes]:
    """Chunks: the panel's progress as comments or as reasoning, then the answer. Closed early, it stops the
    deliberation."""
    ended = False
    head = _head(job.task_id, panel, "chat.completion.chunk")
    try:
        yield _chunk(head, {"role": "assistant", "content": ""})
        async with aclosing(with_pauses(job.events())) as events:
            async for event in events:
                if event is None:
                    yield COMMENT
                elif isinstance(event, Ended):
                    ended = True
                    for line in _last_chunks(head, event.ending, asked):
                        yield line
                elif progress == "reasoning":
                    yield _chunk(head, {"reasoning_content": f"{_in_words(event)}\n"})
                elif progress == "comments":
                    yield f": {_in_words(event)}\n\n".encode()
        ended = True
    finally:
        if not ended:
            await job.cancel("its caller hung up")


def _last_chunks(head: Mapping[str, Any], ending: Ending, asked: Mapping[str, Any]) -> list[bytes]:
    try:
        words, reason = _answer(ending)
    except Problem as problem:
        return [f"data: {json.dumps(as_openai(problem))}\n\n".encode(), b"data: [DONE]\n\n"]
    lines = [_chunk(head, {"content": words}), _chunk(head, {}, reason, parley=_more(ending))]
    options = asked.get("stream_options")
    if isinstance(options, dict) and options.get("include_usage"):
        lines.append(f"data: {json.dumps({**head, 'choices': [], 'usage': _usage(ending)})}\n\n".encode())
    return [*lines, b"data: [DONE]\n\n"]


def _chunk(
    head: Mapping[str, Any], delta: Mapping[str, Any], reason: str | None = None, **more: Any
) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    return f"data: {json.dumps({**head, 'choices': [choice], **more})}\n\n".encode()


def _in_words(event: JobEvent) -> str:
    if event.type == "phase":
        return f"{event.phase}: {len(event.agents)} asked"
    did = {"answer": "answered", "ballot": "voted", "failure": "failed"}[event.type]
    return f"{getattr(event, 'agent_id', '')} {did}"


def as_openai(problem: Problem) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
    status = problem.status.value
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    param = problem.fields[0][0] if problem.fields else None
    return {"error": {"message": problem.detail, "type": kind, "param": param, "code": status}}
