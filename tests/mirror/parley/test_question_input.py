"""Where a question comes from, and what is said of one that cannot be asked."""

import io
import sys
from pathlib import Path

import pytest
import typer

from parley.broker.core.errors import InvalidMessage
from parley.question_input import read_messages, read_question, read_schema

LIMIT = 256 * 1024


class Stdin:
    """Standard input that holds some bytes; `terminal`: a person would have to type them."""

    def __init__(self, body: bytes, *, terminal: bool = False) -> None:
        self.buffer = io.BytesIO(body)
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin("\ufeffWhy é?\r\n".encode()))


@pytest.mark.parametrize(("argument", "file"), [("-", None), (None, None), (None, "-")])
@pytest.mark.usefixtures("stdin")
def test_standard_input_is_the_question(argument: str | None, file: str | None) -> None:
    assert read_question(argument, file) == "Why é?"


@pytest.mark.usefixtures("stdin")
def test_an_argument_or_a_file_comes_first(tmp_path: Path) -> None:
    (tmp_path / "q").write_text("  From a file:\n\n  why?\n")
    assert read_question("An argument", None) == "An argument"
    assert read_question(None, str(tmp_path / "q")) == "  From a file:\n\n  why?"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"caf\xe9", "is not UTF-8: the byte 0xe9 at position 4"),
        ("\ufeffWhy?".encode("utf-16-le"), "is not UTF-8 but UTF-16"),
        (b"x" * (LIMIT + 1), "is 262,145 bytes; at most 262,144 (256 KiB)"),
        ("é".encode() * LIMIT, "is 524,288 bytes; at most 262,144 (256 KiB)"),
        (b"x" * 17_000_000, "is more than 16,777,216 bytes; at most 262,144"),
    ],
    ids=["latin-1", "utf-16", "a byte too long", "two bytes a letter", "very long"],
)
def test_what_cannot_be_asked_is_said(
    body: bytes, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "q").write_bytes(body)
    monkeypatch.setattr(sys, "stdin", Stdin(body))
    for argument, file in (("-", None), (None, str(tmp_path / "q"))):
        with pytest.raises(InvalidMessage) as caught:
            read_question(argument, file)
        assert words in str(caught.value)
    assert read_question("x" * LIMIT, None)


@pytest.mark.parametrize("argument", ["\udcff", "caf\udce9", "", "  "])
def test_an_argument_that_cannot_be_asked_is_refused(argument: str) -> None:
    with pytest.raises(InvalidMessage, match=r"the question is (not UTF-8|empty)"):
        read_question(argument, None)


@pytest.mark.parametrize("file", ["absent", "."])
def test_a_file_that_cannot_be_read_is_named(file: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidMessage, match=r"--file: .*: (No such file|Is a directory)"):
        read_question(None, str(tmp_path / file))


@pytest.mark.parametrize("stdin", [None, Stdin(b""), Stdin(b"\n"), Stdin(b"typed later", terminal=True)])
def test_without_a_question_the_usage_is_shown(stdin: Stdin | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", stdin)
    with pytest.raises(typer.BadParameter, match="no question"):
        read_question(None, None)
    with pytest.raises(typer.BadParameter, match="twice"):
        read_question("x", "y")


def test_a_schema_is_named_after_its_file(tmp_path: Path) -> None:
    file = tmp_path / "two words.v1.json"
    file.write_text('{"type": "object"}')
    assert read_schema(str(file)) == {
        "type": "json_schema",
        "json_schema": {"name": "two_words_v1", "schema": {"type": "object"}},
    }
    file.write_bytes(b'{"title": "\xff"}')
    with pytest.raises(InvalidMessage, match=r"--schema: .* is not UTF-8"):
        read_schema(str(file))


def test_a_conversation_is_a_list_of_messages_or_an_object_that_has_one(tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    for body in (
        '[{"role": "user", "content": "Why?"}]',
        '{"model": "m", "messages": [{"role": "user", "content": "Why?"}]}',
    ):
        file.write_text(body)
        assert read_messages(str(file)) == [{"role": "user", "content": "Why?"}]
    file.write_text('{"role": "user"}')
    with pytest.raises(InvalidMessage, match=r"--messages: .*chat\.json has no list of messages"):
        read_messages(str(file))
