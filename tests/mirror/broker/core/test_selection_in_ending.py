"""What an ending says of its choice: who, by which ballots, and every gap once."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from parley.broker.core.endings import compose, fit
from parley.broker.core.events_and_effects import CancelRequested, DeadlineReached, Reported
from parley.broker.core.messages import (
    AgentCompleted,
    AgentFailed,
    AgentOutcome,
    Ballot,
    DeliberationCompleted,
    DeliberationFailed,
    ErrorType,
    FailedAgent,
    Proposal,
    Selection,
    Usage,
)
from parley.broker.core.phase_plan import PhaseKind, Select
from parley.broker.core.spending import Spending
from parley.broker.core.tally import Tally
from tests import present
from tests.mirror.broker.core.test_phase_changes import (
    ACCEPTED,
    AGENTS,
    DEADLINE,
    JUDGES,
    answer,
    asked,
    ballot,
    failure,
    happened,
    judging,
)

AT = "2026-11-27T08:00:00.000Z"


def report(agent: str, **fields: Any) -> AgentCompleted:
    given: dict[str, Any] = {"duration_ms": 40, "attempt": 1, **fields}
    return AgentCompleted(
        task_id="t-1", agent_id=agent, role="DEV", finish_reason="stop", queue_ms=0, timestamp=AT, model="m",
        usage=Usage(prompt_tokens=100, completion_tokens=10, total_tokens=110, cached_tokens=60), diversity=False,
        num_agents=3, proposal=Proposal(
            content="x", author_id=agent, author_role="DEV", model="m", temperature=None, tokens=10
        ), **given,
    )  # fmt: skip


def no_report(agent: str, error_type: ErrorType = ErrorType.INVALID_BALLOT) -> AgentFailed:
    return AgentFailed(
        task_id="t-1", agent_id=agent, role="DEV", error="asked twice", error_type=error_type, attempt=2, duration_ms=40,
        timestamp=AT,
    )  # fmt: skip


def decided(votes: int = 3, *, first: Sequence[str] = AGENTS[:3], **fields: Any) -> Tally:
    """Ended by so many ballots of three, at the deadline if any is missing."""
    tally = judging(**fields)
    cast = [ballot(tally, number, first) for number in range(1, votes + 1)]
    tally = present(happened(tally, *cast).tally)
    return tally if tally.ended else present(happened(tally, DeadlineReached(), at=DEADLINE).tally)


def told(
    tally: Tally, judged: Mapping[str, AgentOutcome | None] | None = None, **how: Any
) -> DeliberationCompleted:
    reports = {judge: report(judge, ballot=Ballot(ranking="ABC", notes="so")) for judge in JUDGES[:3]}
    counted = {judge: one.seq for phase in tally.later_phases for judge, one in phase.outcomes.items()}
    stored = {
        counted[judge]: outcome
        for judge, outcome in (judged or reports).items()
        if outcome is not None and judge in counted
    }
    ending = compose(tally, (), how.pop("failed", {}), answered=tally.answers.successes, judged=stored, **how)
    assert isinstance(ending, DeliberationCompleted)
    return ending


def selection(ending: DeliberationCompleted) -> Selection:
    return present(ending.selection)


def test_the_ending_tells_the_choice_and_each_ballot() -> None:
    ending = told(decided())
    chosen = selection(ending)
    assert (ending.winner_id, ending.degraded, ending.degraded_reasons) == (AGENTS[0], False, ())
    assert (chosen.status, chosen.support, chosen.agreement, chosen.margin) == ("decided", "3/3", 1.0, "3/6")
    assert (chosen.asked, chosen.valid, chosen.invalid, chosen.missing) == (3, 3, 0, 0)
    assert [one.ranking for one in chosen.ballots] == [tuple(AGENTS[:3])] * 3
    assert len({one.shown for one in chosen.ballots}) == 3
    assert {one.notes for one in chosen.ballots} == {"so"}
    assert ending.dissent == ()


def test_who_saw_it_otherwise_is_told() -> None:
    tally = judging()
    others = [AGENTS[1], AGENTS[0], AGENTS[2]]
    cast = [ballot(tally, 1, AGENTS[:3]), ballot(tally, 2, AGENTS[:3]), ballot(tally, 3, others)]
    ending = told(present(happened(tally, *cast).tally))
    assert [(one.agent_id, one.by, one.share) for one in ending.dissent] == [(AGENTS[1], (JUDGES[2],), "1/3")]
    assert selection(ending).support == "2/3"


def test_each_silence_is_told_by_its_name() -> None:
    tally = judging()
    bad = happened(tally, ballot(tally, 1, AGENTS[:3]), ballot(tally, 2, []))
    ended = present(happened(present(bad.tally), DeadlineReached(), at=DEADLINE).tally)
    ending = told(ended, {JUDGES[0]: report(JUDGES[0]), JUDGES[1]: no_report(JUDGES[1])})
    gaps = [(gap.phase, gap.what, gap.who) for gap in ending.degraded_reasons]
    assert gaps == [
        ("judge", "invalid_ballot", JUDGES[1]), ("judge", "missing", JUDGES[2]), ("judge", "below_quorum", None)
    ]  # fmt: skip
    assert [one.why for one in selection(ending).ballots] == ["", "asked twice", "no word by the limit"]
    assert ending.degraded


def test_a_judge_that_failed_is_no_invalid_ballot() -> None:
    tally = judging()
    bad = happened(tally, *(ballot(tally, number, AGENTS[:3]) for number in (1, 2)), ballot(tally, 3, []))
    judged = {
        JUDGES[0]: report(JUDGES[0]),
        JUDGES[1]: None,
        JUDGES[2]: no_report(JUDGES[2], ErrorType.SERVER_ERROR),
    }
    ending = told(present(bad.tally), judged)
    assert [(gap.what, gap.who, gap.why) for gap in ending.degraded_reasons] == [
        ("failed", JUDGES[2], "server_error")
    ]
    # A ballot that was counted stays one, also where its words are gone.
    assert selection(ending).ballots[1].ranking == tuple(AGENTS[:3])


def test_agents_that_failed_or_are_missing_are_told_too() -> None:
    tally = present(happened(asked(4), answer(1), answer(2), failure(3)).tally)
    opened = present(happened(tally, DeadlineReached(), at=tally.limit).tally)
    cast = [ballot(opened, number, AGENTS[:2]) for number in (1, 2, 3)]
    ended = present(happened(opened, *cast, at=opened.accepted_at + 45).tally)
    lost = FailedAgent(agent_id=AGENTS[2], error="no", error_type=ErrorType.SERVER_ERROR, timestamp=AT)
    ending = told(ended, failed={AGENTS[2]: lost})
    assert [(gap.what, gap.who, gap.why) for gap in ending.degraded_reasons] == [
        ("failed", AGENTS[2], "server_error"), ("missing", AGENTS[3], "")
    ]  # fmt: skip
    assert ending.missing_agents == (AGENTS[3],)


@pytest.mark.parametrize(
    ("fields", "at", "why"),
    [
        ({"max_calls": 5}, ACCEPTED + 1, "it would have made 6 calls, more than max_calls, 5"),
        ({}, DEADLINE - 1.0, "less than 2 s were left"),
    ],
)
def test_a_phase_that_was_left_out_is_told_with_its_reason(
    fields: dict[str, Any], at: float, why: str
) -> None:
    tally = present(happened(asked(**fields), answer(1)).tally)
    moved = tally.model_copy(update={"phases": (tally.phase.model_copy(update={"limit": DEADLINE}),)})
    ended = present(happened(moved, answer(2), answer(3), at=at).tally)
    ending = told(ended)
    assert [(gap.phase, gap.what, gap.why) for gap in ending.degraded_reasons if gap.what == "left_out"] == [
        ("judge", "left_out", why)
    ]  # fmt: skip
    assert (ending.winner_id, selection(ending).status) == (None, "no_ballots")


def test_one_answer_alone_leaves_nothing_out() -> None:
    ended = present(happened(asked(2), answer(1, "aa"), answer(2, "aa")).tally)
    ending = told(ended)
    assert (selection(ending).status, ending.degraded) == ("only_one", False)


def test_a_vote_tells_the_other_answers() -> None:
    tally = asked(5, select=Select.VOTE)
    said = ("aa", "bb", "aa", "bb", "aa")
    ended = present(happened(tally, *(answer(number, key) for number, key in enumerate(said, 1))).tally)
    ending = told(ended)
    assert (selection(ending).method, selection(ending).support) == ("vote", "3/5")
    (other,) = ending.dissent
    assert (set(other.by), other.share) == ({AGENTS[1], AGENTS[3]}, "2/5")


def test_a_vote_of_which_nothing_can_be_read_is_degraded() -> None:
    ended = present(happened(asked(2, select=Select.VOTE), answer(1), answer(2)).tally)
    ending = told(ended)
    assert (selection(ending).status, ending.winner_id, ending.degraded) == ("no_ballots", None, True)
    assert [(gap.phase, gap.what) for gap in ending.degraded_reasons] == [("answer", "below_quorum")]


def test_answers_that_were_shortened_are_told_by_agent() -> None:
    tally = decided()
    judged: dict[str, AgentOutcome | None] = {
        judge: report(judge, ballot=Ballot(ranking="ABC", shortened="B")) for judge in JUDGES[:3]
    }
    for ballot_told in selection(told(tally, judged)).ballots:
        assert ballot_told.shortened == (ballot_told.shown[1],)


def test_the_cost_is_told_by_phase() -> None:
    spent = [Spending(), Spending()]
    for agent in AGENTS[:3]:
        spent[0].add(report(agent))
    spent[1].add(report(JUDGES[0], attempt=2))
    spent[1].add(no_report(JUDGES[1]))
    ending = told(decided(), spent=spent)
    answers, judges = (phase.cost for phase in ending.phases)
    assert (answers.calls, answers.attempts, answers.prompt_tokens, answers.cached_tokens) == (3, 3, 300, 180)
    assert (judges.calls, judges.attempts, judges.completion_tokens, judges.model_ms) == (3, 4, 10, 80)
    assert present(ending.cost).calls == 6
    assert present(ending.cost).cached_tokens == 240


def test_a_failed_ending_tells_its_phases_and_their_cost_too() -> None:
    spent = [Spending(), Spending()]
    spent[0].add(report(AGENTS[0]))
    cancelled = present(happened(judging(), CancelRequested("enough", 9)).tally)
    ending = compose(cancelled, (), {}, answered=3, spent=spent)
    assert isinstance(ending, DeliberationFailed)
    assert [(phase.phase, phase.cost.calls, phase.cost.prompt_tokens) for phase in ending.phases] == [
        ("answer", 3, 100),
        ("judge", 3, 0),
    ]
    assert present(ending.cost).calls == 6
    smallest, _ = fit(ending, 400)
    assert "selection" in smallest.left_out
    assert (smallest.phases, smallest.cost) == ((), None)


def test_who_was_stopped_is_told_as_cancelled() -> None:
    stopped = no_report(JUDGES[2], ErrorType.CANCELLED)
    tally = judging()
    cast = [ballot(tally, 1, AGENTS[:3]), ballot(tally, 2, AGENTS[:3])]
    unheard = Reported(JUDGES[2], 1, 99, ErrorType.CANCELLED, PhaseKind.JUDGE)
    ended = present(happened(tally, *cast, unheard).tally)
    (gap,) = told(ended, {**dict.fromkeys(JUDGES[:2]), JUDGES[2]: stopped}).degraded_reasons
    assert (gap.what, gap.who, gap.why) == ("cancelled", JUDGES[2], "cancelled")


def test_without_a_server_that_tells_cached_tokens_are_unknown() -> None:
    assert present(told(decided()).cost).cached_tokens is None


def test_without_a_choice_nothing_is_told() -> None:
    plain = asked(2, select=Select.NONE, plan=())
    ended = present(happened(plain, answer(1), answer(2)).tally)
    ending = told(ended, {})
    assert (ending.winner_id, ending.selection, ending.cost) == (None, None, None)
    assert (ending.dissent, ending.degraded_reasons, ending.phases) == ((), (), ())


def test_what_does_not_fit_goes_notes_first_and_the_winner_stays() -> None:
    judged = {judge: report(judge, ballot=Ballot(ranking="ABC", notes="n" * 600)) for judge in JUDGES[:3]}
    ending = told(decided(), judged)
    size = len(ending.encode())
    smaller, body = fit(ending, size - 100)
    assert smaller.left_out == ("selection.notes",)
    assert isinstance(smaller, DeliberationCompleted)
    assert selection(smaller).ballots[0].ranking is not None
    smallest, body = fit(ending, 1_500)
    assert "selection" in smallest.left_out
    assert isinstance(smallest, DeliberationCompleted)
    assert smallest.winner_id == AGENTS[0]
    assert len(body) < 1_500


def test_nothing_is_chosen_where_too_few_answered() -> None:
    ended = present(happened(asked(2, min_responses=2), answer(1), failure(2)).tally)
    ending = compose(ended, (), {}, answered=1)
    assert isinstance(ending, DeliberationFailed)
    assert (ending.winner, ending.answer) == (None, None)
