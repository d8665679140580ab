"""More than one round: an agent reads two answers beside its own, and writes a better one or keeps one of the three."""

import time
from collections.abc import Mapping
from typing import Any

import pytest

from parley.broker.core.choice import (
    in_round,
    is_settled,
    left_over,
    pool,
    revisions,
    shown,
    standing,
)  # fmt: skip
from parley.broker.core.endings import compose
from parley.broker.core.events_and_effects import (
    ArmDeadline,
    DeadlineReached,
    Reported,
    RequestAgents,
    StopAgents,
)
from parley.broker.core.judging_orders import LABELS
from parley.broker.core.messages import DeliberationCompleted, ErrorType, agent_id, said_by
from parley.broker.core.phase_plan import LEAST_SECONDS, PhaseKind, Select, plan
from parley.broker.core.selection_in_ending import reports_of
from parley.broker.core.states_and_moves import State
from parley.broker.core.tally import ClosedBy, Tally
from tests import present
from tests.mirror.broker.core.test_phase_changes import (
    ACCEPTED,
    AGENTS,
    DEADLINE,
    JUDGES,
    answer,
    asked,
    failure,
    happened,
)  # fmt: skip
from tests.mirror.broker.core.test_selection_in_ending import report

KINDS = (PhaseKind.ANSWER, PhaseKind.REVISE, PhaseKind.JUDGE)


def asked_to_revise(agents: int = 4, rounds: int = 2, select: Select = Select.JUDGE, **fields: Any) -> Tally:
    steps = plan(select, agents, 3, rounds=rounds)
    return asked(agents, plan=steps, rounds=rounds, select=select, **fields)


def answers(count: int) -> list[Reported]:
    return [answer(number, f"{number:016x}") for number in range(1, count + 1)]


def revising(agents: int = 4, at: float = ACCEPTED + 1, **fields: Any) -> Tally:
    """The answers are in, all different, and the agents revise them."""
    return present(happened(asked_to_revise(agents, **fields), *answers(agents), at=at).tally)


def revision(agent: str, said: str, number: int = 2) -> Reported:
    return Reported(agent, number, 100 * number + int(agent[-3:]), phase=PhaseKind.REVISE, said=said)


def keeping(tally: Tally, agent: str, name: str) -> Reported:
    label = LABELS[shown(tally, tally.phase)[agent].index(name)]
    return revision(agent, f"keep:{label}", tally.phase.number)


def revised(tally: Tally, new: Mapping[int, str], **how: Any) -> Tally:
    """The agents of these numbers write that; the others keep their own."""
    number, own = tally.phase.number, standing(tally)
    events = [
        revision(agent, new[place], number) if place in new else keeping(tally, agent, own[agent])
        for place, agent in enumerate(tally.phase.agents, 1)
    ]
    return present(happened(tally, *events, **how).tally)


# ── what is shown ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("agents", [3, 4, 5, 8])
def test_each_sees_its_own_and_two_others_and_each_answer_is_seen_three_times(agents: int) -> None:
    tally = revising(agents)
    seen = shown(tally, tally.phase)
    assert all(agent in names and len(set(names)) == 3 for agent, names in seen.items())
    assert all(sum(name in names for names in seen.values()) == 3 for name in AGENTS[:agents])
    # Its own is not always at the same place.
    places = [names.index(agent) for agent, names in seen.items()]
    assert max(map(places.count, range(3))) - min(map(places.count, range(3))) <= 1


def test_the_same_answer_is_shown_once() -> None:
    tally = asked_to_revise(4)
    same = [answer(number, "0" * 15 + ("a" if number < 4 else "b")) for number in range(1, 5)]
    tally = present(happened(tally, *same).tally)
    assert tally.phase.kind is PhaseKind.REVISE
    assert {len(names) for names in shown(tally, tally.phase).values()} == {2}


def test_who_has_no_answer_is_not_asked_again() -> None:
    tally = present(happened(asked_to_revise(4), *answers(3), failure(4)).tally)
    assert tally.phase.agents == tuple(AGENTS[:3])


# ── what comes of it ──────────────────────────────────────────────────────────────────────────────────────────────


def test_the_rounds_come_before_the_judges_and_their_limit_is_a_share() -> None:
    tally = revising()
    assert [step.kind for step in asked_to_revise().plan] == list(KINDS)
    assert (tally.phase.kind, tally.phase.number) == (PhaseKind.REVISE, 2)
    left = DEADLINE - (ACCEPTED + 1)
    assert tally.limit == pytest.approx(ACCEPTED + 1 + (left - 1) * 4 / 6)
    reaction = happened(asked_to_revise(), *answers(4))
    assert reaction.effects[-2:] == (
        ArmDeadline(tally.limit), RequestAgents(2, tuple(AGENTS[:4]), PhaseKind.REVISE),
    )  # fmt: skip


def test_first_answers_stay_beside_those_that_differ() -> None:
    tally = revised(revising(), {2: "ab" * 8})
    assert tally.phase.kind is PhaseKind.JUDGE
    assert tally.phase.number == 2
    assert set(pool(tally)) == {*AGENTS[:4], f"{AGENTS[1]}/2"}
    assert set(left_over(tally)) == set(pool(tally))
    assert standing(tally) == {**{agent: agent for agent in AGENTS[:4]}, AGENTS[1]: f"{AGENTS[1]}/2"}


def test_who_keeps_anothers_answer_adds_none_and_that_is_counted() -> None:
    tally = revising()
    first = tally.phase.agents[0]
    other = next(name for name in shown(tally, tally.phase)[first] if name != first)
    own = standing(tally)
    events = [keeping(tally, agent, other if agent == first else own[agent]) for agent in tally.phase.agents]
    after = present(happened(tally, *events).tally)
    assert standing(after)[first] == other
    assert set(pool(after)) == set(AGENTS[:4])
    report = reports_of(after, ())[1]
    assert (report.phase, report.round, report.kept, report.adopted) == ("revise", 2, 3, 1)


def test_the_same_words_again_are_no_other_answer() -> None:
    tally = revised(revising(), {1: f"{1:016x}"})
    assert revisions(tally) == frozenset()
    assert reports_of(tally, ())[1].kept == 4


def test_only_the_last_of_several_revisions_is_compared_unless_somebody_keeps_it() -> None:
    tally = revised(revising(rounds=3), {1: "aa" * 8})
    assert (tally.phase.kind, tally.phase.number) == (PhaseKind.REVISE, 3)
    second, third = in_round(AGENTS[0], 2), in_round(AGENTS[0], 3)
    alone = revised(tally, {1: "bb" * 8})
    assert set(pool(alone)) == {*AGENTS[:4], third}
    reader = next(
        agent for agent, names in shown(tally, tally.phase).items() if second in names and agent != AGENTS[0]
    )
    own = standing(tally)
    events = [
        revision(agent, "bb" * 8, 3)
        if agent == AGENTS[0]
        else keeping(tally, agent, second if agent == reader else own[agent])
        for agent in tally.phase.agents
    ]
    kept = present(happened(tally, *events).tally)
    assert set(pool(kept)) == {*AGENTS[:4], second, third}
    assert revisions(kept) == {second, third}


def test_rounds_end_once_nobody_changes_anything() -> None:
    tally = revised(revising(rounds=4), {})
    assert is_settled(tally)
    assert [phase.kind for phase in tally.all_phases] == list(KINDS)
    ended = present(happened(tally, DeadlineReached(), at=DEADLINE).tally)
    assert not [gap for gap in ending_of(ended).degraded_reasons if gap.phase == "revise"]


def test_where_all_answer_the_same_nobody_revises() -> None:
    tally = present(happened(asked_to_revise(3), *[answer(n, "0" * 16) for n in (1, 2, 3)]).tally)
    assert tally.state is State.COMPLETED
    assert len(tally.all_phases) == 1


def test_a_member_that_fails_or_is_late_keeps_its_answer() -> None:
    tally = revising()
    lost = Reported(AGENTS[0], 2, 60, ErrorType.SERVER_ERROR, phase=PhaseKind.REVISE)
    some = happened(tally, lost, revision(AGENTS[1], "cd" * 8), at=ACCEPTED + 2)
    reaction = happened(present(some.tally), DeadlineReached(), at=tally.limit)
    after = present(reaction.tally)
    assert (after.phase.kind, after.all_phases[1].closed_by) == (PhaseKind.JUDGE, ClosedBy.LIMIT)
    assert standing(after) == {**{agent: agent for agent in AGENTS[:4]}, AGENTS[1]: f"{AGENTS[1]}/2"}
    assert StopAgents("its phase is closed", 2, PhaseKind.REVISE) in reaction.effects
    gaps = ending_of(present(happened(after, DeadlineReached(), at=DEADLINE).tally)).degraded_reasons
    assert [(gap.what, gap.round, gap.who) for gap in gaps if gap.phase == "revise"] == [
        ("failed", 2, AGENTS[0]), ("missing", 2, AGENTS[2]), ("missing", 2, AGENTS[3]),
    ]  # fmt: skip


def test_a_revision_of_another_round_is_not_counted() -> None:
    tally = revised(revising(rounds=3), {1: "aa" * 8})
    for late in (revision(AGENTS[1], "bb" * 8, 2), Reported(AGENTS[1], 3, 70, said="bb" * 8)):
        assert happened(tally, late).tally is tally


def test_of_two_rounds_the_first_ones_calls_are_stopped() -> None:
    tally = revising(rounds=3)
    some = present(happened(tally, revision(AGENTS[0], "aa" * 8)).tally)
    reaction = happened(some, DeadlineReached(), at=tally.limit)
    assert present(reaction.tally).phase.number == 3
    assert StopAgents("its phase is closed", 2, PhaseKind.REVISE) in reaction.effects


def test_what_the_rounds_bring_goes_through_heats_where_it_is_too_much() -> None:
    assert [step.kind for step in plan(Select.JUDGE, 5, 3, rounds=2)][2] is PhaseKind.HEAT
    tally = revising(5)
    few = revised(tally, {1: "aa" * 8})
    assert few.phase.kind is PhaseKind.JUDGE
    many = revised(tally, {number: f"{number:02d}" * 8 for number in range(1, 6)})
    assert (many.phase.kind, len(many.phase.agents)) == (PhaseKind.HEAT, 2)


@pytest.mark.parametrize("seconds", [8.0, 9.0, 10.0, 12.0, 20.0, 60.0])
def test_at_its_limit_a_round_leaves_the_time_for_heats_and_judges(seconds: float) -> None:
    tally = present(happened(asked_to_revise(5, deadline=ACCEPTED + seconds), *answers(5)).tally)
    tally = present(happened(tally, at=ACCEPTED + 1).tally)
    if tally.phase.kind is PhaseKind.REVISE:
        new = [revision(agent, f"{place:02d}" * 8) for place, agent in enumerate(AGENTS[:4], 10)]
        tally = present(happened(tally, *new, at=ACCEPTED + 1.1).tally)
        tally = present(happened(tally, DeadlineReached(), at=tally.limit + 0.05).tally)
        assert tally.phase.kind is PhaseKind.HEAT
        ballot = LABELS[: len(shown(tally, tally.phase)[JUDGES[0]])]
        cast = Reported(JUDGES[0], 2, 90, phase=PhaseKind.HEAT, said=ballot)
        tally = present(happened(tally, cast, at=tally.limit - 0.1).tally)
        tally = present(happened(tally, DeadlineReached(), at=tally.limit + 0.05).tally)
    assert tally.phase.kind is PhaseKind.JUDGE


# ── what there is no room for ─────────────────────────────────────────────────────────────────────────────────────


def ending_of(tally: Tally) -> DeliberationCompleted:
    ending = compose(tally, (), {}, answered=tally.answers.successes)
    assert isinstance(ending, DeliberationCompleted)
    return ending


def test_a_round_for_which_the_calls_do_not_suffice_stands_back_for_the_judges() -> None:
    tally = present(happened(asked_to_revise(4, max_calls=10), *answers(4)).tally)
    assert tally.phase.kind is PhaseKind.JUDGE
    ended = present(happened(tally, DeadlineReached(), at=DEADLINE).tally)
    gap = next(gap for gap in ending_of(ended).degraded_reasons if gap.phase == "revise")
    assert (gap.round, gap.what, gap.why) == (
        2, "left_out", "it would have made 11 calls, more than max_calls, 10",
    )  # fmt: skip


def test_a_round_for_which_the_time_does_not_suffice_stands_back_for_the_judges() -> None:
    at = DEADLINE - 1.5 * LEAST_SECONDS
    tally = present(happened(asked_to_revise(4), *answers(3)).tally)
    tally = present(happened(tally, answers(4)[3], at=at).tally)
    assert tally.phase.kind is PhaseKind.JUDGE
    ended = present(happened(tally, DeadlineReached(), at=DEADLINE).tally)
    gap = next(gap for gap in ending_of(ended).degraded_reasons if gap.phase == "revise")
    assert gap.why == "there was too little time for it and for what follows"


def test_where_the_calls_pay_for_nothing_each_phase_tells_what_it_alone_needs() -> None:
    ended = present(happened(asked_to_revise(4, max_calls=6), *answers(4)).tally)
    gaps = [(gap.phase, gap.round, gap.why) for gap in ending_of(ended).degraded_reasons]
    assert gaps[:2] == [
        ("revise", 2, "it would have made 11 calls, more than max_calls, 6"),
        ("judge", 2, "it would have made 7 calls, more than max_calls, 6"),
    ]


def test_a_revised_answer_that_is_gone_is_a_gap() -> None:
    tally = revised(revising(select=Select.NONE), {2: "ab" * 8})
    seq = present(tally.latest(PhaseKind.REVISE)).outcomes[AGENTS[1]].seq
    ending = compose(tally, (), {}, answered=4, judged={seq: None})
    assert isinstance(ending, DeliberationCompleted)
    assert [(gap.phase, gap.round, gap.what, gap.who, gap.why) for gap in ending.degraded_reasons] == [
        ("revise", 2, "failed", AGENTS[1], "no longer stored")
    ]
    assert ending.degraded


def test_without_a_choice_the_last_round_ends_it_with_all_answers() -> None:
    tally = revised(revising(select=Select.NONE), {2: "ab" * 8})
    assert (tally.state, tally.choice, revisions(tally)) == (
        State.COMPLETED, None, frozenset({f"{AGENTS[1]}/2"}),
    )  # fmt: skip
    ending = ending_of(tally)
    assert (ending.degraded, ending.winner_id, [phase.phase for phase in ending.phases]) == (
        False, None, ["answer", "revise"],
    )  # fmt: skip


def test_a_revised_answer_can_win() -> None:
    tally = revised(revising(3), {2: "ab" * 8})
    best = f"{AGENTS[1]}/2"
    events = []
    for number, judge in enumerate(JUDGES[:3]):
        order = shown(tally, tally.phase)[judge]
        labels = LABELS[: len(order)]
        first = labels[order.index(best)]
        said = first + labels.replace(first, "")
        events.append(Reported(judge, 2, 80 + number, phase=PhaseKind.JUDGE, said=said))
    ended = present(happened(tally, *events).tally)
    assert present(ended.choice).winner == best
    assert ending_of(ended).winner_id == best


def test_the_most_agents_and_rounds_are_worked_out_in_no_time() -> None:
    agents = [agent_id("DEV", number) for number in range(1, 257)]
    steps = plan(Select.NONE, 256, 3, rounds=5)
    tally = asked(256, plan=steps, rounds=5, select=Select.NONE)
    # One differs: to find it each walks half of the ring.
    events = [Reported(agent, 1, seq, said="0" * 16) for seq, agent in enumerate(agents[:-1], 1)]
    tally = present(happened(tally, *events).tally)
    began = time.process_time()
    opened = present(happened(tally, Reported(agents[-1], 1, 300, said="1" * 16)).tally)
    assert len(shown(opened, opened.phase)) == 256
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize("max_calls", [8, 9, 14])
def test_calls_that_do_not_pay_for_a_round_leave_the_limit_as_without_one(max_calls: int) -> None:
    rounds = asked_to_revise(5, max_calls=max_calls)
    assert rounds.limit == asked(5, plan=plan(Select.JUDGE, 5, 3)).limit


@pytest.mark.parametrize(("agents", "seconds"), [(4, 6.0), (6, 8.0)])
def test_a_round_that_cannot_be_held_takes_no_time_from_the_answers(agents: int, seconds: float) -> None:
    until = ACCEPTED + seconds
    rounds = asked_to_revise(agents, deadline=until)
    assert rounds.limit == asked(agents, plan=plan(Select.JUDGE, agents, 3), deadline=until).limit


def test_anothers_words_again_are_that_one_taken_over() -> None:
    tally = revising()
    first = tally.phase.agents[0]
    other = next(name for name in shown(tally, tally.phase)[first] if name != first)
    after = revised(tally, {1: present(tally.answers.outcomes[other].said)})
    assert (standing(after)[first], revisions(after)) == (other, frozenset())
    assert reports_of(after, ())[1].adopted == 1


def test_an_answer_is_kept_in_a_round_of_revision_only() -> None:
    answer_ = report(AGENTS[0], kept="A", key="0" * 16)
    assert said_by(answer_) == "0" * 16
    assert said_by(answer_.model_copy(update={"phase": PhaseKind.REVISE})) == "keep:A"
