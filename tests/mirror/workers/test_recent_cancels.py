"""Which deliberations were cancelled lately: heard, bounded, forgotten in time."""

import pytest

from parley.broker.core.messages import AgentCancel
from parley.broker.core.phase_plan import PhaseKind
from parley.workers import recent_cancels
from parley.workers.recent_cancels import REASON_CHARACTERS, REMEMBERED_SECONDS, Cancels, stops
from tests.mirror.workers import work


class Clock:
    def __init__(self) -> None:
        self.time = 1_000.0

    def now(self) -> float:
        return self.time


def heard(memory: Cancels, task_id: str, reason: str = "") -> AgentCancel | None:
    return memory.hear(AgentCancel(task_id=task_id, reason=reason).encode())


def test_a_cancel_is_remembered_with_its_reason() -> None:
    memory = Cancels()
    assert heard(memory, "t-1", "the user left") == AgentCancel(task_id="t-1", reason="the user left")
    assert memory.reason(work(task_id="t-1")) == "the user left"
    assert memory.reason(work(task_id="t-2")) is None


def test_a_cancel_without_a_reason_still_counts() -> None:
    memory = Cancels()
    heard(memory, "t-1")
    assert memory.reason(work(task_id="t-1")) == "cancelled"


@pytest.mark.parametrize(
    "body", [b"", b"not JSON", b"{}", b'{"task_id": "not a task id!"}', b'{"task_id": 5}']
)
def test_an_unreadable_broadcast_is_not_quoted(body: bytes, caplog: pytest.LogCaptureFixture) -> None:
    memory = Cancels()
    assert memory.hear(body) is None
    assert "agent.cancel ignored" in caplog.text
    assert "not a task id!" not in caplog.text


def test_a_cancel_is_forgotten_in_time_for_its_task_id_to_be_used_again() -> None:
    clock = Clock()
    memory = Cancels(clock.now)
    heard(memory, "t-1")
    clock.time += REMEMBERED_SECONDS - 0.001
    assert memory.reason(work(task_id="t-1")) == "cancelled"
    clock.time += 0.001
    assert memory.reason(work(task_id="t-1")) is None


def test_a_cancel_heard_again_counts_from_then() -> None:
    clock = Clock()
    memory = Cancels(clock.now)
    heard(memory, "t-1", "first")
    clock.time += REMEMBERED_SECONDS - 1
    heard(memory, "t-1", "second")
    clock.time += REMEMBERED_SECONDS - 1
    assert memory.reason(work(task_id="t-1")) == "second"


def test_only_so_many_are_remembered_the_oldest_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_cancels, "REMEMBERED", 3)
    memory = Cancels()
    for number in range(1, 6):
        heard(memory, f"t-{number}")
    assert [number for number in range(1, 6) if memory.reason(work(task_id=f"t-{number}"))] == [3, 4, 5]


def test_a_cancel_heard_again_is_not_among_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_cancels, "REMEMBERED", 3)
    memory = Cancels()
    for name in ("t-1", "t-2", "t-3", "t-1", "t-4"):
        heard(memory, name)
    assert [number for number in range(1, 5) if memory.reason(work(task_id=f"t-{number}"))] == [1, 3, 4]


def test_a_reason_is_remembered_only_so_far() -> None:
    memory = Cancels()
    heard(memory, "t-1", "x" * 10_000)
    assert memory.reason(work(task_id="t-1")) == "x" * REASON_CHARACTERS


def test_the_cancel_of_a_phase_stops_nothing_of_another() -> None:
    memory = Cancels()
    cancel = AgentCancel(task_id="t-1", reason="its phase is closed", round=1, phase=PhaseKind.ANSWER)
    memory.note(cancel)
    answers, judges = work(task_id="t-1"), work(task_id="t-1", phase=PhaseKind.JUDGE)
    assert memory.reason(answers) == "its phase is closed"
    assert memory.reason(judges) is None
    assert (stops(cancel, answers), stops(cancel, judges)) == (True, False)
    assert not stops(cancel, work(task_id="t-1", round=2))
    whole = AgentCancel(task_id="t-1")
    assert stops(whole, answers)
    assert stops(whole, judges)
