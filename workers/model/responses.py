"""Reads what a model server sends: an answer, plain or streamed, or a refusal.

Pure: bytes in, values out. Any fault is a `ModelError` with an `error_type` of the contract's closed set.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from parley.broker.core.agent_error_table import POLICIES, Signal
from parley.broker.core.messages import MAX_FIGURE, ErrorType, Usage

# Larger than any answer that can be passed on: an outcome must fit into one NATS message (1 MiB).
MAX_ANSWER_BYTES = 4 * 1024 * 1024
# vLLM's finish_reason for an answer that it gave up. It sends HTTP 200 and the text so far. A vLLM that stops
# ends all its answers so (`--shutdown-timeout 0`, its default).
ABORTED = "abort"
# A server's error text is passed on up to this length; some servers quote the whole prompt.
MAX_ERROR_CHARACTERS = 500
# A gateway without a server behind it. A 500 may be caused by the request, and vLLM sheds load with 503.
GATEWAY_STATUSES = frozenset({502, 504})
_UNAUTHORIZED, _NOT_FOUND = ErrorType.UNAUTHORIZED, ErrorType.MODEL_NOT_FOUND
# A living server that asks for the same call again: a timeout, a conflict, too early.
REPEATED_STATUSES = frozenset({408, 409, 425})
_STATUSES = {401: _UNAUTHORIZED, 403: _UNAUTHORIZED, 404: _NOT_FOUND, 429: ErrorType.RATE_LIMITED}
_STATUSES |= dict.fromkeys(REPEATED_STATUSES, ErrorType.SERVER_ERROR)


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer. `attempts`: the calls it took, this one included."""

    content: str
    finish_reason: str
    model: str
    usage: Usage
    attempts: int = 1


class ModelError(Exception):
    """A request that got no answer.

    `retry_after`: the pause that the server asked for, in seconds. `status`: of the HTTP response, if any.
    `attempts`: the calls that were made, the failed one included. `is_ours`: the cause lies in this process, and says
    nothing of the endpoint.
    """

    def __init__(
        self,
        error_type: ErrorType,
        message: str,
        retry_after: float | None = None,
        status: int | None = None,
        attempts: int = 1,
        *,
        is_ours: bool = False,
    ) -> None:
        super().__init__(error_type, message)
        self.is_ours = is_ours
        self.error_type = error_type
        self.message = message
        self.retry_after = retry_after
        self.status = status
        self.attempts = attempts

    @property
    def public_text(self) -> str:
        """The message for other callers: without the server's own text, which may quote a prompt."""
        if self.error_type is ErrorType.SERVER_ERROR:
            status = self.status
            return "the model server broke off" if status is None else f"HTTP {status} from the model server"
        return self.message

    @property
    def signal(self) -> Signal:
        """What this error says of its endpoint."""
        if self.is_ours:
            return Signal.IGNORED
        if self.error_type is ErrorType.SERVER_ERROR:
            if self.retry_after is not None or self.status in REPEATED_STATUSES:
                return Signal.ALIVE  # only a living server asks to come back
            if self.status in GATEWAY_STATUSES:
                return Signal.DEAD
        return POLICIES[self.error_type].signal

    def __str__(self) -> str:
        return self.message


class StreamAssembler:
    """Puts server-sent events together to one completion.

    An error event is an error, even after HTTP 200 and before `[DONE]`.
    `model`: as requested, for a server that does not name it.
    """

    def __init__(self, model: str) -> None:
        # The text so far, and its size in bytes.
        self._parts: list[str] = []
        self._size = 0
        # The latest that the server sent of each. Any: unchecked JSON.
        self._finish_reason: Any = None
        self._model: Any = model
        self._usage = Usage()

    @property
    def size(self) -> int:
        """Bytes of the text so far."""
        return self._size

    def add(self, line: bytes) -> bool:
        """Read one line of the stream. True if it was the last. Raises ModelError."""
        if not line.startswith(b"data:"):
            return False
        data = line[5:].strip()
        if data == b"[DONE]":
            return True
        event = _json(data)
        if "error" in event:
            raise ModelError(ErrorType.SERVER_ERROR, f"the server broke off: {error_text(event)}")
        self._model = event.get("model") or self._model
        self._usage = _usage(event) if event.get("usage") else self._usage
        for content, reason in _deltas(event):
            if content:  # a server may send empty ones without end
                self._parts.append(content)
                self._size += len(content.encode(errors="replace"))
            self._finish_reason = reason or self._finish_reason
        check_size(self._size)
        return False

    def completion(self) -> Completion:
        """The answer, after the last line. Raises ModelError if it is incomplete."""
        if self._finish_reason is None:
            raise ModelError(ErrorType.CONNECTION_LOST, "the stream ended before the answer did")
        return _checked("".join(self._parts), self._finish_reason, self._model, self._usage)


def check_size(size: int) -> None:
    """Raises ModelError for an answer of more than MAX_ANSWER_BYTES."""
    if size > MAX_ANSWER_BYTES:
        raise _malformed(f"answer is over {MAX_ANSWER_BYTES} bytes")


def _malformed(problem: str) -> ModelError:
    return ModelError(ErrorType.MALFORMED_ANSWER, problem)


def _deltas(event: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """(content, finish_reason) of each choice."""
    choices, problem = event.get("choices") or (), "a line of the stream has no choices[].delta.content"
    try:
        found = [((it.get("delta") or {}).get("content") or "", it.get("finish_reason")) for it in choices]
    except (AttributeError, TypeError) as error:
        raise _malformed(problem) from error
    if not all(isinstance(content, str) for content, _ in found):
        raise _malformed(problem)
    return found


def completion(body: bytes, model: str) -> Completion:
    """Reads a plain answer. `model`: as requested, if the server names none. Raises ModelError."""
    answer = _json(body)
    try:
        choice = answer["choices"][0]
        content, finish_reason = choice["message"]["content"], choice.get("finish_reason")
    except (KeyError, IndexError, TypeError) as error:
        raise _malformed("the answer has no choices[0].message.content") from error
    return _checked(content, finish_reason or "unknown", answer.get("model") or model, _usage(answer))


def _checked(content: Any, finish_reason: Any, model: Any, usage: Usage) -> Completion:
    if finish_reason == ABORTED:
        raise ModelError(ErrorType.SERVER_ERROR, f"the server broke off: finish_reason {ABORTED}")
    if not isinstance(content, str) or not content.strip():
        nothing = f"the model answered nothing (finish_reason {_encodable(finish_reason)})"
        raise ModelError(ErrorType.EMPTY_ANSWER, nothing)
    return Completion(_encodable(content), _encodable(finish_reason), _encodable(model), usage)


def _encodable(text: Any) -> str:
    """The text in UTF-8. JSON may contain half a surrogate pair (`\\ud83d`, an emoji cut by max_tokens)."""
    return str(text).encode(errors="replace").decode()


def _json(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _malformed("the answer is not JSON") from error
    if not isinstance(answer, dict):
        raise _malformed("the answer is not a JSON object")
    return answer


def _usage(answer: Mapping[str, Any]) -> Usage:
    counts = answer.get("usage")
    if not isinstance(counts, dict):
        return Usage()
    # Only numbers that the wire carries. The others are left out: they are no reason to refuse the answer.
    known = {key: counts[key] for key in Usage.model_fields if type(counts.get(key)) is int}
    return Usage(**{key: count for key, count in known.items() if 0 <= count <= MAX_FIGURE})


def refusal(status: int, retry_after: str | None, body: bytes) -> ModelError:
    """The error for an HTTP status other than 200. `retry_after`: the header of that name."""
    text = _refusal_text(body)
    message = f"HTTP {status} from the model server: {text}"
    return ModelError(_error_type(status, text), message, _seconds(retry_after), status)


def _error_type(status: int, text: str) -> ErrorType:
    if status >= 500:
        return ErrorType.SERVER_ERROR
    if status == 400 and ("context length" in text.lower() or "maximum context" in text.lower()):
        return ErrorType.CONTEXT_TOO_LONG
    return _STATUSES.get(status, ErrorType.BAD_REQUEST)


def _refusal_text(body: bytes) -> str:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return body[:MAX_ERROR_CHARACTERS].decode(errors="replace").strip() or "(no text)"
    return error_text(answer) if isinstance(answer, dict) else "(no text)"


def error_text(answer: Mapping[str, Any]) -> str:
    """The server's error text. vLLM sends `error` as an object, but as a string if the key is missing."""
    error = answer.get("error", answer)
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error
    return _encodable(error)[:MAX_ERROR_CHARACTERS]


def _seconds(retry_after: str | None) -> float | None:
    """The header as seconds. None for its other form, an HTTP date, which model servers rarely send."""
    try:
        seconds = float(retry_after or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None
