"""`parley batch`: every question of a file once, also over several starts."""

import json
from pathlib import Path
from typing import Any

from tests.harness import ModelServer, Running, fresh
from tests.mirror.parley.test_cli import FAILED, OK, USAGE, Shell, sh

__all__ = ["sh"]


def written(folder: Path, *lines: Any) -> Path:
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def endings(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "questions.endings.jsonl").read_text().splitlines()]


async def test_each_question_has_its_ending(
    sh: Shell, local_service: Running, model: ModelServer, tmp_path: Path
) -> None:
    name = fresh()
    file = written(tmp_path, "one", {"task_description": "two", "agents": 1, "task_id": name}, "three")
    ran = await sh("batch", str(file), "--agents", "2", "--limit", "2")
    assert (ran.code, ran.out) == (OK, "")
    assert "3 of 3 have an ending" in ran.err
    found = {one["line"]: one["ending"] for one in endings(tmp_path)}
    assert {line: ending["total_agents"] for line, ending in found.items()} == {1: 2, 2: 1, 3: 2}
    assert found[2]["task_id"] == name


async def test_started_again_it_goes_on_with_what_is_left_and_asks_nothing_twice(
    sh: Shell, local_service: Running, model: ModelServer, tmp_path: Path
) -> None:
    mark = fresh()
    file = written(tmp_path, *(f"{mark} {number}" for number in range(6)))
    await sh("batch", str(file), "--agents", "1")
    calls = (await model.seen())["requests"]
    kept = (tmp_path / "questions.endings.jsonl").read_text().splitlines(keepends=True)
    # It died in the middle of the fourth line.
    (tmp_path / "questions.endings.jsonl").write_text("".join(kept[:3]) + kept[3][:40])
    ran = await sh("batch", str(file), "--agents", "1")
    assert ran.code == OK
    whole = [
        line for line in (tmp_path / "questions.endings.jsonl").read_text().splitlines() if line.endswith("}")
    ]
    assert {json.loads(line)["line"] for line in whole if _is_json(line)} == {1, 2, 3, 4, 5, 6}
    assert (await model.seen())["requests"] == calls


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


async def test_those_that_do_not_complete_are_counted(
    sh: Shell, local_service: Running, model: ModelServer, tmp_path: Path
) -> None:
    await model.behave(faults={"400": 1.0})
    ran = await sh("batch", str(written(tmp_path, f"x {fresh()}")), "--agents", "1")
    assert ran.code == FAILED
    assert "1 of 1 did not complete" in ran.err
    assert endings(tmp_path)[0]["ending"]["status"] == "failed"


async def test_each_line_with_a_mistake_is_named_and_nothing_is_asked(
    sh: Shell, local_service: Running, model: ModelServer, tmp_path: Path
) -> None:
    file = tmp_path / "questions.jsonl"
    lines = [
        b'"fine"',
        b"",
        b"{",
        b"7",
        b'{"agents": 3}',
        b'{"task_description": "x", "agents": 0}',
        b'{"task_description": "x", "agnets": 3}',
        b"\xff",
    ]
    file.write_bytes(b"\n".join(lines))
    ran = await sh("batch", str(file))
    assert ran.code == USAGE
    assert [line.partition(": ")[2].partition(": ")[0] for line in ran.err.splitlines()] == [
        f"{file}:{number}" for number in (3, 4, 5, 6, 7, 8)
    ]
    assert "did you mean agents?" in ran.err
    assert not (tmp_path / "questions.endings.jsonl").exists()


async def test_a_file_that_is_not_there_is_said(sh: Shell, tmp_path: Path) -> None:
    ran = await sh("batch", str(tmp_path / "none.jsonl"))
    assert (ran.code, "No such file" in ran.err) == (USAGE, True)
    file = written(tmp_path, "x")
    ran = await sh("batch", str(file), "--endings", str(file))
    assert (ran.code, "has the questions" in ran.err) == (USAGE, True)
