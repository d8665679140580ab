"""The tally among several writers: stale reads, refused writes, repeated messages, deaths between any two steps, in any order.

What one tally does with one sequence of events is tests/mirror/broker/test_tally.py's. Here the question is whether it matters who
folds what, from which memory, how often, and how much at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from parley.broker.core.lifecycle import State
from parley.broker.core.messages import ErrorType
from parley.broker.core.tally import (
    ArmDeadline,
    CancelRequested,
    DeadlineReached,
    Effect,
    EndingPublished,
    Event,
    PublishEnding,
    Reported,
    Requested,
    Tally,
    react,
)

BEGAN, DEADLINE = 1_000.0, 1_060.0
WRITERS = st.integers(0, 2)
DEATHS = st.sampled_from(
    ["", "", "", "before the write", "before the ending", "before the mark", "before the acknowledgement"]
)


@dataclass(frozen=True)
class Remembered:
    tally: Tally | None
    revision: int


def asked(agents: int = 3, quorum: int = 1, early: bool = False) -> Requested:
    return Requested(
        "t-1",
        seq=7,
        at=BEGAN,
        deadline=DEADLINE,
        role="DEV",
        num_agents=agents,
        min_responses=min(agents, quorum),
        finish_early=early,
    )


def agent(place: int) -> str:
    return f"agent-dev-{place:03d}"


class Writers(RuleBasedStateMachine):
    """Three writers of one tally, and a queue that gives each message to any of them until one acknowledges it.

    1. The bucket holds what was written last, and each write knew the one before it.
    2. At most one ending is stored; it says what the tally says, then and ever after.
    3. A message acknowledged is a message accounted for.
    4. When every message was handled and the deadline has come, there is one ending, and it is marked.
    """

    compares = True
    marks_endings = True

    def __init__(self) -> None:
        super().__init__()
        self.bucket = Remembered(None, 0)
        self.memories = [self.bucket] * 3
        self.queue: list[tuple[Event, float]] = []
        self.handled: list[Event] = []
        self.endings: list[tuple[State, Sequence[str]]] = []
        self.now = BEGAN
        self.armed = False
        self.seq = 0

    @initialize(agents=st.integers(1, 4), quorum=st.integers(1, 4), early=st.booleans())
    def a_request_is_stored(self, agents: int, quorum: int, early: bool) -> None:
        self.queue.append((asked(agents, quorum, early), self.now))

    @rule(
        place=st.integers(0, 5),
        error_type=st.sampled_from([None, None, ErrorType.SERVER_ERROR, ErrorType.DEADLINE_EXCEEDED]),
    )
    def an_outcome_is_stored(self, place: int, error_type: ErrorType | None) -> None:
        self.seq += 1
        self.queue.append((Reported(agent(place), 1, self.seq, error_type), self.now))

    @rule()
    def a_cancel_is_stored(self) -> None:
        self.queue.append((CancelRequested(), self.now))

    @rule(seconds=st.sampled_from([0.5, 20.0, DEADLINE - BEGAN]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        if self.armed and self.now >= DEADLINE:
            self.armed = False
            self.queue.append((DeadlineReached(), self.now))

    @rule(writer=WRITERS)
    def a_writer_looks(self, writer: int) -> None:
        self.memories[writer] = self.bucket

    @precondition(lambda self: self.queue)
    @rule(writer=WRITERS, place=st.integers(0, 30), death=DEATHS)
    def a_message_is_handled(self, writer: int, place: int, death: str) -> None:
        message = self.queue[place % len(self.queue)]
        if self.handles(writer, [message], death):
            self.queue.remove(message)

    @precondition(lambda self: len(self.queue) > 1)
    @rule(writer=WRITERS, death=DEATHS)
    def all_that_waits_is_handled_at_once(self, writer: int, death: str) -> None:
        if self.handles(writer, list(self.queue), death):
            self.queue.clear()

    def handles(self, writer: int, messages: Sequence[tuple[Event, float]], death: str) -> bool:
        """As ledger and performer do it: fold, compare and set, publish, mark. True if it came to acknowledge."""
        while True:
            known = self.memories[writer]
            tally = known.tally
            effects: list[Effect] = []
            for event, at in messages:
                reaction = react(tally, event, max(at, self.now) if isinstance(event, Requested) else at)
                tally = reaction.tally
                effects += reaction.effects
            if death == "before the write":
                return False
            if known.revision == self.bucket.revision or not self.compares:
                break
            self.memories[writer] = (
                self.bucket
            )  # refused, or nothing to write and perhaps out of date: look again
        if tally is not None and tally is not known.tally:
            self.writes(writer, tally)
        if any(isinstance(effect, ArmDeadline) for effect in effects) and not (
            tally is not None and tally.ended
        ):
            self.armed = True
        if PublishEnding() in effects:
            assert tally is not None
            if death == "before the ending":
                return False
            self.publishes(tally)
            if death == "before the mark":
                return False
            if self.marks_endings:
                self.marks(writer)
        if death:
            return False
        self.handled += [event for event, _ in messages]
        return True

    def writes(self, writer: int, tally: Tally) -> None:
        self.bucket = self.memories[writer] = Remembered(tally, self.bucket.revision + 1)

    def publishes(self, tally: Tally) -> None:
        if not self.endings:  # later ones have its Msg-Id
            self.endings.append((tally.state, sorted(tally.phase.outcomes)))
            self.armed = False

    def marks(self, writer: int) -> None:
        self.memories[writer] = self.bucket
        marked = react(self.bucket.tally, EndingPublished(99), self.now)
        if not marked.note and marked.tally is not None:
            self.writes(writer, marked.tally)

    @invariant()
    def the_ending_says_what_the_tally_says(self) -> None:
        tally = self.bucket.tally
        if self.endings:
            assert tally is not None
            assert self.endings == [(tally.state, sorted(tally.phase.outcomes))], "invariant 2"
        assert tally is None or tally.ending_seq is None or self.endings, "invariant 2"

    @invariant()
    def what_is_acknowledged_is_accounted_for(self) -> None:
        tally = self.bucket.tally
        if tally is None or tally.ended:
            return
        assert not any(isinstance(event, CancelRequested) for event in self.handled_since_recorded()), (
            "invariant 3"
        )
        counted = {outcome.seq for outcome in tally.phase.outcomes.values()}
        for event in self.handled_since_recorded():
            if isinstance(event, Reported) and event.agent_id in tally.phase.missing:
                assert (
                    event.seq in counted
                    or event.error_type is ErrorType.DEADLINE_EXCEEDED
                    or self.now >= DEADLINE
                ), "invariant 3"

    def handled_since_recorded(self) -> Sequence[Event]:
        first = next(
            (place for place, event in enumerate(self.handled) if isinstance(event, Requested)),
            len(self.handled),
        )
        return self.handled[first + 1 :]

    def teardown(self) -> None:
        while self.queue or self.armed:
            self.time_passes(DEADLINE - BEGAN)
            for message in list(self.queue):
                assert self.handles(0, [message], "")
                self.queue.remove(message)
        tally = self.bucket.tally
        if tally is not None:
            assert tally.ended, "invariant 4"
            assert tally.ending_seq is not None, "invariant 4"
            assert len(self.endings) == 1, "invariant 4"


class Blind(Writers):
    """Writes whatever it makes of what it remembers."""

    compares = False


class Careless(Writers):
    """Never marks an ending."""

    marks_endings = False


def explore(machine: type[Writers], *phases: Phase) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=200,
            stateful_step_count=25,
            deadline=None,
            database=None,
            phases=phases,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


def test_writers_that_die_anywhere_leave_one_ending() -> None:
    explore(Writers, Phase.generate, Phase.shrink)


@pytest.mark.parametrize("machine", [Blind, Careless])
def test_writers_that_break_a_rule_are_noticed(machine: type[Writers]) -> None:
    with pytest.raises(AssertionError, match="invariant"):
        explore(machine, Phase.generate)


OUTCOMES = st.lists(st.tuples(st.integers(1, 4), st.booleans()), max_size=8)


def reports(outcomes: Sequence[tuple[int, bool]]) -> list[Event]:
    return [
        Reported(agent(place), 1, seq, None if well else ErrorType.SERVER_ERROR)
        for seq, (place, well) in enumerate(outcomes, 1)
    ]


def folded(events: Sequence[Event], agents: int, quorum: int) -> Tally:
    tally = react(None, asked(agents, quorum), BEGAN).tally
    for event in events:
        tally = react(tally, event, BEGAN).tally
    assert tally is not None
    return tally


@settings(deadline=None, database=None)
@given(outcomes=OUTCOMES, repeats=st.lists(st.integers(0, 7), max_size=6))
def test_outcomes_repeated_any_number_of_times_change_nothing(
    outcomes: list[tuple[int, bool]], repeats: list[int]
) -> None:
    once = reports(outcomes)
    again = [*once, *(once[place] for place in repeats if place < len(once))]
    assert folded(again, agents=4, quorum=2) == folded(once, agents=4, quorum=2)


@settings(deadline=None, database=None)
@given(
    wells=st.lists(st.booleans(), min_size=4, max_size=4),
    order=st.permutations(range(4)),
    quorum=st.integers(1, 4),
)
def test_one_outcome_each_in_any_order_comes_to_the_same_ending(
    wells: list[bool], order: list[int], quorum: int
) -> None:
    events = reports([(place, wells[place - 1]) for place in range(1, 5)])
    one, other = (
        folded(events, agents=4, quorum=quorum),
        folded([events[place] for place in order], agents=4, quorum=quorum),
    )
    assert one.verdict is not None
    assert other.verdict is not None
    assert (one.state, one.verdict.error, dict(one.phase.outcomes)) == (
        other.state,
        other.verdict.error,
        dict(other.phase.outcomes),
    )
