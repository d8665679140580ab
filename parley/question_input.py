"""Where `parley ask` has its question from: the command line, a file or standard input. It is UTF-8 and bounded. Or a
conversation, a panel and the schema of its answers, from files of their own."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import typer

from parley.broker.core.errors import InvalidMessage
from parley.broker.core.messages.base import KIB, MAX_DESCRIPTION_BYTES
from parley.broker.core.messages.response_format import JSON_SCHEMA

# Read to tell the size of a question that is too long.
MAX_READ_BYTES = 16 * KIB * KIB
_LIMIT = f"at most {MAX_DESCRIPTION_BYTES:,} ({MAX_DESCRIPTION_BYTES // KIB} KiB)"


def read_question(argument: str | None, file: str | None) -> str:
    """The question. Raises InvalidMessage; typer.BadParameter, which shows the usage, without any question.

    `argument`: as given; `-` is standard input. `file`: a path; `-` as well. Without both standard input counts if it
    is no terminal.
    """
    if argument is not None and file is not None:
        raise typer.BadParameter("the question is given twice, as an argument and by --file")
    if argument is not None and argument != "-":
        # The bytes as they were typed: Python keeps those that are not UTF-8 as surrogates.
        return _text(argument.encode(errors="surrogateescape"), "the question")
    if file is not None and file != "-":
        return _from_file(Path(file))
    if sys.stdin is None or (argument is None and file is None and sys.stdin.isatty()):
        raise typer.BadParameter("no question; give a text, - for standard input, or --file FILE")
    body = sys.stdin.buffer.read(MAX_READ_BYTES + 1)
    if not body.strip():
        raise typer.BadParameter("no question; standard input is empty")
    return _text(body, "the question on standard input")


def read_schema(file: str) -> dict[str, Any]:
    """A `response_format` for answers by the JSON Schema in this file. Raises InvalidMessage."""
    schema = _json(file, "--schema")
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(file).stem)[:64] or "answer"
    return {"type": JSON_SCHEMA, JSON_SCHEMA: {"name": name, "schema": schema}}


def read_messages(file: str) -> list[Any]:
    """A conversation, as in OpenAI's chat API, from a JSON file: the messages, or an object that has them. Raises
    InvalidMessage."""
    read = _json(file, "--messages")
    messages = read.get("messages") if isinstance(read, dict) else read
    if not isinstance(messages, list):
        raise InvalidMessage([f"--messages: {file} has no list of messages"])
    return messages


def read_panel(file: str) -> list[Any]:
    """The members of a panel from a JSON file. Raises InvalidMessage."""
    members = _json(file, "--panel")
    if not isinstance(members, list):
        raise InvalidMessage([f"--panel: {file} has no list of members"])
    return members


def _json(file: str, flag: str) -> Any:
    try:
        return json.loads(_read(Path(file), flag))
    except UnicodeDecodeError:
        raise InvalidMessage([f"{flag}: {file} is not UTF-8"]) from None
    except (ValueError, RecursionError) as error:
        raise InvalidMessage([f"{flag}: {file} is no JSON: {error}"]) from None


def _from_file(path: Path) -> str:
    return _text(_read(path, "--file"), f"--file: {path}")


def _read(path: Path, flag: str) -> bytes:
    try:
        with path.open("rb") as opened:
            return opened.read(MAX_READ_BYTES + 1)
    except OSError as error:
        raise InvalidMessage([f"{flag}: {path}: {error.strerror or error}"]) from None


def _text(body: bytes, what: str) -> str:
    """The text, without the line end that a shell or an editor adds."""
    if len(body) > MAX_READ_BYTES:
        raise InvalidMessage([f"{what} is more than {MAX_READ_BYTES:,} bytes; {_LIMIT}"])
    if body.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InvalidMessage(
            [f"{what} is not UTF-8 but UTF-16; convert it, as with `iconv -f UTF-16 -t UTF-8`"]
        )
    try:
        text = body.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        where = f"the byte 0x{body[error.start]:02x} at position {error.start + 1:,}"
        raise InvalidMessage(
            [f"{what} is not UTF-8: {where}; convert it, as with `iconv -t UTF-8`"]
        ) from None
    size = len(text.encode())
    if size > MAX_DESCRIPTION_BYTES:
        raise InvalidMessage([f"{what} is {size:,} bytes; {_LIMIT}"])
    if not text.strip():
        raise InvalidMessage([f"{what} is empty"])
    return text
