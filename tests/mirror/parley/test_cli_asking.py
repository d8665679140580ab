"""`parley ask`: questions from pipes and files, and a request that the service refuses."""

import json
from pathlib import Path

from tests.harness import ModelServer, Running, fresh
from tests.mirror.parley.test_cli import OK, USAGE, Shell, one_line, sh

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
