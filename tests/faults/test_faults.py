"""Whatever dies: every deliberation ends, once, by its deadline. The table goes to docs/reliability.md."""

import pytest

from parley.broker.jetstream.nats_client import NatsClient as Nats
from tests.faults import load
from tests.faults.cases import Case
from tests.faults.conftest import ROWS
from tests.faults.fleet import Fleet

FULL, SHORT = 300, 45
# A case that meets every one of its time limits still ends within this.
CASE_SECONDS = 300


@pytest.mark.ray
@pytest.mark.timeout(CASE_SECONDS)
async def test_every_deliberation_ends_once_whatever_dies(
    case: Case, full: bool, ships: Fleet, spyglass: Nats
) -> None:
    await ships.ready()
    await ships.steer.behave(latency_ms=300)

    async def strike() -> None:
        await case.strike(ships)

    try:
        outcome = await load.run(
            spyglass,
            FULL if full else SHORT,
            strike,
            timeout=case.timeout,
            after=0.0 if case.lasting else 1 / 3,
        )
    finally:
        await ships.ready()
    ROWS.append((case, outcome))
    shown = f"{outcome}\n" + "\n".join(
        f"── {process.name}\n{process.log_end()}" for process in ships.everyone
    )
    assert outcome.lost == [], shown
    assert outcome.doubled == [], shown
    assert outcome.late == [], shown
    assert outcome.unnamed == [], shown
    assert outcome.unmarked == [], shown
    assert outcome.dead_letters == 0, shown
    if case.heard_once:
        assert outcome.seen_twice == [], shown
    if case.all_complete:
        assert set(outcome.statuses) == {"completed"}, shown
