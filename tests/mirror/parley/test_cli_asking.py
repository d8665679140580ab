"""`parley ask`: questions from pipes and files, and a request that the service refuses."""

import json
from pathlib import Path

import pytest

from tests.harness import ModelServer, Running, fresh
from tests.mirror.parley.test_cli import FAILED, OK, USAGE, Shell, one_line, sh

__all__ = ["sh"]

QUESTION = "Größe <b>?\n\n  and why\n"


async def test_a_question_comes_from_a_pipe_or_a_file(
    sh: Shell, local_service: Running, model: ModelServer, tmp_path: Path
) -> None:
    assert model is not None
    (tmp_path / "q.md").write_text(QUESTION)
    for arguments in (("-",), (), ("--file", "q.md"), ("--file", "-")):
        name = fresh("piped")
        ran = await sh.given(
            QUESTION.encode(), "ask", *arguments, "--agents", "1", "--task-id", name, "--json"
        )
        assert (ran.code, ran.err) == (OK, "")
        assert json.loads(ran.out)["task_id"] == name
        tally = await local_service.client.tally(name)
        assert tally is not None
        assert await local_service.client.questions([tally]) == {name: QUESTION.rstrip("\n")}


async def test_a_question_that_cannot_be_asked_is_said_before_anything_is_sent(sh: Shell) -> None:
    ran = await sh.given(b"x" * 300_000, "ask", "-", NATS_URL="nats://127.0.0.1:9")
    assert ran.code == USAGE
    assert "is 300,000 bytes; at most 262,144 (256 KiB)" in one_line(ran)


async def test_the_plan_is_shown_and_nothing_is_asked(sh: Shell) -> None:
    ran = await sh("ask", "x", "--agents", "5", "--select", "judge", "--plan", NATS_URL="nats://127.0.0.1:9")
    assert ran.code == OK
    assert ran.out.splitlines()[:2] == ["answer: 5 calls, 67% of the time", "judge: 3 calls, 33% of the time"]


async def test_the_winner_comes_first_and_alone_with_raw(
    sh: Shell, local_service: Running, model: ModelServer
) -> None:
    assert model is not None
    ran = await sh("ask", "x", "--agents", "2", "--select", "judge", "--judges", "1")
    assert ran.code == OK
    assert "won 1/1 of its comparisons; margin 1/1; 1 of 1 ballots" in ran.out
    assert "--all shows them." in ran.out
    ran = await sh("ask", "x", "--agents", "2", "--select", "judge", "--raw")
    assert (ran.code, ran.out.count("[simulated answer]"), len(ran.out.splitlines())) == (OK, 1, 1)
    ran = await sh("ask", "x", "--agents", "2", "--select", "judge", "--max-calls", "4", "--raw")
    assert (ran.code, ran.out) == (FAILED, "")
    assert (
        "Nothing was chosen: judge: left out: it would have made 5 calls, more than --max-calls, 4" in ran.err
    )
    ran = await sh("result", ran.err.splitlines()[-1].split()[0], "--json")
    found = json.loads(ran.out)
    assert (found["degraded"], found["selection"]["status"]) == (True, "no_ballots")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--raw"], "--raw: prints the answer that was chosen; it needs --select judge, rank or vote"),
        (["--raw", "--json", "--select", "judge"], "--raw and --json: only one of them"),
        (["--raw", "--plan", "--select", "judge"], "--raw and --plan: only one of them"),
        (["--all", "--no-wait"], "--all and --no-wait: only one of them"),
        (["--select", "vote", "--answer-key", "banana"], "--answer-key: must be number, line, after:WORDS or json:/POINTER"),
        (["--messages", "none.json"], "--messages and a question: only one of them"),
        (["--panel", "none.json"], "--panel: none.json: No such file or directory"),
        (["--panel", "helm/parley/values.schema.json"], "--panel: helm/parley/values.schema.json has no list of members"),
        (["--schema", "pyproject.toml"], "--schema: pyproject.toml is no JSON: "),
        (["--schema", "none.json"], "--schema: none.json: No such file or directory"),
        (["--schema", "/dev/null"], "--schema: /dev/null is no JSON: "),
        (["--select", "vote", "--answer-key", "json:a"], "--answer-key: is no JSON pointer such as /answer"),
    ],
)  # fmt: skip
async def test_flags_that_do_not_fit_are_said_before_anything_is_asked(
    sh: Shell, flags: list[str], said: str
) -> None:
    ran = await sh("ask", "x", *flags, NATS_URL="nats://127.0.0.1:9")
    assert (ran.code, said in one_line(ran)) == (USAGE, True), ran.err


async def test_a_plan_is_told_as_json_too(sh: Shell) -> None:
    ran = await sh(
        "ask", "x", "--select", "judge", "--max-calls", "4", "--plan", "--json", NATS_URL="nats://127.0.0.1:9"
    )
    assert ran.code == OK
    assert [(phase["phase"], phase["calls"], bool(phase["left_out"])) for phase in json.loads(ran.out)["phases"]] == [
        ("answer", 3, False), ("judge", 0, True),
    ]  # fmt: skip


async def test_a_panel_and_a_conversation_come_from_files(
    sh: Shell, local_service: Running, model: ModelServer, tmp_path: Path
) -> None:
    assert model is not None
    panel, talk, wrong = tmp_path / "panel.json", tmp_path / "talk.json", tmp_path / "wrong.json"
    panel.write_text('[{"persona": "You are a cook."}, {"max_tokens": 5}]')
    talk.write_text('[{"role": "user", "content": "Why?"}]')
    wrong.write_text('[{"temperature": 3}]')
    ran = await sh("ask", "--messages", str(talk), "--panel", str(panel), "--json")
    assert [result["persona"] for result in json.loads(ran.out)["results"]] == ["You are a cook.", None]
    ran = await sh("ask", "x", "--panel", str(wrong))
    assert (ran.code, "--panel.0.temperature: at most 2" in one_line(ran)) == (USAGE, True), ran.err


async def test_a_vote_is_asked_for_in_one_word(sh: Shell, local_service: Running, model: ModelServer) -> None:
    assert model is not None
    ran = await sh(
        "ask", "x", "--agents", "2", "--select", "vote", "--answer-key", "line", "--agree", "2", "--json"
    )
    assert json.loads(ran.out)["selection"]["method"] == "vote"
