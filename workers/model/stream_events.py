"""Puts the server-sent events of a streamed answer together to one completion. Pure: lines in, an answer out.

Beside the standard it takes what servers do: two objects in one event, an `error:` line, one JSON body instead of a
stream, no `[DONE]`, no finish_reason, a whole message in place of a piece.
"""

import json
from typing import Any

from parley.broker.core.messages import ErrorType, Usage
from parley.workers.model.answer_text import MAX_REASONING_CHARACTERS, NotText, Said, ToolPiece, said
from parley.workers.model.error_body import error_within, raise_within, raise_within_choice
from parley.workers.model.model_error import ModelError
from parley.workers.model.responses import (
    MAX_ANSWER_BYTES,
    Completion,
    check_size,
    checked,
    completion,
    malformed,
    reason_of,
    usage_of,
)
from parley.workers.model.token_logprobs import TokenLogprobs

# What a piece of a call of a tool counts for, beside its words.
PIECE_BYTES = 128
_BOM = b"\xef\xbb\xbf"


class StreamAssembler:
    """An error event is an error, even after HTTP 200 and before `[DONE]`.

    `model`: as requested, for a server that does not name it.
    """

    def __init__(self, model: str) -> None:
        self._asked_model = model
        # The pieces so far: of the answer, of the reasoning before it (its end only), of a refusal, of calls of
        # tools. Their bytes.
        self._content: list[str] = []
        self._reasoning = ""
        self._refusal: list[str] = []
        self._tools: list[ToolPiece] = []
        self._logprobs = TokenLogprobs()
        self._size = 0
        # The latest that the server sent of each. Any: unchecked JSON.
        self._finish_reason: Any = None
        self._model: Any = model
        self._usage = Usage()
        # Data lines of an event that is not complete, and the event's name.
        self._data: list[bytes] = []
        self._event = b""
        # The lines of a body that is no stream.
        self._body: list[bytes] = []
        self._begun = self._done = False

    @property
    def size(self) -> int:
        """Bytes of what was kept so far."""
        return self._size

    @property
    def finished(self) -> bool:
        """Whether the answer is complete, and only figures may follow."""
        return self._finish_reason is not None

    def add(self, line: bytes) -> bool:
        """Read one line of the stream. True if it was the last. Raises ModelError."""
        line = line.rstrip(b"\r")
        if not self._begun:
            line = line.removeprefix(_BOM)
            if not line.strip():
                return False
            self._begun = True
            if line.lstrip()[:1] in (b"{", b"["):
                self._body.append(b"")
        if self._body:
            self._body.append(line)
            self._grow(len(line))
            return False
        try:
            return self._field(line)
        except ModelError as error:
            # The answer is whole: nothing that has no meaning takes it back.
            if (
                self.finished
                and error.error_type is ErrorType.MALFORMED_ANSWER
                and self._size <= MAX_ANSWER_BYTES
            ):
                self._data.clear()
                return True
            raise

    def completion(self) -> Completion:
        """The answer, after the last line. Raises ModelError if it is incomplete."""
        if self._body:
            return completion(b"\n".join(self._body), self._asked_model)
        if any(self._data) and not self.finished:
            raise malformed("the answer is not JSON")
        if self._finish_reason is None and not self._done:
            raise ModelError(ErrorType.CONNECTION_LOST, "the stream ended before the answer did")
        all_said = Said("".join(self._content), self._reasoning, "".join(self._refusal), self._tools)
        if self._finish_reason is None and not any(
            (self._content, self._reasoning, self._refusal, self._tools)
        ):
            raise ModelError(ErrorType.CONNECTION_LOST, "the stream ended before the answer began")
        return checked(all_said, self._finish_reason, self._model, self._usage, self._logprobs)

    def _field(self, line: bytes) -> bool:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match name:
            case b"":
                # A blank line ends an event; a comment has no name either.
                if not line:
                    self._event = b""
                    if self._data:
                        raise malformed("the answer is not JSON")
            case b"event":
                self._event = value.strip()
            case b"error":
                self._raise_error(value)
            case b"data":
                return self._add_data(value)
        return False

    def _add_data(self, value: bytes) -> bool:
        value = value.strip()
        if value == b"[DONE]" and not self._data:
            self._done = True
            return True
        if not value and not self._data:
            return False  # kept alive
        self._data.append(value)
        self._grow(len(value) if len(self._data) > 1 else 0)
        if self._event == b"error":
            self._raise_error(b"\n".join(self._data))
        event = _json(b"\n".join(self._data))
        if event is None:
            return False  # the rest may be on the next line
        self._data.clear()
        self._add_event(event)
        return False

    def _add_event(self, event: Any) -> None:
        if isinstance(event, list) and len(event) == 1:
            event = event[0]
        if not isinstance(event, dict):
            raise malformed("the answer is not a JSON object")
        raise_within(event)
        self._model = event.get("model") or self._model
        self._usage = usage_of(event) if event.get("usage") else self._usage
        choices = event.get("choices") or ()
        if not isinstance(choices, list | tuple) or not all(isinstance(choice, dict) for choice in choices):
            raise malformed("a line of the stream has no choices[].delta.content")
        for choice in choices:
            if not choice.get("index"):  # others were not asked for
                self._add_choice(choice)

    def _add_choice(self, choice: dict[str, Any]) -> None:
        raise_within_choice(choice)
        piece = choice.get("delta")
        if piece is None:
            piece = choice.get("message") or {"content": choice.get("text")}
        try:
            new = said(piece)
        except (NotText, AttributeError) as error:
            raise malformed("a line of the stream has no choices[].delta.content") from error
        if choice.get("message") and choice.get("delta") is None:
            new = self._rest(new)
        if new.content:  # a server may send empty ones without end
            self._content.append(new.content)
        if new.refusal:
            self._refusal.append(new.refusal)
        if new.reasoning:
            self._reasoning = (self._reasoning + new.reasoning)[-MAX_REASONING_CHARACTERS - 1 :]
        self._tools += new.tools
        self._logprobs.add(choice)
        texts = [new.content, new.refusal, new.reasoning]
        for tool in new.tools:
            texts += (tool.id, tool.name, tool.arguments)
        # A piece of a call may be empty, and takes memory all the same.
        size = PIECE_BYTES * len(new.tools)
        self._grow(size + sum(len(text.encode(errors="replace")) for text in texts))
        self._finish_reason = reason_of(choice.get("finish_reason")) or self._finish_reason

    def _rest(self, whole: Said) -> Said:
        """What a whole message says beyond the pieces so far: servers repeat them, at the end or each time."""
        if not self._size:
            return whole
        so_far = "".join(self._content)
        return Said(whole.content[len(so_far) :] if whole.content.startswith(so_far) else "")

    def _grow(self, size: int) -> None:
        self._size += size
        check_size(self._size)

    def _raise_error(self, data: bytes) -> None:
        event = _json(data)
        said_so = event if isinstance(event, dict) else {"error": event or data.decode(errors="replace")}
        forms = (said_so, {"error": said_so}, {"error": "(no text)"})
        raise next(error for form in forms if (error := error_within(form)) is not None)


def _json(data: bytes) -> Any:
    """None if it is not complete, or no JSON."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None
