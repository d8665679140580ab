"""stdout and stderr as the command writes to them: a terminal, a pipe that may be closed, or a locale without UTF-8."""

import json
import os
import re
import stat
import sys
from contextlib import suppress
from typing import Any

from rich.console import Console

from parley.broker.core.printable import harmless, safe_json


class Terminal(Console):
    """A console that goes on in silence when its reader has left (`| head -1`): the exit code stays the command's own.

    Into a pipe it writes plain words, whatever FORCE_COLOR says: a program reads them.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, force_terminal=None if _is_tty(2 if stderr else 1) else False)

    def on_broken_pipe(self) -> None:
        stop_writing(self.file)


def write_line(console: Console, text: str) -> None:
    """Write `text` exactly, and a line end: no folding, no markup, tabs as they are."""
    try:
        console.file.write(f"{text}\n")
        console.file.flush()
    except BrokenPipeError:
        console.on_broken_pipe()


def write_words(console: Console, text: str) -> None:
    """Write a text of others: exactly into a pipe; on a terminal without what could do something to it."""
    write_line(console, harmless(text) if console.is_terminal else text)


def write_json(console: Console, text: str) -> None:
    """Write JSON: in UTF-8 as it is; in another encoding, which JSON may not have, with JSON's own escapes."""
    text = safe_json(text)
    if (getattr(console.file, "encoding", None) or "").lower() not in ("utf-8", "utf8"):
        text = re.sub(r"[^\x00-\x7f]", lambda letter: json.dumps(letter[0])[1:-1], text)
    write_line(console, text)


def stop_writing(file: Any) -> None:
    """Send what is still written to `file` nowhere: its reader has left."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, file.fileno())
        os.close(nowhere)


def leave_closed_terminals() -> None:
    """Of stdout and stderr, send what goes to a terminal that was closed nowhere. Without this each word is an error."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            # Still a device, and none that answers as a terminal.
            if stat.S_ISCHR(os.fstat(stream.fileno()).st_mode) and not stream.isatty():
                stop_writing(stream)


def write_what_the_locale_lacks_as_escapes() -> None:
    """Letters that the encoding of stdout or stderr lacks become `\\u2026`. Without this they are a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def read_arguments_as_utf8() -> None:
    """Arguments that the locale's encoding could not read, as UTF-8 where they are that: the locale C knows ASCII only."""
    for place, argument in enumerate(sys.argv):
        with suppress(UnicodeError):  # neither: whoever uses it says so
            sys.argv[place] = os.fsencode(argument).decode()


def flush() -> None:
    """Write out what is kept. Raises OSError, such as a full disk's, but not for a reader that has left."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except BrokenPipeError:
            stop_writing(stream)


def _is_tty(descriptor: int) -> bool:
    try:
        return os.isatty(descriptor)
    except OSError:
        return False
