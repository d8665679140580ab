"""A file of questions, one a line, and the file of their endings: what is left to ask. Pure, but for the files.

A line of questions is a text in JSON, or an object of the arguments of `parley.Client.deliberate`. A line of endings has
the number of its question, and the ending. Each question is asked under a name that its line and its words give, so a
batch that is started again asks nothing twice.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parley.broker.core.errors import InvalidMessage, SettingsError
from parley.request_arguments import compose

# A line is no longer: a question with its context has at most some 700 KiB.
MAX_LINE_BYTES = 2 * 1024 * 1024
# Lines with a mistake that are told at once.
MAX_TOLD = 10
_NAME_CHARACTERS = 24


@dataclass(frozen=True, slots=True)
class QuestionLine:
    """`number`: of the line, from 1. `arguments`: of `deliberate`, with its `task_id`."""

    number: int
    arguments: Mapping[str, Any]


def read_questions_file(path: Path, common: Mapping[str, Any]) -> list[QuestionLine]:
    """Every question. `common`: arguments of those that do not have them. Raises SettingsError that names each line with
    a mistake."""
    found: list[QuestionLine] = []
    problems: list[str] = []
    for number, line in _lines(path):
        try:
            found.append(_question(number, line, common))
        except (ValueError, TypeError, InvalidMessage) as error:
            problems.append(f"{path}:{number}: {error}")
    if problems:
        more = [f"and {len(problems) - MAX_TOLD} more lines"] if len(problems) > MAX_TOLD else []
        raise SettingsError([*problems[:MAX_TOLD], *more])
    return found


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line
    except OSError as error:
        raise SettingsError([f"{path}: {error.strerror}"]) from None


def _question(number: int, line: bytes, common: Mapping[str, Any]) -> QuestionLine:
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"is over {MAX_LINE_BYTES} bytes")
    try:
        read = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("is no JSON") from None
    own = {"task_description": read} if isinstance(read, str) else read
    if not isinstance(own, dict):
        raise TypeError("neither a text nor an object of arguments")
    arguments = {**common, **own}
    arguments.setdefault("task_id", _name(number, arguments))
    compose(**arguments)
    return QuestionLine(number, arguments)


def _name(number: int, arguments: Mapping[str, Any]) -> str:
    words = json.dumps([number, arguments], sort_keys=True, default=str)
    return f"batch-{hashlib.sha256(words.encode()).hexdigest()[:_NAME_CHARACTERS]}"


def read_done(path: Path) -> set[str]:
    """The names of what has an ending in this file; an ending that was cut off when the batch died is not one."""
    found: set[str] = set()
    if not path.exists():
        return found
    for _, line in _lines(path):
        try:
            found.add(str(json.loads(line)["ending"]["task_id"]))
        except (ValueError, TypeError, KeyError):
            continue
    return found


def ending_line(question: QuestionLine, ending: Mapping[str, Any]) -> str:
    return json.dumps({"line": question.number, "ending": ending}, ensure_ascii=False) + "\n"
