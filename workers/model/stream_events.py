"""Puts the server-sent events of a streamed answer together to one completion. Pure: lines in, an answer out.

Beside the standard it takes what servers do: two objects in one event or on one line, an `error:` line, JSON without
`data:`, one JSON body or a list of events instead of a stream, lines that end with CR alone, words that keep the
connection alive, no `[DONE]`, no finish_reason, a whole message in place of a piece.
"""

import json
import re
from typing import Any

from parley.broker.core.messages import ErrorType, Usage
from parley.workers.model.answer_text import MAX_REASONING_CHARACTERS, NotText, Said, ToolPiece, said
from parley.workers.model.error_body import (
    error_in_text,
    error_within,
    is_said,
    raise_within,
    raise_within_choice,
)
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
# What an event counts for that comes with others at once: reading them awaits nothing.
AT_ONCE_BYTES = 32
_BOM = b"\xef\xbb\xbf"
# As a number: to look for `b"\r"` takes eight times as long (measured).
_CR = ord("\r")
# What stands for `[DONE]`, and what keeps a connection alive, in small letters and without quotation marks.
_DONE = frozenset({b"[done]", b"done"})
_ALIVE = frozenset({b"", b"null", b"ping", b"pong", b"keep-alive", b"keepalive", b"keep_alive", b"heartbeat"})
_ALIVE_EVENTS = _ALIVE - {b""}
# Of a text that is no event, what is kept for an error.
_MAX_STRAY_BYTES = 1_024


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
        # The latest line that is none of a stream: a proxy's "Too Many Requests", say.
        self._stray = b""
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
        if _CR in line:
            line = line.rstrip(b"\r")
            if _CR in line:  # lines that end with it alone
                lines = line.split(b"\r")
                self._grow(AT_ONCE_BYTES * len(lines))
                return any(self.add(one) for one in lines)
        if not self._begun:
            line = line.removeprefix(_BOM)
            if not line.strip():
                return False
            self._begun = True
            if line.lstrip()[:1] in (b"{", b"[") and not _is_done(line):
                self._body.append(line)
                self._grow(len(line))
                return False
        if self._body:
            if not line.strip():
                return False
            if not self._is_event_a_line():
                self._body.append(line)
                self._grow(len(line))
                return False
            (first,), self._body = self._body, []
            self.add(first)
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
        if self._body and not self._add_body_of_events():
            return completion(b"\n".join(self._body), self._asked_model)
        if any(self._data) and not self.finished:
            raise self._not_json()
        if self._finish_reason is None and self._stray:
            self._raise_stray()
        if self._finish_reason is None and not self._done:
            raise ModelError(ErrorType.CONNECTION_LOST, "the stream ended before the answer did")
        all_said = Said("".join(self._content), self._reasoning, "".join(self._refusal), self._tools)
        if self._finish_reason is None and not any(
            (self._content, self._reasoning, self._refusal, self._tools)
        ):
            raise ModelError(ErrorType.CONNECTION_LOST, "the stream ended before the answer began")
        return checked(all_said, self._finish_reason, self._model, self._usage, self._logprobs)

    def _is_event_a_line(self) -> bool:
        """Whether the body has one line, and that is an object: where another follows, each is an event."""
        return len(self._body) == 1 and isinstance(_json(self._body[0]), dict)

    def _add_body_of_events(self) -> bool:
        """Reads the body as events if it is a list of them, or one alone."""
        body = b"\n".join(self._body)
        if b'"delta"' not in body and not body.lstrip().startswith(b"["):
            return False
        found = _json(body)
        events = found if isinstance(found, list) and len(found) > 1 else [found]
        if len(events) == 1 and not _has_delta(found):
            return False
        self._grow(AT_ONCE_BYTES * len(events))
        for event in events:
            self._add_event(event)
        self._done = True
        return True

    def _field(self, line: bytes) -> bool:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match name:
            case b"data":
                return self._add_data(value)
            case b"":
                # A blank line ends an event; a comment has no name either.
                if not line:
                    self._event = b""
                    if self._data:
                        raise self._not_json()
            case b"event":
                self._event = value.strip()
            case b"error":
                if _tells_error(value):
                    self._raise_error(value)
            case b"id" | b"retry":
                pass
            case _:
                return self._add_unnamed(line)
        return False

    def _add_unnamed(self, line: bytes) -> bool:
        """A line without a field of the standard: JSON that stands alone, or goes on; `[DONE]`; or a text."""
        if self._data or line.lstrip()[:1] in (b"{", b"["):
            return self._add_data(line)
        self._stray = line[:_MAX_STRAY_BYTES]
        return False

    def _add_data(self, value: bytes) -> bool:
        value = value.strip()
        if not self._data:
            if not value.startswith(b"{"):
                if _is_done(value):
                    self._done = True
                    return True
                if _word(value) in _ALIVE or _word(self._event) in _ALIVE_EVENTS:
                    return False
            elif self._event != b"error" and (event := _json(value)) is not None:
                self._add_event(event)  # as almost every line
                return False
        return self._add_line_of_data(value)

    def _add_line_of_data(self, value: bytes) -> bool:
        """A line that is no whole object: of an error, or of one that goes on."""
        self._data.append(value)
        self._grow(len(value) if len(self._data) > 1 else 0)
        if self._event == b"error":
            self._raise_error(b"\n".join(self._data))
        event = _json(b"\n".join(self._data))
        if event is None:
            return self._add_several()
        self._data.clear()
        self._add_event(event)
        return False

    def _add_several(self) -> bool:
        """The events of a line that has more than one. Of one that is not complete the rest may be on the next line."""
        text, place = b"\n".join(self._data).decode(errors="replace"), 0
        while (found := _object_and_next(text, place)) is not None:
            event, place = found
            self._grow(AT_ONCE_BYTES)
            self._add_event(event)
        if not place:
            return False
        self._data.clear()
        return place < len(text) and self._add_data(text[place:].encode())

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

    def _not_json(self) -> ModelError:
        """The error for data that is no JSON, after an answer that was not complete."""
        known = None if self.finished else error_in_text(b"\n".join(self._data).decode(errors="replace"))
        return known or malformed("the answer is not JSON")

    def _raise_stray(self) -> None:
        """Raises the error that a text in the stream tells, or that there was only a text."""
        known = error_in_text(self._stray.decode(errors="replace"))
        if known is not None:
            raise known
        if not self._content and not self._is_cut_off():
            raise malformed("the answer is not JSON")

    def _is_cut_off(self) -> bool:
        """Whether the text may be the begin of a line that did not come to its end."""
        return any(
            name.startswith(self._stray.strip()) for name in (b"data", b"event", b"error", b"retry", b"id")
        )

    def _raise_error(self, data: bytes) -> None:
        event = _json(data)
        said_so = event if isinstance(event, dict) else {"error": event or data.decode(errors="replace")}
        forms = (said_so, {"error": said_so}, {"error": "(no text)"})
        raise next(error for form in forms if (error := error_within(form)) is not None)


_DECODER = json.JSONDecoder()
# Between two events on one line.
_NEXT = re.compile(r"\s*(?:data:\s*|(?=\{)|\Z)")


def _object_and_next(text: str, place: int) -> tuple[dict[str, Any], int] | None:
    """The object at this place, and where the next one begins; None if there is none, or no other follows."""
    try:
        event, end = _DECODER.raw_decode(text, place)
    except (ValueError, RecursionError):
        return None
    after = _NEXT.match(text, end)
    return (event, after.end()) if isinstance(event, dict) and after is not None else None


def _word(value: bytes) -> bytes:
    return value.strip(b" \t\"'").lower()


def _tells_error(value: bytes) -> bool:
    """Whether an `error:` line is one. Servers write `error: null`."""
    if _word(value) in _ALIVE:
        return False
    found = _json(value)
    return found is None or is_said(found)


def _has_delta(event: Any) -> bool:
    choices = event.get("choices") if isinstance(event, dict) else None
    return isinstance(choices, list) and any(isinstance(one, dict) and "delta" in one for one in choices)


def _is_done(value: bytes) -> bool:
    return _word(value) in _DONE


def _json(data: bytes) -> Any:
    """None if it is not complete, or no JSON."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None
