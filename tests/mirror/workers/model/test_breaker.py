"""One breaker, with time as an argument: what opens it, probes, what closes it, and any order of events."""

import copy
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from parley.broker.core.agent_error_table import Signal
from parley.broker.core.messages import ErrorType
from parley.workers.model.breaker import (
    LONGEST_COOLDOWNS,
    Breaker,
    BreakerPolicy,
    BreakerState,
    Failure,
    Permit,
)
from tests import present

START = 1_800_000_000.0
REFUSED = Failure(ErrorType.CONNECTION_FAILED, "refused")
SILENT = Failure(ErrorType.FIRST_BYTE_TIMEOUT, "nothing within 30 s")


def permit(breaker: Breaker, now: float = START) -> Permit:
    return present(breaker.admit(now))


def fail(breaker: Breaker, times: int, now: float = START, failure: Failure = REFUSED) -> None:
    for _ in range(times):
        breaker.end(permit(breaker, now), Signal.DEAD, now, failure=failure)


def opened(failure: Failure = REFUSED, **policy: float) -> Breaker:
    breaker = Breaker(BreakerPolicy(failures=3, **policy))
    fail(breaker, 3, failure=failure)
    assert breaker.state is BreakerState.OPEN
    return breaker


def probe(breaker: Breaker) -> Permit:
    """The permit of the first caller once the breaker is due."""
    given = permit(breaker, breaker.probe_at)
    assert given.probe
    return given


# ── closed ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_closed_breaker_admits_every_call() -> None:
    breaker = Breaker()
    assert not any(permit(breaker).probe for _ in range(1_000))
    assert breaker.state is BreakerState.CLOSED


def test_as_many_failures_in_a_row_as_the_policy_says_open_it_and_not_one_fewer() -> None:
    breaker = Breaker(BreakerPolicy(failures=3))
    fail(breaker, 2)
    assert breaker.state is BreakerState.CLOSED
    fail(breaker, 1, START + 7)
    assert (breaker.state, breaker.openings, breaker.opened_at) == (BreakerState.OPEN, 1, START + 7)
    assert breaker.failure == REFUSED


def test_an_answer_resets_the_count() -> None:
    breaker = Breaker(BreakerPolicy(failures=3))
    for _ in range(10):
        fail(breaker, 2)
        breaker.end(permit(breaker), Signal.ALIVE, START)
    assert (breaker.state, breaker.openings) == (BreakerState.CLOSED, 0)


def test_a_cancelled_call_does_not_count() -> None:
    breaker = Breaker(BreakerPolicy(failures=3))
    fail(breaker, 2)
    breaker.end(permit(breaker), Signal.IGNORED, START)
    assert breaker.openings == 0
    fail(breaker, 1)
    assert breaker.state is BreakerState.OPEN


def test_an_ambiguous_failure_counts_once_a_task() -> None:
    breaker = Breaker(BreakerPolicy(failures=3))
    for _ in range(100):
        breaker.end(permit(breaker), Signal.AMBIGUOUS, START, task_id="poisonous")
    assert breaker.openings == 0
    for task_id in ("another", "a third"):
        breaker.end(permit(breaker), Signal.AMBIGUOUS, START, task_id=task_id)
    assert breaker.state is BreakerState.OPEN


# ── open ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_no_call_is_admitted_until_the_cooldown_is_over_and_then_exactly_one() -> None:
    breaker = opened()
    assert breaker.admit(START) is None
    assert breaker.admit(breaker.probe_at - 0.001) is None
    assert permit(breaker, breaker.probe_at).probe
    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.admit(breaker.probe_at + 1_000) is None


def test_the_cooldown_doubles_with_every_failed_probe_up_to_its_cap_and_begins_anew_after_an_answer() -> None:
    breaker = opened(cooldown=2.0)
    waits = [breaker.probe_at - START]
    for _ in range(4):
        now = breaker.probe_at
        breaker.end(probe(breaker), Signal.DEAD, now, failure=REFUSED)
        waits.append(breaker.probe_at - now)
    assert waits == [2.0, 4.0, 8.0, 10.0, 10.0]
    breaker.end(probe(breaker), Signal.ALIVE, breaker.probe_at)
    fail(breaker, 3)
    assert breaker.probe_at - START == 2.0
    assert breaker.openings == 2


def test_half_of_a_cooldown_is_jitter_and_no_number_of_failures_overflows_it() -> None:
    policy = BreakerPolicy(cooldown=2.0)
    assert (policy.pause(0, 0.0), policy.pause(0, 0.5), policy.pause(0, 1.0)) == (1.0, 1.5, 2.0)
    assert policy.pause(100_000, 1.0) == 2.0 * LONGEST_COOLDOWNS


def test_it_remembers_when_it_opened_and_the_latest_failure() -> None:
    breaker = opened()
    breaker.end(probe(breaker), Signal.DEAD, START + 60, failure=SILENT)
    assert (breaker.opened_at, breaker.openings, breaker.failure) == (START, 1, SILENT)


def test_a_clock_that_is_set_back_does_not_keep_it_open() -> None:
    breaker = opened()
    assert permit(breaker, START - 3_600).probe


def test_failures_of_earlier_calls_neither_keep_it_open_nor_open_it_again() -> None:
    breaker = Breaker(BreakerPolicy(failures=3))
    before = [permit(breaker) for _ in range(100)]
    fail(breaker, 3)
    due = breaker.probe_at
    for late in before[:50]:
        breaker.end(late, Signal.DEAD, START + 0.4, failure=REFUSED)
    assert (breaker.probe_at, breaker.openings) == (due, 1)
    breaker.end(probe(breaker), Signal.ALIVE, due)
    for late in before[50:]:
        breaker.end(late, Signal.DEAD, due, failure=REFUSED)
    assert breaker.state is BreakerState.CLOSED


def test_an_answer_to_an_earlier_call_makes_a_probe_due_at_once() -> None:
    breaker = Breaker(BreakerPolicy(failures=3))
    slow = permit(breaker)
    fail(breaker, 3)
    breaker.end(slow, Signal.ALIVE, START + 0.1)
    assert breaker.state is BreakerState.OPEN
    assert permit(breaker, START + 0.1).probe
    assert breaker.admit(START + 0.1) is None


# ── half-open ───────────────────────────────────────────────────────────────────────────────────────────────


def test_an_answered_probe_closes_it() -> None:
    breaker = opened()
    breaker.end(probe(breaker), Signal.ALIVE, START)
    assert breaker.state is BreakerState.CLOSED
    fail(breaker, 2)
    assert breaker.state is BreakerState.CLOSED


@pytest.mark.parametrize("end", [Signal.DEAD, Signal.AMBIGUOUS])
def test_a_failed_probe_opens_it_again_and_does_not_count_as_an_opening(end: Signal) -> None:
    breaker = opened()
    breaker.end(probe(breaker), end, START + 10, failure=REFUSED)
    assert (breaker.state, breaker.openings) == (BreakerState.OPEN, 1)
    assert breaker.admit(START + 10) is None


def test_after_a_cancelled_probe_the_next_is_due_after_the_same_cooldown() -> None:
    breaker = opened(cooldown=2.0)
    for _ in range(3):
        due = breaker.probe_at
        breaker.end(probe(breaker), Signal.IGNORED, due)
        assert (breaker.state, breaker.probe_at, breaker.failure) == (BreakerState.OPEN, due + 2.0, REFUSED)


def test_it_has_a_failure_only_while_it_is_not_closed() -> None:
    breaker = Breaker(BreakerPolicy(failures=3))
    causes = []
    for _ in range(3):
        fail(breaker, 1)
        causes.append(breaker.failure)
    breaker.end(probe(breaker), Signal.ALIVE, START + 10)
    causes.append(breaker.failure)
    assert causes == [None, None, REFUSED, None]


def test_a_slow_probe_closes_it_after_refusals_but_not_after_silence() -> None:
    refused, silent = opened(REFUSED), opened(SILENT)
    for breaker in (refused, silent):
        breaker.end(probe(breaker), Signal.SLOW, START + 10)
    assert (refused.state, silent.state) == (BreakerState.CLOSED, BreakerState.OPEN)
    assert silent.failure == SILENT


@pytest.mark.parametrize("end", list(Signal))
def test_only_the_probe_ends_the_half_open_state(end: Signal) -> None:
    breaker = Breaker(BreakerPolicy(failures=3))
    before = permit(breaker)
    fail(breaker, 3)
    probe(breaker)
    breaker.end(before, end, START + 10, failure=REFUSED)
    assert breaker.state is BreakerState.HALF_OPEN


# ── any order of events ─────────────────────────────────────────────────────────────────────────────────────


class AnyOrder(RuleBasedStateMachine):
    """Calls that begin and end in any order, at any time. After each event the invariants below hold.

    1. At most one probe is under way, and none while it is closed.
    2. While it is open or half-open only a probe gets a permit.
    3. It opens only after as many failures since the last answer as its policy says. Neither refusals nor the
    ambiguous failures of one task open it. 4. While it is open without a probe, a caller now or after the
    longest cool-down is the probe, even if the clock was set. 5. An answered probe leaves it closed; a failed
    or cancelled one leaves it open and cooling. 6. It has a failure just while it is not closed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(BreakerPolicy(failures=3, cooldown=1.0))
        self.now = START
        self.calls: list[Permit] = []
        self.bad = 0  # failures that may count since the last answer
        self.ambiguous_tasks: set[str] = set()

    @rule(seconds=st.sampled_from([0.0, 0.1, 0.5, 1.0, 3.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(seconds=st.sampled_from([1.0, 3_600.0]))
    def the_clock_is_set_back(self, seconds: float) -> None:
        self.now -= seconds

    @rule()
    def a_caller_asks(self) -> None:
        before = self.breaker.state
        given = self.breaker.admit(self.now)
        if given is not None:
            assert given.probe is (before is not BreakerState.CLOSED), "invariant 2"
            self.calls.append(given)

    @rule(
        place=st.integers(0, 20),
        end=st.sampled_from(Signal),
        task_id=st.sampled_from(["a", "b"]),
        jitter=st.floats(0, 1),
    )
    def a_call_ends(self, place: int, end: Signal, task_id: str, jitter: float) -> None:
        if not self.calls:
            return
        call = self.calls.pop(place % len(self.calls))
        before = self.breaker.state
        if not call.probe and before is BreakerState.CLOSED:
            self.count(end, task_id)
        self.breaker.end(call, end, self.now, failure=REFUSED, task_id=task_id, jitter=jitter)
        after = self.breaker.state
        if before is BreakerState.CLOSED and after is BreakerState.OPEN:
            assert self.bad >= 3, "invariant 3"
        if call.probe and end is Signal.ALIVE:
            assert after is BreakerState.CLOSED, "invariant 5"
        if call.probe and end in (Signal.DEAD, Signal.AMBIGUOUS, Signal.IGNORED):
            assert after is BreakerState.OPEN, "invariant 5"
            assert self.breaker.probe_at > self.now, "invariant 5"
        if before is not after:
            self.bad, self.ambiguous_tasks = 0, set()

    def count(self, end: Signal, task_id: str) -> None:
        if end is Signal.ALIVE:
            self.bad, self.ambiguous_tasks = 0, set()
        elif end is Signal.DEAD or (end is Signal.AMBIGUOUS and task_id not in self.ambiguous_tasks):
            self.bad += 1
            if end is Signal.AMBIGUOUS:
                self.ambiguous_tasks.add(task_id)

    @invariant()
    def one_probe_at_most(self) -> None:
        probes = sum(call.probe for call in self.calls)
        assert probes == (self.breaker.state is BreakerState.HALF_OPEN), "invariant 1"

    @invariant()
    def it_has_a_failure_just_while_it_is_not_closed(self) -> None:
        assert (self.breaker.failure is None) is (self.breaker.state is BreakerState.CLOSED), "invariant 6"

    @invariant()
    def it_will_be_probed(self) -> None:
        if self.breaker.state is not BreakerState.OPEN:
            return
        longest = self.breaker.policy.cooldown * LONGEST_COOLDOWNS
        given = [copy.copy(self.breaker).admit(self.now + patience) for patience in (0.0, longest)]
        assert any(given), "invariant 4"
        assert all(each.probe for each in given if each is not None), "invariant 2"


def quick(examples: int) -> settings:
    return settings(
        max_examples=examples, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
    )


def test_no_order_of_events_breaks_a_rule() -> None:
    run_state_machine_as_test(AnyOrder, settings=quick(300))


def _two_probes(
    original: Callable[[Breaker, float], Permit | None],
) -> Callable[[Breaker, float], Permit | None]:
    def admit(breaker: Breaker, now: float) -> Permit | None:
        given = original(breaker, now)
        return Permit(0, probe=True) if breaker.state is BreakerState.HALF_OPEN else given

    return admit


def _no_probes(
    original: Callable[[Breaker, float], Permit | None],
) -> Callable[[Breaker, float], Permit | None]:
    return lambda breaker, now: original(breaker, now) if breaker.state is BreakerState.CLOSED else None


def _admits_while_open(
    original: Callable[[Breaker, float], Permit | None],
) -> Callable[[Breaker, float], Permit | None]:
    return lambda breaker, now: Permit(0, probe=False)


@pytest.mark.parametrize(
    ("broken", "number"),
    [(_two_probes, 1), (_admits_while_open, 2), (_no_probes, 4)],
    ids=lambda value: value.__name__.strip("_") if callable(value) else str(value),
)
def test_the_search_finds_a_broken_rule(
    monkeypatch: pytest.MonkeyPatch,
    broken: Callable[[Callable[[Breaker, float], Permit | None]], Callable[[Breaker, float], Permit | None]],
    number: int,
) -> None:
    monkeypatch.setattr(Breaker, "admit", broken(Breaker.admit))
    searching = settings(
        quick(1_000), derandomize=True, database=None, phases=[Phase.generate], report_multiple_bugs=False
    )
    with pytest.raises(AssertionError, match=rf"invariant {number}\b"):
        run_state_machine_as_test(AnyOrder, settings=searching)


def test_the_search_finds_a_refusal_that_opens_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Breaker, "_counts", lambda breaker, signal, task_id: signal is not Signal.ALIVE)
    searching = settings(
        quick(1_000), derandomize=True, database=None, phases=[Phase.generate], report_multiple_bugs=False
    )
    with pytest.raises(AssertionError, match="invariant 3"):
        run_state_machine_as_test(AnyOrder, settings=searching)
