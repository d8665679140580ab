"""A method takes another function's arguments and shows them; a misspelt one is named with the right one."""

import inspect
from typing import Any

import pytest

from parley.signatures import suggest_arguments, with_arguments_of


@suggest_arguments
def make(word: str, *, times: int = 1, separator: str = "") -> str:
    return separator.join([word] * times)


class Speaker:
    @with_arguments_of(make)
    async def say(self, text: str) -> int:
        """Say it."""
        return len(text)


async def test_the_method_takes_the_arguments_and_gets_the_result() -> None:
    assert await Speaker().say("ab", times=2, separator="-") == 5


def test_its_signature_and_its_docstring_are_shown() -> None:
    assert (
        str(inspect.signature(Speaker().say)) == "(word: str, *, times: int = 1, separator: str = '') -> int"
    )
    assert Speaker.say.__doc__ == "Say it."


@pytest.mark.parametrize(("word", "hint"), [("time", "; did you mean times?"), ("qqq", "")])
async def test_a_misspelt_argument_is_refused_with_the_one_that_was_meant(word: str, hint: str) -> None:
    misspelt: dict[str, Any] = {word: 1}
    with pytest.raises(TypeError, match=rf"^no such argument: {word}{hint.replace('?', '[?]')}$"):
        await Speaker().say("ab", **misspelt)
