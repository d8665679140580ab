"""stdout as it may be: a terminal, closed, full, or without the letters of an answer. No traceback, and the command's own
exit code."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import ModelServer, Running, fresh
from tests.mirror.parley.test_cli import FAILED, NO_SERVICE, OK, PARLEY, USAGE, Ran, Shell, bare, sh
from tests.rig.pseudo_terminal import pseudo_terminal

__all__ = ["bare", "sh"]


def piped(shell: Shell, line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A line of bash; `$P` is the command. `${PIPESTATUS[0]}` is printed after it."""
    environment = {**shell.environment, **environment, "P": PARLEY}
    script = f"{line}; echo code ${{PIPESTATUS[0]}}"
    return subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=False,
        cwd=shell.environment["HOME"], errors="replace",
    )  # fmt: skip


CLOSED = [
    ("$P ls --json | head -1", OK),
    ("$P ls | true", OK),
    ("$P ask x --json | head -1", OK),
    ("$P ask x | true", OK),
    ("$P result absent | true", 5),
    ("$P ask x >&-", OK),
    ("$P settings | head -1", OK),
    ("$P doctor | true", OK),
    ("$P deadletters list --json | true", OK),
    ("$P ls 2>&- | head -1", OK),
    ("$P --version | true", OK),
    ("$P ask -h | true", OK),
    ("$P -h | true", OK),
]


@pytest.mark.parametrize(("line", "code"), CLOSED)
async def test_a_reader_that_leaves_changes_no_exit_code(
    line: str, code: int, sh: Shell, local_service: Running, model: ModelServer
) -> None:
    ran = await asyncio.to_thread(piped, sh, line)
    assert ran.stdout.splitlines()[-1] == f"code {code}"
    assert ran.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="macOS has no /dev/full")
async def test_a_full_disk_is_said(sh: Shell) -> None:
    for line in ("$P ls > /dev/full", "$P ls --json > /dev/full", "$P settings > /dev/full"):
        ran = await asyncio.to_thread(piped, sh, line)
        assert ran.stdout == f"code {FAILED}\n"
        assert "No space left on device" in ran.stderr
        assert "Traceback" not in ran.stderr


LOCALES = [
    {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    {"LANG": "C", "LC_ALL": ""},
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1"},
    {"LC_ALL": "POSIX", "NO_COLOR": "1", "TERM": "dumb"},
]


@pytest.mark.parametrize("locale", LOCALES, ids=str)
async def test_a_locale_without_the_letters_gets_escapes(
    locale: dict[str, str], sh: Shell, local_service: Running, model: ModelServer
) -> None:
    ending = await local_service.client.deliberate("Größe 大?", agents=1)
    shown, asked, listed = (
        await sh.given(b"", "result", ending.task_id, **locale),
        await sh.given("Größe 大 👍?".encode(), "ask", "--agents", "1", **locale),
        await sh.given(b"", "ls", "--limit", "3", **locale),
    )
    assert [ran.code for ran in (shown, asked, listed)] == [OK, OK, OK]
    assert "Traceback" not in shown.err + asked.err + listed.err
    assert "Gr" in shown.out
    assert "\\u5927" in shown.out or "大" in shown.out


@pytest.mark.parametrize("locale", LOCALES, ids=str)
async def test_json_is_json_in_any_locale(
    locale: dict[str, str], sh: Shell, local_service: Running, model: ModelServer
) -> None:
    question = "é 大 👍 \u202e?"
    asked = await sh.given(question.encode(), "ask", "--agents", "1", "--json", **locale)
    name = json.loads(asked.out)["task_id"]
    shown = await sh.given(b"", "result", name, "--json", **locale)
    listed = await sh.given(b"", "ls", "--limit", "1", "--json", **locale)
    assert json.loads(shown.out)["question"] == json.loads(listed.out)[0]["question"] == question


async def test_arguments_are_utf8_whatever_the_locale(sh: Shell, model: ModelServer) -> None:
    locale = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    name = fresh("locale")
    question, rubric = "Größe 大?".encode(), "schön".encode()
    ran = await sh.given(b"", b"ask", question, b"--rubric", rubric, b"--task-id", name.encode(), **locale)
    assert (ran.code, ran.err) == (OK, "")
    shown = await sh.given(b"", "result", name, "--json")
    assert json.loads(shown.out)["question"] == question.decode()


async def test_bytes_that_are_not_utf8_are_said_wherever_they_are(sh: Shell) -> None:
    bad = b"caf\xe9"
    for arguments in (
        (b"ask", bad), (b"ask", b"x", b"--rubric", bad), (b"ask", b"x", b"--requirement", bad),
        (b"ask", b"x", b"--role", bad), (b"ask", b"x", b"--task-id", bad), (b"result", bad), (b"cancel", bad),
        (b"ls", b"--status", bad), (b"ls", b"--since", bad), (b"ask", b"--file", bad), (b"serve", b"--parts", bad),
        (b"ask", b"x", b"--agents", bad), (bad,),
    ):  # fmt: skip
        ran = await sh.given(b"", *arguments)
        assert ran.code == USAGE, (arguments, ran)
        assert "Traceback" not in ran.err
        assert ran.err.startswith(("parley: ", "Usage: parley"))
    ran = await sh.given(b"", "ask", "x", NATS_URL="nats://caf\udce9:4222")
    assert ran.code in (USAGE, NO_SERVICE)
    assert "Traceback" not in ran.err


# What a model may have written, and a command that prints an ending with that answer as `ask --raw` does.
ANSWER = "a\x1b[31mred\x1b]0;title\x07 \u202eabc\tend\nof it"
RAW = f"""
from types import SimpleNamespace
from parley.cli_asking import _print_words
raise SystemExit(_print_words(SimpleNamespace(answer={ANSWER!r})))
"""


async def test_raw_is_exact_in_a_pipe_and_harmless_on_a_terminal(bare: Shell) -> None:
    shell = Shell(Path(bare.environment["HOME"]), command=(sys.executable, "-c", RAW))
    assert await shell() == Ran(OK, f"{ANSWER}\n", "")
    seen = {**bare.environment, "TERM": "xterm"}
    async with pseudo_terminal(sys.executable, "-c", RAW, environment=seen) as terminal:
        assert await terminal.end() == OK
    # The terminal itself makes `\r\n` of a line end.
    assert terminal.raw == "a[31mred]0;title \\u202eabc\tend\r\nof it\r\n"
    environment = {"PARLEY_ROLES_DIR": bare.environment["HOME"]}
    (Path(bare.environment["HOME"]) / "COOK.md").write_text("Cook \x1b[31mwell.")
    async with pseudo_terminal(
        PARLEY, "prompts", "show", "COOK", environment={**seen, **environment}
    ) as terminal:
        assert await terminal.end() == OK
    assert "Cook [31mwell." in terminal.raw
