"""What a model server says, read: an answer, a stream of them, a list of models, a refusal. Pure: bytes in, values out.

Whatever is wrong with it comes out as a `ModelError` whose `error_type` is one of the contract's closed set.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from parley.broker.core.messages import ErrorType, Usage
from parley.workers.model.endpoint import Endpoint

# More than any answer we could pass on: an outcome has to fit into one NATS message (1 MiB).
MAX_ANSWER_BYTES = 4 * 1024 * 1024
# What vLLM calls the end of an answer that it gave up, with HTTP 200 and the words there were: a stop (`--shutdown-timeout 0`, its default)
# ends so whatever is under way.
ABORTED = "abort"
# What a server says about its error is passed on up to this length; some quote the whole prompt.
MAX_ERROR_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class ServedModel:
    """An entry of `/v1/models`. `max_model_len`: tokens, prompt and answer together; None where the server does not say (vLLM does)."""

    name: str
    max_model_len: int | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    content: str
    finish_reason: str
    model: str
    usage: Usage


class ModelError(Exception):
    """A call that gave no answer. `retry_after` is what the server asked for, in seconds; `status` is of HTTP, if it got so far."""

    def __init__(
        self, error_type: ErrorType, message: str, retry_after: float | None = None, status: int | None = None
    ) -> None:
        super().__init__(error_type, message)
        self.error_type = error_type
        self.message = message
        self.retry_after = retry_after
        self.status = status

    @property
    def public_text(self) -> str:
        """The message without the server's own words, which may quote the prompt: for others than who made the call."""
        if self.error_type is ErrorType.SERVER_ERROR:
            return (
                "the model server broke off"
                if self.status is None
                else f"HTTP {self.status} from the model server"
            )
        return self.message

    def __str__(self) -> str:
        return self.message


class StreamAssembler:
    """Server-sent events on their way to one completion. An error line inside a 200 is an error, `[DONE]` or not."""

    def __init__(self, model: str) -> None:
        self._parts: list[str] = []
        self._size = 0
        self._finish_reason: Any = None
        self._model: Any = model
        self._usage = Usage()

    def take(self, line: bytes) -> bool:
        """One line of the stream; whether it was the last."""
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
            self._parts.append(content)
            self._size += len(content.encode(errors="replace"))
            self._finish_reason = reason or self._finish_reason
        bounded(self._size)
        return False

    def whole(self) -> Completion:
        if self._finish_reason is None:
            raise ModelError(ErrorType.CONNECTION_LOST, "the stream ended before the answer did")
        return _checked("".join(self._parts), self._finish_reason, self._model, self._usage)


def bounded(size: int) -> None:
    """Raises ModelError for an answer of more than MAX_ANSWER_BYTES."""
    if size > MAX_ANSWER_BYTES:
        raise ModelError(ErrorType.MALFORMED_ANSWER, f"answer is over {MAX_ANSWER_BYTES} bytes")


def _deltas(event: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """(content, finish_reason) of each choice."""
    try:
        found = [
            ((choice.get("delta") or {}).get("content") or "", choice.get("finish_reason"))
            for choice in event.get("choices") or ()
        ]
    except (AttributeError, TypeError) as error:
        raise ModelError(
            ErrorType.MALFORMED_ANSWER, "a line of the stream has no choices[].delta.content"
        ) from error
    if not all(isinstance(content, str) for content, _ in found):
        raise ModelError(ErrorType.MALFORMED_ANSWER, "a line of the stream has no choices[].delta.content")
    return found


def completion(body: bytes, model: str) -> Completion:
    """A whole answer. `model`: as it was asked for, where the answer does not say."""
    answer = _json(body)
    try:
        choice = answer["choices"][0]
        content, finish_reason = choice["message"]["content"], choice.get("finish_reason")
    except (KeyError, IndexError, TypeError) as error:
        raise ModelError(
            ErrorType.MALFORMED_ANSWER, "the answer has no choices[0].message.content"
        ) from error
    return _checked(content, finish_reason or "unknown", answer.get("model") or model, _usage(answer))


def _checked(content: Any, finish_reason: Any, model: Any, usage: Usage) -> Completion:
    if finish_reason == ABORTED:
        raise ModelError(ErrorType.SERVER_ERROR, f"the server broke off: finish_reason {ABORTED}")
    if not isinstance(content, str) or not content.strip():
        raise ModelError(
            ErrorType.EMPTY_ANSWER, f"the model answered nothing (finish_reason {_encodable(finish_reason)})"
        )
    return Completion(_encodable(content), _encodable(finish_reason), _encodable(model), usage)


def _encodable(text: Any) -> str:
    """JSON may hold half a surrogate pair (`\\ud83d`, an emoji cut by max_tokens); UTF-8 may not."""
    return str(text).encode(errors="replace").decode()


def served(endpoint: Endpoint, body: bytes) -> list[ServedModel]:
    """What `/v1/models` lists."""
    try:
        return [ServedModel(_encodable(entry["id"]), _length(entry)) for entry in _json(body)["data"]]
    except (AttributeError, KeyError, TypeError) as error:
        raise ModelError(ErrorType.MALFORMED_ANSWER, f"{endpoint} lists no models") from error


def _length(entry: Mapping[str, Any]) -> int | None:
    found = entry.get("max_model_len")
    return found if type(found) is int and found > 0 else None


def _json(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ModelError(ErrorType.MALFORMED_ANSWER, "the answer is not JSON") from error
    if not isinstance(answer, dict):
        raise ModelError(ErrorType.MALFORMED_ANSWER, "the answer is not a JSON object")
    return answer


def _usage(answer: Mapping[str, Any]) -> Usage:
    counts = answer.get("usage")
    if not isinstance(counts, dict):
        return Usage()
    # Numbers a counter can take; anything else is no count, and no reason to refuse an answer.
    known = {
        key: counts[key]
        for key in Usage.model_fields
        if type(counts.get(key)) is int and 0 <= counts[key] < 2**63
    }
    return Usage(**known)


def refusal(status: int, retry_after: str | None, body: bytes) -> ModelError:
    """What an HTTP status other than 200 says. `retry_after`: the header of that name."""
    told = _words_of(body)
    return ModelError(
        _kind(status, told), f"HTTP {status} from the model server: {told}", _seconds(retry_after), status
    )


def _kind(status: int, words: str) -> ErrorType:
    match status:
        case 401 | 403:
            return ErrorType.UNAUTHORIZED
        case 404:
            return ErrorType.MODEL_NOT_FOUND
        case 429:
            return ErrorType.RATE_LIMITED
        case _ if status >= 500:
            return ErrorType.SERVER_ERROR
        case 400 if "context length" in words.lower() or "maximum context" in words.lower():
            return ErrorType.CONTEXT_TOO_LONG
        case _:
            return ErrorType.BAD_REQUEST


def _words_of(body: bytes) -> str:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return body[:MAX_ERROR_CHARACTERS].decode(errors="replace").strip() or "(no text)"
    return error_text(answer) if isinstance(answer, dict) else "(no text)"


def error_text(answer: Mapping[str, Any]) -> str:
    """The server's own words. vLLM sends `error` as an object, and as a plain string for a missing key."""
    error = answer.get("error", answer)
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error
    return _encodable(error)[:MAX_ERROR_CHARACTERS]


def _seconds(retry_after: str | None) -> float | None:
    """The HTTP-date form is rare from model servers and is left to our own backoff."""
    try:
        seconds = float(retry_after or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None
