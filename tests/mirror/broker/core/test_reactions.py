"""What happens to a deliberation, event by event; then every sequence of events there is, against numbered
invariants."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from pydantic import ValidationError

from parley.broker.core import reactions as decision
from parley.broker.core import tally as decision_tally
from parley.broker.core.events_and_effects import (
    ArmDeadline,
    CancelRequested,
    DeadlineReached,
    EndingPublished,
    Event,
    PublishEnding,
    Refused,
    Reported,
    RequestAgents,
    Requested,
    SendEnding,
    StopAgents,
)
from parley.broker.core.messages import ErrorType
from parley.broker.core.reactions import CANCEL_AHEAD_SECONDS, OVERDUE_SECONDS, Reaction, asks_another, react
from parley.broker.core.states_and_moves import Cause, State
from parley.broker.core.tally import Decision, Outcome, Tally
from tests import present

ACCEPTED = 1_000.0
DEADLINE = 1_060.0
DURING = 1_010.0
ONE, TWO, THREE = "agent-dev-001", "agent-dev-002", "agent-dev-003"


def requested(**overrides: Any) -> Requested:
    fields: dict[str, Any] = {
        "task_id": "t-1", "seq": 7, "at": ACCEPTED, "deadline": DEADLINE, "role": "DEV", "num_agents": 3,
    }  # fmt: skip
    return Requested(**{**fields, **overrides})


def refused(**overrides: Any) -> Refused:
    fields: dict[str, Any] = {"task_id": "t-1", "seq": 7, "at": ACCEPTED, "error": "num_agents: too many"}
    return Refused(**{**fields, **overrides})


def answered(agent: str, seq: int = 1, number: int = 1) -> Reported:
    return Reported(agent, number, seq)


def failed(agent: str, seq: int = 1, error_type: ErrorType = ErrorType.SERVER_ERROR) -> Reported:
    return Reported(agent, 1, seq, error_type)


def after(*events: Event, now: float = DURING, **request: Any) -> Tally:
    """A deliberation that was requested, and then this happened to it at `now`."""
    tally = react(None, requested(**request), ACCEPTED).tally
    for event in events:
        tally = react(tally, event, now).tally
    assert tally is not None
    return tally


def changed(reaction: Reaction) -> Tally:
    """The tally of a reaction that changed something; such a reaction has no note."""
    assert reaction.note == ""
    assert reaction.tally is not None
    return reaction.tally


def unchanged(reaction: Reaction, before: Tally | None, note: str) -> None:
    """Nothing changed, nothing is to be done, and the note says why."""
    assert reaction.tally is before
    assert reaction.effects == ()
    assert note in reaction.note


ENDED = {
    "completed": lambda: after(answered(ONE), answered(TWO), answered(THREE)),
    "failed": lambda: after(failed(ONE), failed(TWO), failed(THREE)),
    "timeout": lambda: after(DeadlineReached(), now=DEADLINE),
    "cancelled": lambda: after(CancelRequested()),
    "rejected": lambda: changed(react(None, refused(), ACCEPTED)),
    "abandoned": lambda: changed(react(None, refused(cause=Cause.ABANDONED), ACCEPTED)),
    "abandoned after it was recorded": lambda: after(refused(cause=Cause.ABANDONED)),
    "too late from the start": lambda: changed(react(None, requested(), DEADLINE)),
}
EVERY_EVENT: list[Event] = [
    requested(),
    requested(seq=8),
    refused(),
    refused(seq=8, cause=Cause.ABANDONED),
    answered(ONE),
    failed(TWO),
    answered("agent-dev-004"),
    DeadlineReached(),
    CancelRequested("changed my mind"),
    EndingPublished(99),
]


# ── askers of the same question, and of another ───────────────────────────────────────────────────────────────────


def asked(inbox: str | None = "_INBOX.b", seq: int = 8, question: str | None = "q") -> Requested:
    return requested(seq=seq, reply_to=inbox, question=question)


def test_a_second_asker_of_the_question_is_noted_once_and_nothing_is_asked_again() -> None:
    tally = after(question="q", reply_to="_INBOX.a")
    noted = react(tally, asked(), DURING)
    assert (changed(noted).inboxes, noted.effects) == (("_INBOX.a", "_INBOX.b"), ())
    assert changed(noted).request_seq == 7
    unchanged(react(noted.tally, asked(seq=9), DURING), noted.tally, "this asker is known")
    unchanged(react(tally, asked(inbox=None), DURING), tally, "exists")


def test_an_asker_of_a_published_ending_is_sent_it() -> None:
    tally = after(*(answered(agent) for agent in (ONE, TWO, THREE)), EndingPublished(99), question="q")
    reaction = react(tally, asked(), DURING)
    assert reaction.tally is tally
    assert reaction.effects == (SendEnding(99, "_INBOX.b"),)
    unpublished = after(DeadlineReached(), now=DEADLINE, question="q")
    assert changed(react(unpublished, asked(), DURING)).inboxes == ("_INBOX.b",)


@pytest.mark.parametrize(
    ("known", "asks", "another"),
    [("q", "q", False), ("q", "r", True), (None, "r", False), ("q", None, False), (None, None, False)],
)
def test_another_question_is_told_by_its_digest_where_both_are_known(
    known: str | None, asks: str | None, another: bool
) -> None:
    for tally in (after(question=known), after(CancelRequested(), question=known)):
        assert asks_another(tally, asked(question=asks)) == another
        assert not asks_another(tally, requested(question="r"))  # its own request, redelivered
        if another:
            unchanged(react(tally, asked(question=asks), DURING), tally, "")


def test_the_name_of_a_rejected_request_is_no_valid_questions() -> None:
    assert asks_another(ENDED["rejected"](), asked())


def test_a_tally_of_another_version_can_be_read() -> None:
    old = after().model_dump(mode="json", exclude={"more_reply_to", "question"})
    assert Tally.model_validate({**old, "a field of tomorrow": 1}, strict=False) == after()


# ── what is older than the deliberation ───────────────────────────────────────────────────────────────────────────


def test_an_outcome_that_was_stored_long_before_the_request_is_an_earlier_deliberations() -> None:
    tally = after()
    unchanged(react(tally, answered(ONE), ACCEPTED - 61), tally, "older than this deliberation")
    assert react(tally, answered(ONE), ACCEPTED - 1).note == ""  # two servers' clocks


@pytest.mark.parametrize("before", [0.3, 59.0])
def test_nothing_is_decided_before_it_was_asked_for(before: float) -> None:
    """By another server's clock, or by what was answered to an earlier asker of the name."""
    ended = after(answered(ONE), now=ACCEPTED - before, num_agents=1)
    assert ended.verdict == Decision(decided_at=ACCEPTED, by=1)
    rejected = react(None, refused(), ACCEPTED - before).tally
    assert present(present(rejected).verdict).decided_at == ACCEPTED


@pytest.mark.parametrize(
    ("seq", "at", "counts"),
    [
        (8, DURING, True), (6, ACCEPTED - 1, True), (6, ACCEPTED - CANCEL_AHEAD_SECONDS, True), (None, None, True),
        (6, ACCEPTED - CANCEL_AHEAD_SECONDS - 1, False),
    ],
)  # fmt: skip
def test_a_cancel_counts_for_a_request_that_is_stored_soon_after_it(
    seq: int | None, at: float | None, counts: bool
) -> None:
    tally = after()
    reaction = react(tally, CancelRequested("no", seq, at), DURING)
    if counts:
        assert changed(reaction).state is State.CANCELLED
    else:
        unchanged(reaction, tally, "the cancel is older than this deliberation")


# ── a request ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_request_is_recorded_then_its_deadline_armed_and_its_agents_asked() -> None:
    request = requested(
        min_responses=2, finish_early=True, metadata={"ticket": "P-1"}, reply_to="_INBOX.a.b",
        traceparent="00-aa-bb-01",
    )  # fmt: skip
    reaction = react(None, request, ACCEPTED + 0.01)
    assert changed(reaction) == Tally(
        task_id="t-1",
        state=State.PENDING,
        request_seq=7,
        role="DEV",
        min_responses=2,
        finish_early=True,
        accepted_at=ACCEPTED,
        deadline=DEADLINE,
        phases=(decision_tally.Phase(number=1, agents=(ONE, TWO, THREE)),),
        metadata={"ticket": "P-1"},
        reply_to="_INBOX.a.b",
        traceparent="00-aa-bb-01",
    )
    assert reaction.effects == (ArmDeadline(DEADLINE), RequestAgents(1, (ONE, TWO, THREE)))


@pytest.mark.parametrize("number", [1, 256])
def test_as_many_agents_are_asked_as_were_requested(number: int) -> None:
    agents = after(num_agents=number).phase.agents
    assert len(set(agents)) == number
    assert (agents[0], agents[-1]) == (ONE, f"agent-dev-{number:03d}")


@pytest.mark.parametrize("now", [DEADLINE, DEADLINE + 3_600])
def test_a_request_read_after_its_deadline_ends_as_a_timeout_before_any_agent_starts(now: float) -> None:
    reaction = react(None, requested(), now)
    tally = changed(reaction)
    assert tally.state is State.TIMEOUT
    assert [type(effect) for effect in reaction.effects] == [PublishEnding, StopAgents]
    assert tally.verdict == Decision(
        error="deadline of 60 s passed at 1970-01-01T00:17:40.000Z before any agent could start",
        decided_at=now,
    )


def test_a_redelivered_request_carries_on_with_the_agents_still_missing() -> None:
    tally = after(answered(TWO))
    reaction = react(tally, requested(), DURING)
    assert reaction.tally is tally
    assert reaction.effects == (ArmDeadline(DEADLINE), RequestAgents(1, (ONE, THREE)))
    assert reaction.note


def test_a_second_request_of_the_same_name_does_nothing() -> None:
    tally = after()
    unchanged(react(tally, requested(seq=8, num_agents=5), DURING), tally, "task_id exists")


@pytest.mark.parametrize(
    ("cause", "state"), [(Cause.REFUSED, State.REJECTED), (Cause.ABANDONED, State.FAILED)]
)
def test_a_request_that_cannot_be_run_ends_at_once_with_its_error(cause: Any, state: State) -> None:
    reaction = react(None, refused(cause=cause, reply_to="_INBOX.x", traceparent="00-aa-bb-01"), DURING)
    tally = changed(reaction)
    assert tally.state is state
    assert tally.verdict == Decision(error="num_agents: too many", decided_at=DURING)
    assert (tally.reply_to, tally.traceparent) == ("_INBOX.x", "00-aa-bb-01")
    assert tally.phase.agents == ()
    assert reaction.effects == (PublishEnding(),)


@pytest.mark.parametrize("cause", [Cause.REFUSED, Cause.ABANDONED])
def test_a_recorded_request_found_impossible_to_carry_out_fails_and_stops_its_agents(cause: Any) -> None:
    reaction = react(after(answered(ONE)), refused(cause=cause), DURING)
    tally = changed(reaction)
    assert tally.state is State.FAILED
    assert tally.verdict == Decision(error="num_agents: too many", decided_at=DURING)
    assert reaction.effects == (PublishEnding(), StopAgents("num_agents: too many"))


def test_a_bad_request_cannot_end_another_one_of_its_name() -> None:
    tally = after(answered(ONE))
    unchanged(react(tally, refused(seq=8), DURING), tally, "task_id exists")


# ── outcomes ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_first_outcome_puts_it_in_progress_and_remembers_where_the_words_are() -> None:
    reaction = react(after(), answered(TWO, seq=41), DURING)
    tally = changed(reaction)
    assert tally.state is State.IN_PROGRESS
    assert dict(tally.phase.outcomes) == {TWO: Outcome(succeeded=True, seq=41)}
    assert tally.phase.missing == (ONE, THREE)
    assert reaction.effects == ()


@pytest.mark.parametrize(
    ("events", "request_", "fewest"),
    [
        ((), {}, 3),
        ((answered(ONE),), {}, 2),
        ((answered(ONE), failed(TWO)), {}, 1),
        ((), {"finish_early": True, "min_responses": 2}, 2),
        ((failed(ONE),), {"finish_early": True, "min_responses": 2}, 2),
        ((answered(ONE),), {"finish_early": True, "min_responses": 2}, 1),
        ((answered(ONE), answered(TWO), answered(THREE)), {}, 1),
    ],
)
def test_how_many_outcomes_end_it(events: tuple[Event, ...], request_: dict[str, Any], fewest: int) -> None:
    assert after(*events, **request_).outcomes_needed == fewest


@pytest.mark.parametrize("again", [answered(ONE, seq=2), failed(ONE, seq=2)])
def test_an_agent_that_reported_is_not_counted_again(again: Reported) -> None:
    tally = after(answered(ONE, seq=1))
    unchanged(react(tally, again, DURING), tally, "reported before")


def test_a_failure_is_not_turned_into_a_success_by_a_later_report() -> None:
    tally = after(failed(ONE))
    unchanged(react(tally, answered(ONE, seq=2), DURING), tally, "reported before")


@pytest.mark.parametrize("unknown", ["agent-dev-004", "agent-dev-000", "agent-qa-001", "", "agent-dev-1"])
def test_an_agent_that_was_not_requested_is_not_counted(unknown: str) -> None:
    tally = after()
    unchanged(react(tally, answered(unknown), DURING), tally, "no such agent")


@pytest.mark.parametrize("number", [0, 2, -1])
def test_an_outcome_of_another_round_is_not_counted(number: int) -> None:
    tally = after()
    unchanged(
        react(tally, answered(ONE, number=number), DURING), tally, f"round {number} is not the current round"
    )


def test_an_agent_that_ran_out_of_time_is_left_to_the_deadline() -> None:
    tally = after()
    unchanged(
        react(tally, failed(ONE, error_type=ErrorType.DEADLINE_EXCEEDED), DURING),
        tally,
        "the deadline decides",
    )


def test_every_other_failure_is_counted() -> None:
    for error_type in set(ErrorType) - {ErrorType.DEADLINE_EXCEEDED}:
        tally = after(failed(ONE, error_type=error_type))
        assert tally.phase.outcomes[ONE].succeeded is False


@pytest.mark.parametrize("now", [DEADLINE, DEADLINE + 1])
def test_an_outcome_stored_at_the_deadline_or_after_is_late(now: float) -> None:
    tally = after(answered(ONE), answered(TWO))
    unchanged(react(tally, answered(THREE), now), tally, "late")


@pytest.mark.parametrize("late", [answered(THREE, 9), failed(THREE, 9, ErrorType.DEADLINE_EXCEEDED)])
@pytest.mark.parametrize(("heard", "needed", "state"), [(2, 2, State.COMPLETED), (1, 2, State.TIMEOUT)])
def test_an_outcome_long_after_a_lost_deadline_ends_as_that_would_have(
    late: Reported, heard: int, needed: int, state: State
) -> None:
    tally = after(*[answered(ONE), answered(TWO)][:heard], min_responses=needed)
    now = DEADLINE + OVERDUE_SECONDS
    ended = changed(react(tally, late, now))
    assert ended.state is state
    assert THREE not in ended.phase.outcomes
    assert ended.phase == changed(react(tally, DeadlineReached(), now)).phase
    # Delivered again, it publishes the ending that it decided.
    assert PublishEnding() in react(ended, late, now).effects


def test_an_outcome_stored_just_before_the_deadline_counts() -> None:
    assert after(answered(ONE), now=DEADLINE - 0.001).phase.successes == 1


@pytest.mark.parametrize("event", EVERY_EVENT[4:])
def test_nothing_happens_to_a_deliberation_that_is_not_recorded(event: Event) -> None:
    reaction = react(None, event, DURING)
    assert reaction.tally is None
    assert reaction.effects == ()
    assert reaction.note


# ── which ending ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("successes", "needed", "state", "error"),
    [
        (3, 1, State.COMPLETED, ""),
        (3, 3, State.COMPLETED, ""),
        (2, 2, State.COMPLETED, ""),
        (1, 1, State.COMPLETED, ""),
        (2, 3, State.FAILED, "2 of 3 agents answered, 3 needed"),
        (1, 2, State.FAILED, "1 of 3 agents answered, 2 needed"),
        (0, 1, State.FAILED, "0 of 3 agents answered, 1 needed"),
    ],
)
def test_when_all_reported_the_quorum_decides(successes: int, needed: int, state: State, error: str) -> None:
    outcomes = [
        answered(agent) if place < successes else failed(agent)
        for place, agent in enumerate((ONE, TWO, THREE))
    ]
    running = after(*outcomes[:2], min_responses=needed)
    assert running.verdict is None
    reaction = react(running, outcomes[2], DURING)
    tally = changed(reaction)
    assert tally.state is state
    assert tally.verdict == Decision(error=error, decided_at=DURING, by=1)
    assert reaction.effects == (PublishEnding(),)


@pytest.mark.parametrize(
    ("successes", "needed", "state"),
    [
        (0, 1, State.TIMEOUT),
        (1, 1, State.COMPLETED),
        (1, 2, State.TIMEOUT),
        (2, 2, State.COMPLETED),
        (2, 3, State.TIMEOUT),
    ],
)
@pytest.mark.parametrize("now", [DEADLINE, DEADLINE + 5])
def test_at_the_deadline_the_quorum_decides(successes: int, needed: int, state: State, now: float) -> None:
    running = after(*(answered(agent) for agent in (ONE, TWO)[:successes]), min_responses=needed)
    reaction = react(running, DeadlineReached(), now)
    tally = changed(reaction)
    assert tally.state is state
    assert tally.verdict is not None
    assert tally.verdict.decided_at == now
    assert (f"with {successes} of 3 agents heard" in tally.verdict.error) == (state is State.TIMEOUT)
    publish, stop = reaction.effects
    assert publish == PublishEnding()
    assert isinstance(stop, StopAgents)


def test_failures_are_counted_but_make_no_quorum_at_the_deadline() -> None:
    tally = changed(react(after(failed(ONE), failed(TWO)), DeadlineReached(), DEADLINE))
    assert tally.state is State.TIMEOUT
    assert "with 2 of 3 agents heard" in present(tally.verdict).error


@pytest.mark.parametrize("now", [ACCEPTED, DEADLINE - 0.001])
def test_a_deadline_that_comes_early_is_armed_anew(now: float) -> None:
    tally = after(answered(ONE))
    reaction = react(tally, DeadlineReached(), now)
    assert reaction.tally is tally
    assert reaction.effects == (ArmDeadline(DEADLINE),)
    assert "early" in reaction.note


@pytest.mark.parametrize(
    ("reason", "error"), [(None, "cancelled by request"), ("", "cancelled by request"), ("x", "cancelled: x")]
)
@pytest.mark.parametrize("outcomes", [(), (answered(ONE), answered(TWO))])
def test_a_cancel_ends_it_in_any_case(outcomes: tuple[Event, ...], reason: str | None, error: str) -> None:
    reaction = react(after(*outcomes), CancelRequested(reason), DURING)
    tally = changed(reaction)
    assert tally.state is State.CANCELLED
    assert tally.verdict == Decision(error=error, decided_at=DURING)
    assert reaction.effects == (PublishEnding(), StopAgents(error))


def test_finishing_early_ends_at_the_quorum_and_stops_the_rest() -> None:
    running = after(failed(ONE), num_agents=3, min_responses=1, finish_early=True)
    assert running.state is State.IN_PROGRESS
    reaction = react(running, answered(TWO), DURING)
    tally = changed(reaction)
    assert tally.state is State.COMPLETED
    assert tally.phase.missing == (THREE,)
    assert reaction.effects == (PublishEnding(), StopAgents("finished early"))


def test_finishing_early_waits_for_the_whole_quorum() -> None:
    assert after(answered(ONE), min_responses=2, finish_early=True).state is State.IN_PROGRESS
    assert after(answered(ONE), answered(TWO), min_responses=2, finish_early=True).state is State.COMPLETED


def test_without_finishing_early_the_quorum_alone_ends_nothing() -> None:
    assert after(answered(ONE), answered(TWO), min_responses=1).state is State.IN_PROGRESS


def test_no_agent_is_stopped_when_none_is_missing() -> None:
    reaction = react(
        after(answered(ONE), answered(TWO), min_responses=3, finish_early=True), answered(THREE), DURING
    )
    assert reaction.effects == (PublishEnding(),)


def test_one_agent_alone_begins_and_ends_it() -> None:
    assert after(answered(ONE), num_agents=1).state is State.COMPLETED
    assert after(failed(ONE), num_agents=1).state is State.FAILED


# ── endings absorb ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("ended", ENDED)
def test_an_ending_is_marked_published_once(ended: str) -> None:
    tally = ENDED[ended]()
    assert tally.ending_unpublished
    marked = changed(react(tally, EndingPublished(99), DURING))
    assert marked == tally.model_copy(update={"ending_seq": 99})
    assert not marked.ending_unpublished
    unchanged(react(marked, EndingPublished(100), DURING), marked, "already marked")


@pytest.mark.parametrize("event", EVERY_EVENT, ids=lambda event: type(event).__name__)
@pytest.mark.parametrize("ended", ENDED)
def test_a_published_ending_absorbs_everything(ended: str, event: Event) -> None:
    tally = ENDED[ended]().model_copy(update={"ending_seq": 99})
    for now in (DURING, DEADLINE, DEADLINE + 3_600):
        reaction = react(tally, event, now)
        assert reaction.tally is tally
        assert reaction.effects == ()
        assert reaction.note


@pytest.mark.parametrize("event", EVERY_EVENT[:-1], ids=lambda event: type(event).__name__)
@pytest.mark.parametrize("ended", ENDED)
def test_an_unpublished_ending_is_published_again_by_what_may_decide_it(ended: str, event: Event) -> None:
    tally = ENDED[ended]()
    if not responsible(tally, event):
        # Who decided it is most likely publishing it just now.
        unchanged(react(tally, event, DEADLINE + 3_600), tally, "already ended: the message that decided it")
        return
    reaction = react(tally, event, DEADLINE + 3_600)
    assert reaction.tally is tally
    # The process that decided it may have died before it stopped the agents.
    assert [type(effect) for effect in reaction.effects] == [
        PublishEnding,
        *[StopAgents] * bool(tally.phase.missing),
    ]
    assert reaction.note


@pytest.mark.parametrize("tally", [None, after(), after(answered(ONE))])
def test_there_is_nothing_to_mark_before_the_ending(tally: Tally | None) -> None:
    unchanged(react(tally, EndingPublished(99), DURING), tally, "nothing to mark")


# ── what is stored ────────────────────────────────────────────────────────────────────────────────────────────────


def stored_and_read(tally: Tally) -> Tally:
    return Tally.model_validate_json(tally.model_dump_json(exclude_defaults=True))


@pytest.mark.parametrize("ended", ENDED)
def test_a_tally_is_the_same_after_it_was_stored_and_read(ended: str) -> None:
    tally = ENDED[ended]()
    assert stored_and_read(tally) == tally
    marked = changed(react(tally, EndingPublished(99), DURING))
    assert stored_and_read(marked) == marked


def test_a_tally_of_the_most_agents_stays_small_whatever_they_wrote() -> None:
    agents = after(num_agents=256).phase.agents
    tally = after(
        *(answered(agent, seq=10_000_000 + place) for place, agent in enumerate(agents)), num_agents=256
    )
    assert tally.state is State.COMPLETED
    assert len(tally.model_dump_json(exclude_defaults=True)) < 24 * 1024


def test_a_tally_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        after().state = State.COMPLETED  # type: ignore[misc]  # that it is refused is what is tested


def test_a_deliberation_that_ended_before_it_began_has_an_empty_phase() -> None:
    phase = ENDED["rejected"]().phase
    assert (phase.number, phase.agents, phase.missing, phase.successes) == (0, (), (), 0)


# ── every sequence of events ──────────────────────────────────────────────────────────────────────────────────────

ENDINGS = {State.COMPLETED, State.FAILED, State.TIMEOUT, State.CANCELLED, State.REJECTED}
# None is a success.
ERROR_TYPES = st.sampled_from([None, None, ErrorType.SERVER_ERROR, ErrorType.DEADLINE_EXCEEDED])


class AnySequence(RuleBasedStateMachine):
    """Events in any order, doubled, late, forged. After each one the invariants below hold.

    1. An ended deliberation stays in the state it ended in, with the outcomes it ended with. 2. The ending is decided
    once: its verdict never changes, and there is one exactly when it has ended. 3. `ending_seq` is set once, and only
    on an ended deliberation. 4. No more successes than agents; only agents of the deliberation are counted, each
    once. 5. An ended tally without `ending_seq` answers every event that may have decided it with PublishEnding,
    until it is marked. 6. `react` never changes what it was given. 7. What is stored is what is read: JSON with
    `exclude_defaults` loses nothing. 8. Either something changed and there is no note, or nothing changed and a note
    says why. 9. The ending is the one the contract names. 10. Agents are stopped exactly when an ending that is to be
    published leaves some of them missing, and asked only before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tally: Tally | None = None
        self.now = ACCEPTED
        self.cancelled = self.abandoned = self.refused = False

    def happens(self, event: Event) -> Reaction:
        before = self.tally
        given = before.model_dump_json() if before is not None else ""
        reaction = decision.react(before, event, self.now)
        tally = reaction.tally
        assert given == (before.model_dump_json() if before is not None else ""), "invariant 6"
        assert bool(reaction.note) == (tally == before), "invariant 8"
        if before is not None:
            assert tally is not None, "invariant 1"
            self.follows(before, event, reaction, tally)
        self.asks_and_stops(before, reaction)
        self.tally = tally
        return reaction

    def follows(self, before: Tally, event: Event, reaction: Reaction, tally: Tally) -> None:
        if before.state in ENDINGS:
            assert (tally.state, tally.phases) == (before.state, before.phases), "invariant 1"
            assert tally.verdict == before.verdict, "invariant 2"
            if before.ending_seq is None and not isinstance(event, EndingPublished):
                assert (PublishEnding() in reaction.effects) == responsible(before, event), "invariant 5"
        if before.ending_seq is not None:
            assert tally.ending_seq == before.ending_seq, "invariant 3"
            assert reaction.effects == (), "invariant 5"

    def asks_and_stops(self, before: Tally | None, reaction: Reaction) -> None:
        tally = reaction.tally
        ended_now = (
            tally is not None and tally.state in ENDINGS and (before is None or before.state not in ENDINGS)
        )
        kinds = {type(effect) for effect in reaction.effects}
        someone_waits = PublishEnding in kinds and tally is not None and bool(tally.phase.missing)
        assert (StopAgents in kinds) == someone_waits, "invariant 10"
        assert not kinds & {RequestAgents, ArmDeadline} or (
            tally is not None and tally.state not in ENDINGS
        ), "invariant 10"
        assert not ended_now or PublishEnding in kinds, "invariant 5"

    @initialize(
        known=st.sampled_from([True, True, False]),
        agents=st.integers(1, 4),
        quorum=st.integers(1, 4),
        early=st.booleans(),
    )
    def begins(self, known: bool, agents: int, quorum: int, early: bool) -> None:
        if known:
            self.is_requested(7, agents, quorum, early, {})

    @rule(
        seq=st.integers(7, 8),
        agents=st.integers(1, 4),
        quorum=st.integers(1, 4),
        early=st.booleans(),
        metadata=st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
    )
    def is_requested(self, seq: int, agents: int, quorum: int, early: bool, metadata: dict[str, str]) -> None:
        quorum = min(agents, quorum)
        self.happens(
            requested(seq=seq, num_agents=agents, min_responses=quorum, finish_early=early, metadata=metadata)
        )

    @rule(seq=st.integers(7, 8), cause=st.sampled_from([Cause.REFUSED, Cause.ABANDONED]))
    def is_refused(self, seq: int, cause: Any) -> None:
        reaction = self.happens(refused(seq=seq, cause=cause))
        if not reaction.note:
            self.abandoned, self.refused = cause is Cause.ABANDONED, True

    @rule(
        place=st.integers(0, 5),
        number=st.sampled_from([1, 1, 1, 0, 2]),
        seq=st.integers(1, 9),
        error_type=ERROR_TYPES,
    )
    def an_agent_reports(self, place: int, number: int, seq: int, error_type: ErrorType | None) -> None:
        self.happens(Reported(f"agent-dev-{place:03d}", number, seq, error_type))

    @rule()
    def the_deadline_is_reached(self) -> None:
        self.happens(DeadlineReached())

    @rule(reason=st.sampled_from([None, "x"]), seq=st.integers(1, 9))
    def is_cancelled(self, reason: str | None, seq: int) -> None:
        self.cancelled = not self.happens(CancelRequested(reason, seq)).note or self.cancelled

    @rule(seq=st.integers(1, 99))
    def the_ending_is_published(self, seq: int) -> None:
        self.happens(EndingPublished(seq))

    @rule(seconds=st.sampled_from([0.001, 1.0, 30.0, DEADLINE - ACCEPTED]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def the_account_is_sound(self) -> None:
        tally = self.tally
        if tally is None:
            return
        assert (tally.verdict is not None) == (tally.state in ENDINGS), "invariant 2"
        assert tally.ending_seq is None or tally.state in ENDINGS, "invariant 3"
        assert tally.phase.successes <= len(tally.phase.outcomes) <= len(tally.phase.agents), "invariant 4"
        assert set(tally.phase.outcomes) <= set(tally.phase.agents), "invariant 4"
        assert Tally.model_validate_json(tally.model_dump_json(exclude_defaults=True)) == tally, "invariant 7"

    @invariant()
    def the_ending_is_the_contracts(self) -> None:
        tally = self.tally
        if tally is None or tally.verdict is None:
            return
        assert tally.state in self.allowed(tally, tally.verdict), "invariant 9"
        assert bool(tally.verdict.error) == (tally.state is not State.COMPLETED), "invariant 9"

    def allowed(self, tally: Tally, verdict: Decision) -> set[State]:
        """'Which ending' of the contract, read off the account at the moment of the decision."""
        if self.cancelled:
            return {State.CANCELLED}
        if self.refused:
            return {State.FAILED} if self.abandoned or tally.phases else {State.REJECTED}
        enough = tally.phase.successes >= tally.min_responses
        if not tally.phase.missing:
            return {State.COMPLETED} if enough else {State.FAILED}
        if verdict.decided_at >= tally.deadline:
            return {State.COMPLETED} if enough else {State.TIMEOUT}
        return {State.COMPLETED} if enough and tally.finish_early else set()


TestAnySequence = AnySequence.TestCase
TestAnySequence.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


def responsible(tally: Tally, event: Event) -> bool:
    """Whether the event may be the one that decided the ending, come again; the deadline answers for all."""
    match event:
        case Requested() | Refused():
            return event.seq == tally.request_seq
        case Reported():
            return (
                tally.state is not State.CANCELLED
                and tally.verdict is not None
                and tally.verdict.by == event.seq
            )
        case CancelRequested():
            return (
                tally.state is State.CANCELLED and tally.verdict is not None and tally.verdict.by == event.seq
            )
        case _:
            return isinstance(event, DeadlineReached)


# ── does the search above find anything? ──────────────────────────────────────────────────────────────────────────
#
# Each of these breaks one rule; the search must notice, and by the invariant that is about it.


def _a_report_reopens_it(tally: Tally | None, event: Event, now: float) -> Reaction:
    if tally is not None and tally.state in ENDINGS and isinstance(event, Reported):
        return Reaction(tally.model_copy(update={"state": State.IN_PROGRESS, "verdict": None}))
    return react(tally, event, now)


def _a_late_cancel_decides_again(tally: Tally | None, event: Event, now: float) -> Reaction:
    if tally is not None and tally.state in ENDINGS and isinstance(event, CancelRequested):
        return Reaction(
            tally.model_copy(update={"verdict": Decision(error="cancelled late", decided_at=now)}),
            (PublishEnding(),),
        )
    return react(tally, event, now)


def _the_last_mark_wins(tally: Tally | None, event: Event, now: float) -> Reaction:
    if (
        tally is not None
        and tally.state in ENDINGS
        and isinstance(event, EndingPublished)
        and event.seq != tally.ending_seq
    ):
        return Reaction(tally.model_copy(update={"ending_seq": event.seq}))
    return react(tally, event, now)


def _strangers_are_counted(tally: Tally | None, event: Event, now: float) -> Reaction:
    reaction = react(tally, event, now)
    if isinstance(event, Reported) and "no such agent" in reaction.note and tally is not None:
        outcomes = {**tally.phase.outcomes, event.agent_id: Outcome(succeeded=True, seq=event.seq)}
        phase = tally.phase.model_copy(update={"outcomes": outcomes})
        counted = tally.model_copy(update={"phases": (phase,)})
        return Reaction(counted) if counted != tally else reaction
    return reaction


def _nobody_publishes_again(tally: Tally | None, event: Event, now: float) -> Reaction:
    reaction = react(tally, event, now)
    return Reaction(tally, note=reaction.note) if "published again" in reaction.note else reaction


def _metadata_is_written_to(tally: Tally | None, event: Event, now: float) -> Reaction:
    if tally is not None:
        tally.metadata["seen"] = str(event)
    return react(tally, event, now)


class _Richer(Tally):
    """Holds something that `Tally` does not know, and which is therefore gone once it was stored."""

    extra: tuple[str, ...] = ()


def _something_is_kept_only_in_memory(tally: Tally | None, event: Event, now: float) -> Reaction:
    reaction = react(tally, event, now)
    if tally is None and reaction.tally is not None:
        return Reaction(_Richer(**dict(reaction.tally), extra=("42",)), reaction.effects)
    return reaction


def _nothing_says_why(tally: Tally | None, event: Event, now: float) -> Reaction:
    reaction = react(tally, event, now)
    return Reaction(reaction.tally, reaction.effects)


def _the_deadline_asks_for_no_quorum(tally: Tally | None, event: Event, now: float) -> Reaction:
    reaction = react(tally, event, now)
    if reaction.tally is not None and reaction.tally.state is State.TIMEOUT and not reaction.note:
        anyway = {"state": State.COMPLETED, "verdict": Decision(decided_at=now)}
        return Reaction(reaction.tally.model_copy(update=anyway), reaction.effects)
    return reaction


def _the_rest_goes_on_thinking(tally: Tally | None, event: Event, now: float) -> Reaction:
    reaction = react(tally, event, now)
    effects = tuple(effect for effect in reaction.effects if not isinstance(effect, StopAgents))
    return Reaction(reaction.tally, effects, reaction.note)


@pytest.mark.parametrize(
    ("broken", "invariant_number"),
    [
        (_a_report_reopens_it, 1),
        (_a_late_cancel_decides_again, 2),
        (_the_last_mark_wins, 3),
        (_strangers_are_counted, 4),
        (_nobody_publishes_again, 5),
        (_metadata_is_written_to, 6),
        (_something_is_kept_only_in_memory, 7),
        (_nothing_says_why, 8),
        (_the_deadline_asks_for_no_quorum, 9),
        (_the_rest_goes_on_thinking, 10),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else str(value),
)
def test_the_search_finds_a_broken_rule(
    monkeypatch: pytest.MonkeyPatch,
    broken: Callable[[Tally | None, Event, float], Reaction],
    invariant_number: int,
) -> None:
    monkeypatch.setattr(decision, "react", broken)
    quick = settings(
        max_examples=1_000,
        stateful_step_count=30,
        deadline=None,
        derandomize=True,
        database=None,
        # What is found need not be made small.
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    with pytest.raises(AssertionError, match=rf"invariant {invariant_number}\b"):
        run_state_machine_as_test(AnySequence, settings=quick)


def test_the_search_finds_endings_that_do_not_absorb_in_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tally, "ended", property(lambda tally: False))
    monkeypatch.setattr(decision, "move", lambda state, cause, to: to)
    quick = settings(
        max_examples=1_000, deadline=None, derandomize=True, database=None, phases=[Phase.generate]
    )
    with pytest.raises(AssertionError, match="invariant"):
        run_state_machine_as_test(AnySequence, settings=quick)


# ── two laws over any outcomes ────────────────────────────────────────────────────────────────────────────────────

OUTCOMES = st.lists(st.tuples(st.integers(1, 4), st.booleans()), max_size=8)


def reports(outcomes: Sequence[tuple[int, bool]]) -> list[Event]:
    """One outcome of agent 1 to 4 each, in order: an answer or a failure."""
    return [
        (answered if well else failed)(f"agent-dev-{place:03d}", seq)
        for seq, (place, well) in enumerate(outcomes, 1)
    ]


def fold(events: Sequence[Event], quorum: int) -> Tally:
    return after(*events, num_agents=4, min_responses=quorum)


@settings(deadline=None, database=None)
@given(outcomes=OUTCOMES, repeats=st.lists(st.integers(0, 7), max_size=6))
def test_repeated_outcomes_change_nothing(outcomes: list[tuple[int, bool]], repeats: list[int]) -> None:
    once = reports(outcomes)
    again = [*once, *(once[place] for place in repeats if place < len(once))]
    assert fold(again, quorum=2) == fold(once, quorum=2)


@settings(deadline=None, database=None)
@given(
    wells=st.lists(st.booleans(), min_size=4, max_size=4),
    order=st.permutations(range(4)),
    quorum=st.integers(1, 4),
)
def test_outcomes_in_any_order_end_it_the_same(wells: list[bool], order: list[int], quorum: int) -> None:
    events = reports([(place, wells[place - 1]) for place in range(1, 5)])
    one, other = fold(events, quorum), fold([events[place] for place in order], quorum)
    assert one.ended
    assert one.state == other.state
    assert one.phase.outcomes == other.phase.outcomes
    assert one.verdict is not None
    assert one.verdict.error == present(other.verdict).error
