"""Every deliberation ends once, by its deadline, whichever process dies. The table goes to docs/reliability.md."""

import pytest

from parley.broker.jetstream.nats_client import NatsClient as Nats
from tests.faults import load
from tests.faults.cases import Case
from tests.faults.conftest import ROWS
from tests.faults.fleet import Fleet

FULL, SHORT = 300, 45
# Enough for a case that uses up each of its time limits.
CASE_SECONDS = 300


@pytest.mark.ray
@pytest.mark.timeout(CASE_SECONDS)
async def test_every_deliberation_ends_once_whichever_process_dies(
    case: Case, full: bool, running_fleet: Fleet, observer: Nats
) -> None:
    await running_fleet.ready()
    await running_fleet.steer.behave(latency_ms=300)

    async def strike() -> None:
        await case.strike(running_fleet)

    try:
        outcome = await load.run(
            observer,
            FULL if full else SHORT,
            strike,
            timeout=case.timeout,
            after=0.0 if case.lasting else 1 / 3,
        )
    finally:
        await running_fleet.ready()
    ROWS.append((case, outcome))
    shown = f"{outcome}\n" + "\n".join(
        f"── {process.name}\n{process.log_end()}" for process in running_fleet.everyone
    )
    assert outcome.lost == [], shown
    assert outcome.doubled == [], shown
    assert outcome.late == [], shown
    assert outcome.unnamed == [], shown
    assert outcome.miscounted == [], shown
    assert outcome.unmarked == [], shown
    assert outcome.dead_letters == 0, shown
    if case.heard_once:
        assert outcome.seen_twice == [], shown
    if case.all_complete:
        assert set(outcome.statuses) == {"completed"}, shown
