"""`parley watch` on a terminal."""

from pathlib import Path

from parley.broker.core.states_and_moves import State
from parley.cli_watch import _row
from parley.client import Client
from tests.harness import ModelServer, Running, fresh
from tests.mirror.parley.test_cli import USAGE, Shell, sh
from tests.mirror.parley.test_display import tally

__all__ = ["sh"]


async def test_without_a_terminal_it_says_what_to_use(sh: Shell, tmp_path: Path) -> None:
    ran = await sh("watch")
    assert (ran.code, "`parley ls` prints a list" in ran.err) == (USAGE, True)


def test_a_row_tells_how_each_is_doing() -> None:
    assert [word.plain for word in _row(tally(), "IN_PROGRESS")] == [
        "t-1",
        "IN_PROGRESS",
        "answer",
        "2 of 3",
        "DEV",
        "none",
    ]
    failed = tally(state=State.FAILED)
    assert _row(failed, "FAILED")[1].style == "red"


async def test_the_table_has_what_runs_first(local_service: Running, model: ModelServer) -> None:
    from parley.cli_watch import _table

    client: Client = local_service.client
    await client.deliberate("x", agents=1)
    await model.behave(faults={"hang": 1.0})
    job = await client.submit("x", agents=1, task_id=fresh(), timeout_seconds=60)
    await model.runs(1)
    table = await _table(client, 5)
    first = next(iter(table.columns[0].cells))
    assert str(first) == job.task_id
    assert len(table.rows) <= 5
    await job.cancel()
