"""`parley result` and `ls`: exit codes of each status, who failed and why, waiting, and which deliberations are listed."""

import asyncio
import json
import time
from typing import Any

import pytest

from tests.harness import PATIENCE_SECONDS, ModelServer, Running, fresh
from tests.mirror.parley.test_cli import FAILED, OK, RUNNING, UNKNOWN, USAGE, Shell, one_line, sh

__all__ = ["sh"]


async def test_running_failed_completed_and_unknown_have_exit_codes_of_their_own(
    sh: Shell, local_service: Running, model: ModelServer
) -> None:
    completed = await local_service.client.deliberate("Why so?", agents=1)
    await model.behave(faults={"400": 1.0})
    failed = await local_service.client.deliberate("Why not?", agents=2)
    await model.behave(faults={"hang": 1.0})
    running = await local_service.client.submit("Why wait?", agents=2, timeout_seconds=60)
    names = (completed.task_id, failed.task_id, running.task_id, fresh("unknown"))
    shown = await asyncio.gather(*(sh("result", name) for name in names))
    told = await asyncio.gather(*(sh("result", name, "--json") for name in names))
    codes = [OK, FAILED, RUNNING, UNKNOWN]
    assert [ran.code for ran in shown] == codes
    assert [ran.code for ran in told] == codes
    assert [json.loads(ran.out)["question"] for ran in told] == ["Why so?", "Why not?", "Why wait?", None]
    assert shown[1].out.startswith("Question: Why not?\n")
    assert shown[1].out.count("failed (bad_request): ") == 2  # who failed, and why
    (first, _) = json.loads(told[1].out)["failed_agents"]
    assert (first["agent_id"], first["error_type"]) == ("agent-dev-001", "bad_request")
    assert shown[2].out.count("thinking") == 2
    assert shown[2].err == ""
    await local_service.client.cancel(running.task_id)


async def rows_of(sh: Shell, name: str, *arguments: str) -> list[dict[str, Any]]:
    """What `ls --json` has of the deliberation `name`."""
    found = json.loads((await sh("ls", "--json", *arguments)).out)
    return [row for row in found if row["task_id"] == name]


async def test_every_command_has_the_same_status_for_a_deliberation_from_its_first_call_to_its_cancel(
    sh: Shell, local_service: Running, model: ModelServer
) -> None:
    await model.behave(faults={"hang": 1.0})
    name = fresh("same")
    async with sh.started("ask", "x", "--json", "--task-id", name) as asking:
        await model.runs(3)  # and none has reported
        assert (await local_service.client.tally(name)).state == "pending"  # type: ignore[union-attr]  # it is there
        shown, told, listed = await asyncio.gather(
            sh("result", name), sh("result", name, "--json"), sh("ls", "--limit", "1")
        )
        assert f"{name} IN_PROGRESS: 0 answered" in shown.out
        assert (told.code, json.loads(told.out)["status"], json.loads(told.out)["ending"]) == (
            RUNNING, "IN_PROGRESS", None,
        )  # fmt: skip
        assert listed.out.splitlines()[1].split("\t")[:2] == [name, "IN_PROGRESS"]
        (row,) = await rows_of(sh, name, "--status", "in-progress")
        assert (row["status"], row["ending"]) == ("IN_PROGRESS", None)
        assert await rows_of(sh, name, "--status", "pending") == []
        await local_service.client.cancel(name)
        out, _ = await asyncio.wait_for(asking.communicate(), PATIENCE_SECONDS)
    told = await sh("result", name, "--json")
    assert (json.loads(told.out)["status"], json.loads(told.out)["ending"]) == ("FAILED", "cancelled")
    assert json.loads(out)["status"] == "cancelled"  # the ending as it was published
    for word in ("cancelled", "FAILED"):
        (row,) = await rows_of(sh, name, "--status", word)
        assert (row["status"], row["ending"], row["state"]) == ("FAILED", "cancelled", "cancelled")
    assert await rows_of(sh, name, "--status", "rejected") == []


async def test_waiting_ends_with_the_ending_or_after_its_seconds(
    sh: Shell, local_service: Running, model: ModelServer
) -> None:
    await model.behave(faults={"hang": 1.0})
    submitted = await local_service.client.submit("x", agents=1, timeout_seconds=60)
    began = time.monotonic()
    assert (await sh("result", submitted.task_id, "--wait", "0.5")).code == RUNNING
    assert time.monotonic() - began < 20
    waiting = asyncio.create_task(sh("result", "--wait", submitted.task_id))
    await local_service.client.cancel(submitted.task_id)
    ran = await waiting
    assert ran.code == FAILED
    assert f"{submitted.task_id} FAILED" in ran.out
    assert (await sh("result", fresh("unknown"), "--wait")).code == UNKNOWN
    assert "--wait" in one_line(await sh("result", "d-1", "--wait=-1"))
    assert "task_id: 1 to 64 of" in one_line(await sh("result", "a b"))


async def test_no_wait_prints_the_name_at_once(sh: Shell, local_service: Running, model: ModelServer) -> None:
    await model.behave(faults={"hang": 1.0})
    name = fresh("no-wait")
    plain, scripts = await asyncio.gather(
        sh("ask", "x", "--no-wait", "--task-id", name), sh("ask", "y", "--no-wait", "--json")
    )
    assert (plain.code, plain.out, plain.err) == (OK, f"{name}\n", "")
    told = json.loads(scripts.out)
    assert set(told) == {"task_id"}
    for started in (name, told["task_id"]):
        await local_service.client.cancel(started)


async def test_lists_hold_whole_names_and_first_words_and_are_narrowed(
    sh: Shell, local_service: Running, model: ModelServer
) -> None:
    name, role = fresh("a" * 50), "R" + fresh("").replace("-", "").upper()
    await local_service.client.deliberate("Why\nnot?  " + "x" * 200, agents=1, task_id=name, role=role)
    rows = [
        line.split("\t") for line in (await sh("ls", "--role", role.lower(), COLUMNS="40")).out.splitlines()
    ]
    assert len(rows) == 2
    assert rows[1][:3] == [name, "COMPLETED", role]
    assert rows[1][-1].startswith("Why not? xxx")
    for arguments, count in (
        (("--status", "completed"), 1), (("--status", "FAILED"), 0), (("--since", "1h"), 1),
        (("--since", "2000-01-01"), 1), (("--since", "2099-01-01T00:00:00+00:00"), 0), (("--since", "0s"), 0),
    ):  # fmt: skip
        ran = await sh("ls", "--json", "--role", role, *arguments)
        found = json.loads(ran.out)
        assert len(found) == count, arguments
        assert all(row["status"] == "COMPLETED" and row["question"].startswith("Why") for row in found)


@pytest.mark.parametrize(
    ("flag", "value"), [("--status", "done"), ("--since", "yesterday"), ("--since", "2000-99-99")]
)
async def test_a_filter_that_means_nothing_is_named(flag: str, value: str, sh: Shell) -> None:
    ran = await sh("ls", flag, value)
    assert ran.code == USAGE
    assert one_line(ran).startswith(f"parley: {flag}: ")
    assert flag == "--status" or "2026-01-31T12:00Z" in ran.err  # both of its forms
