"""A deliberation that chooses: one write closes a phase and opens the next, and an ending comes with the best of what is
finished."""

from collections.abc import Sequence
from typing import Any

import pytest

from parley.broker.core.choice import ballots, pool, shown
from parley.broker.core.events_and_effects import (
    ArmDeadline,
    CancelRequested,
    DeadlineReached,
    Event,
    PublishEnding,
    Reported,
    RequestAgents,
    Requested,
    StopAgents,
)
from parley.broker.core.judging_orders import LABELS
from parley.broker.core.messages import ErrorType, agent_id
from parley.broker.core.phase_changes import needs
from parley.broker.core.phase_plan import LEAST_SECONDS, PhaseKind, Select, Step, plan
from parley.broker.core.reactions import OVERDUE_SECONDS, Reaction, react
from parley.broker.core.states_and_moves import State
from parley.broker.core.tally import ChoiceStatus, ClosedBy, Tally
from tests import present

ACCEPTED, DEADLINE = 1_000.0, 1_060.0
AGENTS = [agent_id("DEV", number) for number in range(1, 9)]
JUDGES = [f"judge-{number:03d}" for number in range(1, 6)]


def asked(agents: int = 3, judges: int = 3, **fields: Any) -> Tally:
    given: dict[str, Any] = {
        "task_id": "t-1", "seq": 7, "at": ACCEPTED, "deadline": DEADLINE, "role": "DEV", "num_agents": agents,
        "select": Select.JUDGE, **fields,
    }  # fmt: skip
    given.setdefault("plan", plan(given["select"], agents, judges))
    return present(react(None, Requested(**given), ACCEPTED).tally)


def answer(number: int, said: str | None = None, seq: int | None = None) -> Reported:
    return Reported(AGENTS[number - 1], 1, seq or number, said=said)


def failure(number: int) -> Reported:
    return Reported(AGENTS[number - 1], 1, number, ErrorType.SERVER_ERROR)


def ballot(tally: Tally, number: int, best_first: Sequence[str], seq: int | None = None) -> Reported:
    judge = JUDGES[number - 1]
    order = shown(tally, tally.phase)[judge]
    said = "".join(LABELS[order.index(name)] for name in best_first)
    return Reported(judge, 1, seq or 20 + number, phase=PhaseKind.JUDGE, said=said)


def happened(tally: Tally, *events: Event, at: float = ACCEPTED + 1) -> Reaction:
    reaction = Reaction(tally)
    for event in events:
        reaction = react(reaction.tally, event, at)
    return reaction


def judging(agents: int = 3, judges: int = 3, at: float = ACCEPTED + 1, **fields: Any) -> Tally:
    """The answers are in, the judges are asked."""
    tally = asked(agents, judges, **fields)
    return present(happened(tally, *map(answer, range(1, agents + 1)), at=at).tally)


# ── one phase after the other ─────────────────────────────────────────────────────────────────────────────────────


def test_the_answers_have_their_share_of_the_time() -> None:
    tally = asked()
    assert tally.limit == pytest.approx(ACCEPTED + 59 * 4 / 6)
    assert needs(tally) == (ArmDeadline(tally.limit), RequestAgents(1, tuple(AGENTS[:3])))


def test_the_last_answer_opens_the_panel_in_the_same_write() -> None:
    tally = present(happened(asked(), answer(1), answer(2)).tally)
    reaction = happened(tally, answer(3), at=ACCEPTED + 20)
    opened = present(reaction.tally)
    assert [phase.kind for phase in opened.all_phases] == [PhaseKind.ANSWER, PhaseKind.JUDGE]
    assert (opened.phases[0].closed_by, opened.phases[0].closed_at) == (ClosedBy.ALL, ACCEPTED + 20)
    assert (opened.phase.opened_by, opened.phase.opened_at) == (3, ACCEPTED + 20)
    assert opened.limit == pytest.approx(DEADLINE - 1)  # what the answers left, but for the reserve
    assert reaction.effects == (
        ArmDeadline(opened.limit), RequestAgents(1, tuple(JUDGES[:3]), PhaseKind.JUDGE)
    )  # fmt: skip
    assert opened.state is State.IN_PROGRESS


def test_the_last_ballot_decides() -> None:
    tally = judging()
    best = AGENTS[1]
    first = [best, AGENTS[0], AGENTS[2]]
    reaction = happened(tally, *(ballot(tally, number, first) for number in (1, 2, 3)))
    ended = present(reaction.tally)
    choice = present(ended.choice)
    assert (ended.state, ended.phase.closed_by) == (State.COMPLETED, ClosedBy.ALL)
    assert (choice.status, choice.winner, choice.runner_up) == (ChoiceStatus.DECIDED, best, AGENTS[0])
    assert choice.scores == {best: "6/6", AGENTS[0]: "3/6", AGENTS[2]: "0/6"}
    assert choice.margin == "3/6"
    assert reaction.effects == (PublishEnding(),)
    assert present(ended.verdict).by == 23


def test_without_a_choice_nothing_of_it_is_stored() -> None:
    plain = react(None, Requested("t-1", 7, ACCEPTED, DEADLINE, "DEV", 2), ACCEPTED).tally
    ended = present(happened(present(plain), answer(1), answer(2)).tally)
    stored = ended.model_dump_json(exclude_defaults=True)
    assert not any(
        word in stored for word in ("choice", "limit", "closed", "opened", "kind", "plan", "select")
    )


# ── who opened a phase asks for it again ──────────────────────────────────────────────────────────────────────────


def test_the_outcome_that_opened_a_phase_asks_for_it_again() -> None:
    tally = judging()
    again = happened(tally, answer(3))
    assert again.tally is tally
    assert again.effects == needs(tally)
    assert happened(tally, answer(2)).effects == ()


def test_the_request_that_comes_again_asks_for_the_current_phase() -> None:
    tally = judging()
    request = Requested("t-1", 7, ACCEPTED, DEADLINE, "DEV", 3, select=Select.JUDGE)
    assert happened(tally, request).effects == needs(tally)


def test_an_early_alarm_asks_for_the_current_phase_and_comes_again() -> None:
    tally = judging()
    early = happened(tally, DeadlineReached(), at=tally.limit - 1)
    assert (early.tally, early.effects) == (tally, needs(tally))


def test_what_is_late_for_its_phase_changes_nothing() -> None:
    tally = judging(judges=2, at=ACCEPTED + 2)
    late = Reported(AGENTS[0], 1, 9)
    assert happened(tally, late).note == "the phase answer is not the current one"


def test_a_ballot_before_its_phase_is_no_answer() -> None:
    tally = asked()
    early = Reported(JUDGES[0], 1, 9, phase=PhaseKind.JUDGE, said="ABC")
    assert happened(tally, early).note == "the phase judge is not the current one"


# ── limits ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_at_its_limit_a_phase_goes_on_with_what_it_has() -> None:
    tally = present(happened(asked(), answer(1), answer(2)).tally)
    reaction = happened(tally, DeadlineReached(), at=tally.limit)
    opened = present(reaction.tally)
    assert (opened.phases[0].closed_by, opened.phase.opened_by) == (ClosedBy.LIMIT, None)
    assert pool(opened) == tuple(sorted(pool(opened), key=pool(opened).index))
    assert set(pool(opened)) == {AGENTS[0], AGENTS[1]}
    assert StopAgents("its phase is closed", 1, PhaseKind.ANSWER) in reaction.effects


def test_with_too_little_at_its_limit_it_waits_for_what_makes_it_enough() -> None:
    tally = present(happened(asked(), answer(1)).tally)
    moved = happened(tally, DeadlineReached(), at=tally.limit)
    waiting = present(moved.tally)
    assert (waiting.limit, waiting.limit_has_moved) == (DEADLINE, True)
    assert moved.effects == (ArmDeadline(DEADLINE),)
    assert waiting.outcomes_needed == 1
    opened = present(happened(waiting, answer(2), at=waiting.accepted_at + 50).tally)
    assert (opened.phase.kind, opened.phases[0].closed_by) == (PhaseKind.JUDGE, ClosedBy.LIMIT)


@pytest.mark.parametrize(
    "fields", [{"max_calls": 5}, {"deadline": ACCEPTED + 5}], ids=["too many calls", "too short"]
)
def test_answers_have_all_the_time_where_no_panel_could_follow(fields: dict[str, Any]) -> None:
    tally = asked(**fields)
    assert (tally.phase.limit, tally.limit) == (None, tally.deadline)
    some = present(happened(tally, answer(1), answer(2), at=ACCEPTED + 4.5).tally)
    assert not some.ended
    ended = present(happened(some, DeadlineReached(), at=tally.deadline).tally)
    assert (ended.state, len(ended.all_phases)) == (State.COMPLETED, 1)


def test_a_panel_of_which_nothing_is_there_at_its_limit_is_asked_again() -> None:
    """Who opened the phase may have died before its work was requested (simulation, seed 24529)."""
    tally = judging()
    moved = happened(tally, DeadlineReached(), at=tally.limit)
    assert present(moved.tally).limit_has_moved
    assert moved.effects == (
        ArmDeadline(DEADLINE), RequestAgents(1, tuple(JUDGES[:3]), PhaseKind.JUDGE),
    )  # fmt: skip


def test_two_answers_that_are_the_same_are_too_little_at_the_limit() -> None:
    tally = present(happened(asked(), answer(1, "aa"), answer(2, "aa")).tally)
    waiting = present(happened(tally, DeadlineReached(), at=tally.limit).tally)
    assert waiting.limit_has_moved
    opened = present(happened(waiting, answer(3, "bb"), at=ACCEPTED + 50).tally)
    assert opened.phase.kind is PhaseKind.JUDGE


def test_an_alarm_that_comes_too_late_for_a_panel_waits_for_more_answers() -> None:
    tally = present(happened(asked(), answer(1), answer(2)).tally)
    late = present(happened(tally, DeadlineReached(), at=DEADLINE - 1).tally)
    assert (late.ended, late.limit) == (False, DEADLINE)


def test_a_finish_that_is_early_leaves_enough_to_compare() -> None:
    early = asked(min_responses=1, finish_early=True)
    assert len(present(happened(early, answer(1)).tally).all_phases) == 1
    assert not present(happened(early, answer(1)).tally).ended
    assert present(happened(early, answer(1), answer(2)).tally).phase.kind is PhaseKind.JUDGE


def test_an_outcome_after_a_limit_that_nobody_noticed_is_counted_where_it_is_needed() -> None:
    tally = present(happened(asked(), answer(1)).tally)
    late = tally.limit + OVERDUE_SECONDS + 1
    opened = present(happened(tally, answer(2), at=late).tally)
    assert opened.phase.kind is PhaseKind.JUDGE
    full = present(happened(asked(), answer(1), answer(2)).tally)
    closed = present(happened(full, answer(3), at=full.limit + OVERDUE_SECONDS + 1).tally)
    assert (closed.phase.kind, closed.phase.opened_by) == (PhaseKind.JUDGE, 3)
    assert AGENTS[2] not in closed.answers.outcomes


def test_a_late_outcome_that_is_not_needed_waits_for_the_alarm() -> None:
    tally = present(happened(asked(), answer(1), answer(2)).tally)
    late = happened(tally, answer(3), at=tally.limit + 0.1)
    assert (late.tally, late.note) == (tally, "late: the phase's limit decides")


def test_a_panel_without_a_ballot_waits_until_the_deadline() -> None:
    tally = judging()
    waiting = present(happened(tally, DeadlineReached(), at=tally.limit).tally)
    assert (waiting.limit, waiting.ended) == (DEADLINE, False)
    ended = present(happened(waiting, ballot(waiting, 1, AGENTS[:3]), at=DEADLINE - 0.5).tally)
    choice = present(ended.choice)
    assert (choice.status, choice.winner) == (ChoiceStatus.INDICATED, AGENTS[0])
    assert (ended.state, ended.phase.closed_by) == (State.COMPLETED, ClosedBy.LIMIT)


@pytest.mark.parametrize("votes", [0, 1, 2])
def test_the_deadline_ends_it_with_the_ballots_there_are(votes: int) -> None:
    tally = judging()
    cast = [ballot(tally, number, AGENTS[:3]) for number in range(1, votes + 1)]
    ended = present(happened(present(happened(tally, *cast).tally), DeadlineReached(), at=DEADLINE).tally)
    choice = present(ended.choice)
    expected = (ChoiceStatus.NO_BALLOTS, ChoiceStatus.INDICATED, ChoiceStatus.DECIDED)[votes]
    assert (ended.state, choice.status) == (State.COMPLETED, expected)
    assert choice.winner == (AGENTS[0] if votes else None)


def test_the_deadline_before_any_judge_leaves_the_choice_open() -> None:
    tally = present(happened(asked(), answer(1)).tally)
    waiting = present(happened(tally, DeadlineReached(), at=tally.limit).tally)
    ended = present(happened(waiting, DeadlineReached(), at=DEADLINE).tally)
    assert (ended.state, present(ended.choice).status) == (State.COMPLETED, ChoiceStatus.ONLY_ONE)
    assert ended.steps_left == (Step(kind=PhaseKind.JUDGE, agents=3),)


def test_without_enough_answers_the_deadline_is_a_timeout() -> None:
    tally = present(happened(asked(min_responses=2), answer(1)).tally)
    waiting = present(happened(tally, DeadlineReached(), at=tally.limit).tally)
    ended = present(happened(waiting, DeadlineReached(), at=DEADLINE).tally)
    assert (ended.state, ended.choice) == (State.TIMEOUT, None)


def test_with_little_time_left_no_phase_is_opened() -> None:
    tally = present(happened(asked(), answer(1), answer(2)).tally)
    moved = tally.model_copy(update={"phases": (tally.phase.model_copy(update={"limit": DEADLINE}),)})
    ended = present(happened(moved, answer(3), at=DEADLINE - LEAST_SECONDS + 0.1).tally)
    assert (ended.state, present(ended.choice).status) == (State.COMPLETED, ChoiceStatus.NO_BALLOTS)


# ── what is not opened, what ends early ───────────────────────────────────────────────────────────────────────────


def test_one_answer_needs_no_judge() -> None:
    ended = present(happened(asked(), answer(1), failure(2), failure(3)).tally)
    assert (ended.state, len(ended.all_phases)) == (State.COMPLETED, 1)
    assert (present(ended.choice).status, present(ended.choice).winner) == (ChoiceStatus.ONLY_ONE, AGENTS[0])
    assert asked(agents=1).plan == ()


def test_the_same_answer_is_one_candidate() -> None:
    tally = present(happened(asked(), answer(1, "aa"), answer(2, "bb"), answer(3, "aa")).tally)
    assert len(pool(tally)) == 2
    assert AGENTS[1] in pool(tally)
    ended = present(happened(asked(), answer(1, "aa"), answer(2, "aa"), answer(3, "aa")).tally)
    assert (ended.ended, present(ended.choice).status) == (True, ChoiceStatus.ONLY_ONE)


def test_a_phase_that_would_make_too_many_calls_is_left_out() -> None:
    ended = present(happened(asked(max_calls=5), *map(answer, (1, 2, 3))).tally)
    assert (ended.state, present(ended.choice).status) == (State.COMPLETED, ChoiceStatus.NO_BALLOTS)
    assert judging(max_calls=6).phase.kind is PhaseKind.JUDGE


def test_too_few_answers_fail_before_any_judge_is_asked() -> None:
    ended = present(happened(asked(min_responses=3), answer(1), answer(2), failure(3)).tally)
    assert (ended.state, ended.choice, len(ended.all_phases)) == (State.FAILED, None, 1)


def test_enough_answers_open_the_panel_early() -> None:
    tally = present(happened(asked(min_responses=2, finish_early=True), answer(1), answer(2)).tally)
    assert (tally.phase.kind, tally.answers.closed_by) == (PhaseKind.JUDGE, ClosedBy.ENOUGH)


def test_with_enough_answers_and_no_judge_to_come_nobody_waits() -> None:
    few = asked(min_responses=1, finish_early=True, max_calls=3)
    ended = present(happened(few, answer(1)).tally)
    assert (ended.state, ended.answers.closed_by) == (State.COMPLETED, ClosedBy.ENOUGH)
    assert (ended.stopped, ended.missing) == (tuple(AGENTS[1:3]), ())


def test_agents_that_the_deadline_cut_off_are_missing_although_it_may_finish_early() -> None:
    tally = present(happened(asked(min_responses=1, finish_early=True), answer(1)).tally)
    waiting = present(happened(tally, DeadlineReached(), at=tally.limit).tally)
    ended = present(happened(waiting, DeadlineReached(), at=DEADLINE).tally)
    assert (ended.state, ended.answers.closed_by) == (State.COMPLETED, ClosedBy.DEADLINE)
    assert (ended.stopped, ended.missing) == ((), tuple(AGENTS[1:3]))


def test_where_no_panel_can_follow_any_more_answers_count_until_the_deadline() -> None:
    late = DEADLINE - LEAST_SECONDS + 0.5
    unnoticed = present(happened(asked(4), answer(1), answer(2)).tally)
    noticed = present(happened(unnoticed, DeadlineReached(), at=late).tally)
    for tally in (unnoticed, noticed):
        third = present(happened(tally, answer(3), at=late + 0.1).tally)
        assert (third.ended, set(third.answers.outcomes)) == (False, set(AGENTS[:3]))
        ended = present(happened(third, answer(4), at=DEADLINE - 0.1).tally)
        assert (ended.state, ended.answers.closed_by, ended.missing) == (State.COMPLETED, ClosedBy.ALL, ())


def test_a_cancel_ends_any_phase() -> None:
    tally = judging()
    reaction = happened(tally, CancelRequested("enough", 30, ACCEPTED + 2))
    ended = present(reaction.tally)
    assert (ended.state, ended.choice, ended.phase.closed_by) == (State.CANCELLED, None, ClosedBy.CANCEL)
    assert StopAgents("cancelled: enough") in reaction.effects


# ── ballots ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("said", [None, "", "AB", "ABB", "ABD", "ABCC"])
def test_what_is_no_whole_ranking_is_no_ballot(said: str | None) -> None:
    tally = judging()
    counted = present(happened(tally, Reported(JUDGES[0], 1, 21, phase=PhaseKind.JUDGE, said=said)).tally)
    assert not counted.phase.outcomes[JUDGES[0]].succeeded
    assert ballots(counted, counted.phase) == {}


def test_no_ballot_at_all_completes_without_a_winner() -> None:
    tally = judging()
    bad = [Reported(judge, 1, 30 + place, phase=PhaseKind.JUDGE) for place, judge in enumerate(JUDGES[:3])]
    ended = present(happened(tally, *bad).tally)
    assert (ended.state, present(ended.choice).status) == (State.COMPLETED, ChoiceStatus.NO_BALLOTS)
    assert present(ended.choice).winner is None


@pytest.mark.parametrize("agents", range(2, 9))
@pytest.mark.parametrize("judges", range(1, 6))
def test_a_ballot_is_read_by_its_own_judges_order(agents: int, judges: int) -> None:
    tally = judging(agents, judges)
    wanted = list(reversed(AGENTS[:agents]))
    ended = present(
        happened(tally, *(ballot(tally, number, wanted) for number in range(1, judges + 1))).tally
    )
    choice = present(ended.choice)
    assert (choice.winner, choice.runner_up) == (wanted[0], wanted[1])
    assert choice.status is ChoiceStatus.DECIDED


# ── votes ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_answer_that_most_gave_wins() -> None:
    tally = asked(5, select=Select.VOTE)
    said = ("aa", "bb", "aa", None, "cc")
    ended = present(happened(tally, *(answer(number, key) for number, key in enumerate(said, 1))).tally)
    choice = present(ended.choice)
    assert (choice.status, choice.margin, choice.tied) == (ChoiceStatus.DECIDED, "1/5", ())
    assert choice.winner in (AGENTS[0], AGENTS[2])
    assert (choice.scores[AGENTS[0]], choice.scores[AGENTS[3]]) == ("2/5", None)


def test_no_two_alike_is_a_tie() -> None:
    tally = asked(3, select=Select.VOTE)
    ended = present(happened(tally, *(answer(number, f"{number}") for number in (1, 2, 3))).tally)
    choice = present(ended.choice)
    assert (choice.status, set(choice.tied), choice.margin) == (ChoiceStatus.TIED, set(AGENTS[:3]), "0/3")


def test_enough_alike_end_it_and_stop_the_others() -> None:
    tally = asked(5, select=Select.VOTE, agree=3)
    some = present(happened(tally, answer(1, "aa"), answer(2, "bb"), answer(3, "aa")).tally)
    assert (some.ended, some.outcomes_needed) == (False, 1)
    reaction = happened(some, answer(4, "aa"))
    ended = present(reaction.tally)
    assert (ended.state, ended.phase.closed_by) == (State.COMPLETED, ClosedBy.AGREE)
    assert (ended.stopped, ended.missing) == ((AGENTS[4],), ())
    assert any(isinstance(effect, StopAgents) for effect in reaction.effects)
    assert present(ended.choice).scores[present(present(ended.choice).winner)] == "3/4"


def test_answers_that_cannot_be_read_are_no_votes() -> None:
    ended = present(happened(asked(2, select=Select.VOTE), answer(1), answer(2)).tally)
    assert present(ended.choice).status is ChoiceStatus.NO_BALLOTS
    alone = present(happened(asked(2, select=Select.VOTE), answer(1), failure(2)).tally)
    assert (present(alone.choice).status, present(alone.choice).winner) == (ChoiceStatus.NO_BALLOTS, None)


def test_who_failed_or_is_missing_was_asked_to_vote_too() -> None:
    tally = asked(8, select=Select.VOTE)
    heard = [answer(1, "aa"), answer(2, "aa"), *map(failure, range(3, 8))]
    ended = present(happened(present(happened(tally, *heard).tally), DeadlineReached(), at=DEADLINE).tally)
    choice = present(ended.choice)
    assert (choice.status, choice.scores[AGENTS[0]], choice.margin) == (ChoiceStatus.INDICATED, "2/8", "2/8")
