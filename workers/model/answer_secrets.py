"""Strikes secrets out of an answer: a server may quote what it was sent, and results are read by others. Pure."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic_core import to_json

from parley.broker.core.messages import ToolCall
from parley.workers.model.responses import Completion
from parley.workers.model.secret_masking import struck_out, struck_out_of_answer


def without_secrets(answer: Completion, secrets: tuple[str, ...], asked_model: str) -> Completion:
    """The answer with `***` in place of each secret. `asked_model`: no secret, though a URL's query may name it."""
    if not secrets:
        return answer
    content = struck_out_of_answer(answer.content, secrets)
    reasoning = struck_out_of_answer(answer.reasoning, secrets) if answer.reasoning else ""
    reason, model = answer.finish_reason, answer.model
    if reason not in ("stop", "length"):
        reason = struck_out(reason, secrets)  # no prose, and cut short
    if model != asked_model:
        model = struck_out_of_answer(model, secrets)
    clean = (content, reasoning, reason, model)
    # One token holds a piece of a secret, all of them the whole.
    logprobs = answer.logprobs if content == answer.content else None
    if logprobs is not None and _show(logprobs, secrets):
        logprobs = None
    if clean == (answer.content, answer.reasoning, answer.finish_reason, answer.model) and (
        logprobs is answer.logprobs
    ):
        return answer
    return replace(
        answer, content=content, reasoning=reasoning, finish_reason=reason, model=model, logprobs=logprobs
    )


def calls_without_secrets(calls: Sequence[ToolCall], secrets: tuple[str, ...]) -> list[ToolCall]:
    """The same for the tools that a model asks for."""
    return [
        ToolCall(
            id=struck_out_of_answer(call.id, secrets),
            name=struck_out_of_answer(call.name, secrets),
            arguments=struck_out_of_answer(call.arguments, secrets),
        )
        for call in calls
    ]


def _show(logprobs: tuple[dict[str, Any], ...], secrets: tuple[str, ...]) -> bool:
    text = to_json(logprobs).decode()
    return struck_out_of_answer(text, secrets) != text
