"""The status of each deliberation in a list: from its tally, and from the service where a tally cannot tell."""

import asyncio
from typing import Any, Literal

import pytest

from parley.broker.core.errors import BrokerUnavailable
from parley.broker.core.messages import DeliberationStatus
from parley.broker.core.states_and_moves import State
from parley.broker.core.tally import Decision, Tally
from parley.statuses import (
    AT_A_TIME,
    MAX_ASKED,
    STATUSES,
    ending_of_tally,
    has_status,
    may_become,
    read_statuses,
    status_of,
)


def tally(task_id: str, state: State, **fields: Any) -> Tally:
    if state not in (State.PENDING, State.IN_PROGRESS):
        fields = {"verdict": Decision(decided_at=2.0), "ending_seq": 7, **fields}
    return Tally(task_id=task_id, state=state, request_seq=1, accepted_at=1.0, deadline=9.0, **fields)


class Service:
    """Says of every deliberation that it is IN_PROGRESS, but for those that it has other words for."""

    def __init__(self, **other: Literal["PENDING", "UNKNOWN", "away", "silent"]) -> None:
        self._other = other
        self.asked: list[str] = []
        self.most_at_a_time = 0
        self._now = 0

    async def status(self, task_id: str) -> DeliberationStatus:
        self.asked.append(task_id)
        self._now += 1
        self.most_at_a_time = max(self.most_at_a_time, self._now)
        await asyncio.sleep(0)
        self._now -= 1
        word = self._other.get(task_id, "IN_PROGRESS")
        if word == "away":
            raise BrokerUnavailable("nats://one", "gone")
        if word == "silent":
            await asyncio.Event().wait()
        return DeliberationStatus(task_id=task_id, status=word)  # type: ignore[arg-type]  # the other two are gone


async def test_the_service_is_asked_only_about_those_that_are_pending() -> None:
    service = Service(b="PENDING")
    tallies = [tally("a", State.PENDING), tally("b", State.PENDING), tally("c", State.IN_PROGRESS), tally("d", State.CANCELLED)]  # fmt: skip
    found = await read_statuses(service, tallies)
    assert found == {"a": "IN_PROGRESS", "b": "PENDING", "c": "IN_PROGRESS", "d": "FAILED"}
    assert service.asked == ["a", "b"]


async def test_what_the_service_does_not_say_in_time_the_tally_says() -> None:
    service = Service(a="UNKNOWN", b="away", c="silent")
    found = await read_statuses(service, [tally(name, State.PENDING) for name in "abcd"], wait_seconds=0.05)
    assert found == {"a": "PENDING", "b": "PENDING", "c": "PENDING", "d": "IN_PROGRESS"}


async def test_of_many_only_the_newest_are_asked_about_and_few_at_a_time() -> None:
    service = Service()
    names = [f"d-{number}" for number in range(MAX_ASKED + 5)]
    found = await read_statuses(service, [tally(name, State.PENDING) for name in names])
    assert service.asked == names[:MAX_ASKED]
    assert service.most_at_a_time == AT_A_TIME
    assert [found[name] for name in names] == ["IN_PROGRESS"] * MAX_ASKED + ["PENDING"] * 5


def test_it_is_not_over_before_its_ending_is_published() -> None:
    decided = tally("a", State.COMPLETED, ending_seq=None)
    assert (status_of(decided), ending_of_tally(decided)) == ("IN_PROGRESS", None)
    assert may_become(decided, "IN_PROGRESS")
    assert not may_become(decided, "COMPLETED")


@pytest.mark.parametrize(
    ("state", "meant_by"),
    [
        (State.PENDING, {"PENDING"}),
        (State.IN_PROGRESS, {"IN_PROGRESS"}),
        (State.COMPLETED, {"COMPLETED"}),
        (State.FAILED, {"FAILED"}),
        (State.TIMEOUT, {"TIMEOUT"}),
        (State.CANCELLED, {"FAILED", "CANCELLED"}),
        (State.REJECTED, {"FAILED", "REJECTED"}),
    ],
)
def test_a_cancelled_or_rejected_one_is_meant_by_failed_and_by_its_own_word(
    state: State, meant_by: set[str]
) -> None:
    one = tally("a", state)
    assert {word for word in STATUSES if has_status(one, status_of(one), word)} == meant_by
    assert all(may_become(one, word) for word in meant_by)
