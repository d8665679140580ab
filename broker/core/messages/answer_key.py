"""How a vote reads the final answers that it counts."""

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from parley.broker.core.messages.base import Message


def _pointer(text: str) -> str:
    if not re.fullmatch(r"(/[^/]{0,64}){1,8}", text):
        raise ValueError(
            "is no JSON pointer such as /answer: at most 8 names of at most 64 characters, a / before each"
        )
    return text


class AnswerKey(Message, serialize_by_alias=True, validate_by_name=True, validate_by_alias=True):
    """How the final answer is read from an agent's words, for `select: vote`: exactly one of the three. Answers count as
    the same that differ in letter case, spaces, thousands separators or a trailing `.0`."""

    last: Literal["number", "line"] | None = Field(
        None,
        description="The last number of the answer (with its whole line where it is a part of something, as in `3·10^8` or "
        "`2024-05-01`), or its last line that says something.",
    )
    after: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = Field(
        None,
        description="What stands after the last of these words, in any letter case: the rest of the line, or the next line "
        "that is not empty. Agents are asked for such a line.",
    )
    # `json` is a method of pydantic's.
    json_pointer: Annotated[str, AfterValidator(_pointer)] | None = Field(
        None,
        alias="json",
        description="A value of the answer's JSON, by JSON pointer (RFC 6901): of the whole answer if it is an object or a list, else "
        "of the last JSON object in it.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        given = [way for way in (self.last, self.after, self.json_pointer) if way is not None]
        if len(given) != 1:
            raise ValueError("needs exactly one of last, after, json")
        return self
