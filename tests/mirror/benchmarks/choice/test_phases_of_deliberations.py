"""Heats, members that rank each other, and an editor whose text has to be preferred: by the same rules as all phases."""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.choice.simulated_deliberation import Deliberation, PromptlyReporting, Report, deliberate
from parley.broker.core.choice import EDITOR, left_over, pool, shown
from parley.broker.core.endings import compose
from parley.broker.core.events_and_effects import Requested
from parley.broker.core.judging_orders import LABELS, MAX_SHOWN
from parley.broker.core.messages import AgentCompleted, DeliberationCompleted, ErrorType
from parley.broker.core.phase_plan import PhaseKind, Select, Step, heats, plan
from parley.broker.core.tally import ChoiceStatus, ClosedBy, Phase, SynthesisStatus, Tally
from tests import present
from tests.mirror.broker.core.test_selection_in_ending import report

ANSWER, HEAT, JUDGE, RANK = PhaseKind.ANSWER, PhaseKind.HEAT, PhaseKind.JUDGE, PhaseKind.RANK
EDIT, CONFIRM = PhaseKind.EDIT, PhaseKind.CONFIRM


def by_number(judge: str, shown: Sequence[str]) -> str:
    """A ballot that puts the agent with the highest number first."""
    best = sorted(shown, reverse=True)
    return "".join(LABELS[shown.index(name)] for name in best)


def kinds(tally: Tally) -> list[tuple[PhaseKind, int]]:
    return [(phase.kind, len(phase.agents)) for phase in tally.all_phases]


def phase_of(tally: Tally, kind: PhaseKind) -> Phase:
    return next(phase for phase in tally.all_phases if phase.kind is kind)


# ── what is planned ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("candidates", "groups"),
    [
        (1, ()),
        (8, ()),
        (9, (2,)),
        (16, (2,)),
        (17, (3,)),
        (32, (4,)),
        (64, (8,)),
        (65, (9, 2)),
        (256, (32, 4)),
    ],
)
def test_so_many_heats_leave_eight(candidates: int, groups: tuple[int, ...]) -> None:
    assert heats(candidates) == groups


@pytest.mark.parametrize(
    ("select", "agents", "synthesize", "steps"),
    [
        (Select.NONE, 5, False, []),
        (Select.VOTE, 5, False, []),
        (Select.VOTE, 5, True, [(ANSWER, 5), (EDIT, 1), (CONFIRM, 4)]),
        (Select.JUDGE, 5, False, [(ANSWER, 5), (JUDGE, 3)]),
        (Select.JUDGE, 16, True, [(ANSWER, 16), (HEAT, 2), (JUDGE, 3), (EDIT, 1), (CONFIRM, 4)]),
        (Select.JUDGE, 256, False, [(ANSWER, 256), (HEAT, 32), (HEAT, 4), (JUDGE, 3)]),
        (Select.RANK, 5, False, [(ANSWER, 5), (RANK, 5)]),
        (Select.RANK, 5, True, [(ANSWER, 5), (RANK, 5), (EDIT, 1), (CONFIRM, 4)]),
        (Select.JUDGE, 1, True, []),
    ],
)
def test_the_plan_names_each_phase(
    select: Select, agents: int, synthesize: bool, steps: list[tuple[PhaseKind, int]]
) -> None:
    found = plan(select, agents, 3, synthesize=synthesize)
    assert list(found) == [Step(kind=kind, agents=number) for kind, number in steps]


# ── heats ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("agents", "phases"),
    [
        (8, [(ANSWER, 8), (JUDGE, 3)]),
        (16, [(ANSWER, 16), (HEAT, 2), (JUDGE, 3)]),
        (64, [(ANSWER, 64), (HEAT, 8), (JUDGE, 3)]),
        (256, [(ANSWER, 256), (HEAT, 32), (HEAT, 4), (JUDGE, 3)]),
    ],
)
def test_the_best_of_many_wins_and_no_judge_is_shown_more_than_eight(
    agents: int, phases: list[tuple[PhaseKind, int]]
) -> None:
    tally = deliberate(PromptlyReporting(by_number), "t", agents=agents)
    assert kinds(tally) == phases
    assert present(tally.choice).winner == f"agent-dev-{agents:03d}"
    assert present(tally.choice).status is ChoiceStatus.DECIDED
    judges = [judge for phase in tally.later_phases for judge in phase.agents]
    assert len(judges) == len(set(judges))
    for phase in tally.later_phases:
        seen = shown(tally, phase)
        assert all(2 <= len(names) <= MAX_SHOWN for names in seen.values())
    first = shown(tally, tally.later_phases[0])
    if agents > MAX_SHOWN:
        assert sorted(name for names in first.values() for name in names) == sorted(pool(tally))
        # Groups of about one size.
        assert max(map(len, first.values())) - min(map(len, first.values())) <= 1


def test_heats_are_held_only_for_answers_that_differ() -> None:
    same = {f"agent-dev-{number:03d}": f"{number % 7}" for number in range(1, 21)}
    tally = deliberate(PromptlyReporting(by_number, same), "t", agents=20)
    assert kinds(tally) == [(ANSWER, 20), (JUDGE, 3)]
    assert tally.plan == (Step(kind=ANSWER, agents=20), Step(kind=JUDGE, agents=3))


def test_of_a_group_without_a_ballot_the_seed_says_who_goes_on() -> None:
    def lost(judge: str, shown: Sequence[str]) -> str | None:
        return None if judge == "judge-001" else by_number(judge, shown)

    tally = deliberate(PromptlyReporting(lost), "t", agents=16)
    heat, panel = phase_of(tally, HEAT), phase_of(tally, JUDGE)
    assert (heat.closed_by, heat.missing) == (ClosedBy.LIMIT, ("judge-001",))
    group = shown(tally, heat)["judge-001"]
    among = left_over(tally, panel)
    assert len(among) == 8
    assert [name for name in group if name in among] == list(group[:4])


def test_without_a_panel_the_heats_choose_and_say_that_it_is_not_decided() -> None:
    def heats_only(judge: str, shown: Sequence[str]) -> str | None:
        return by_number(judge, shown) if judge in ("judge-001", "judge-002") else None

    tally = deliberate(PromptlyReporting(heats_only), "t", agents=16)
    chosen = present(tally.choice)
    assert chosen.status in (ChoiceStatus.INDICATED, ChoiceStatus.TIED)
    assert chosen.winner in ("agent-dev-016", "agent-dev-015", "agent-dev-014")
    ending = told(tally)
    assert present(ending.selection).asked == 2
    gaps = [(gap.phase, gap.what, gap.who) for gap in ending.degraded_reasons]
    assert ("judge", "missing", "judge-003") in gaps
    assert ending.degraded


def test_the_ballots_of_heats_are_told_apart_from_the_panels() -> None:
    ending = told(deliberate(PromptlyReporting(by_number), "t", agents=16))
    selection = present(ending.selection)
    assert [ballot.judge for ballot in selection.heats] == ["judge-001", "judge-002"]
    assert [ballot.judge for ballot in selection.ballots] == ["judge-003", "judge-004", "judge-005"]
    assert [report.phase for report in ending.phases] == ["answer", "heat", "judge"]
    assert not ending.degraded


# ── members rank each other ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("agents", [4, 5, 9])
def test_members_rank_the_answers_of_the_others_each_at_each_place_once(agents: int) -> None:
    tally = deliberate(PromptlyReporting(by_number), "t", agents=agents, select=Select.RANK)
    phase = phase_of(tally, RANK)
    assert phase.agents == tally.answers.agents
    seen = shown(tally, phase)
    assert all(name not in names and len(names) == agents - 1 for name, names in seen.items())
    for place in range(agents - 1):
        assert len({names[place] for names in seen.values()}) == agents
    assert present(tally.choice).winner == f"agent-dev-{agents:03d}"
    assert present(told(tally).selection).method == "rank"


def test_members_that_look_at_places_only_tie_exactly() -> None:
    first = PromptlyReporting(lambda _, shown: LABELS[: len(shown)])
    chosen = present(deliberate(first, "t", agents=5, select=Select.RANK).choice)
    assert (chosen.status, len(chosen.tied)) == (ChoiceStatus.TIED, 5)


def test_a_member_is_not_shown_its_own_words_under_another_name() -> None:
    same = {f"agent-dev-{number:03d}": said for number, said in enumerate("aabcd", 1)}
    tally = deliberate(PromptlyReporting(by_number, same), "t", agents=5, select=Select.RANK)
    seen = shown(tally, phase_of(tally, RANK))
    assert [len(names) for names in seen.values()] == [3] * 5
    for name, names in seen.items():
        assert same[name] not in [same[other] for other in names]


def test_of_two_different_answers_nobody_could_compare_and_the_ending_says_so() -> None:
    same = {f"agent-dev-{number:03d}": said for number, said in enumerate("aaab", 1)}
    tally = deliberate(PromptlyReporting(by_number, same), "t", agents=4, select=Select.RANK)
    assert (kinds(tally), present(tally.choice).status) == ([(ANSWER, 4)], ChoiceStatus.NO_BALLOTS)
    (gap,) = told(tally).degraded_reasons
    assert (gap.phase, gap.what) == ("rank", "left_out")
    assert gap.why == "there were fewer than 3 different answers, and nobody ranks its own"


# ── an editor ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Editing:
    """Members whose judges prefer by number, and confirm by `confirm`. `edit`: what comes of the editor."""

    def __init__(self, confirm: Callable[[Sequence[str]], str | None], edit: Report | None = None) -> None:
        self._confirm = confirm
        self._edit = edit

    def answer(self, agent: str) -> Report | None:
        return Report(said=agent)

    def revise(self, agent: str, shown: Sequence[str]) -> None:
        raise AssertionError(f"{agent} has one round")

    def edit(self, winner: str) -> Report | None:
        return self._edit

    def judge(self, judge: str, shown: Sequence[str]) -> Report | None:
        if EDITOR in shown:
            ballot = self._confirm(shown)
            return None if ballot is None else Report(said=ballot)
        return Report(said=by_number(judge, shown))


def editor_first(shown: Sequence[str]) -> str:
    return "AB" if shown[0] == EDITOR else "BA"


def editor_last(shown: Sequence[str]) -> str:
    return "BA" if shown[0] == EDITOR else "AB"


WRITTEN = Report(said="e" * 16)


@pytest.mark.parametrize(
    ("confirm", "edit", "status", "support"),
    [
        (editor_first, WRITTEN, SynthesisStatus.ACCEPTED, "4/4"),
        (editor_last, WRITTEN, SynthesisStatus.REFUSED, "0/4"),
        (
            lambda _: "AB",
            WRITTEN,
            SynthesisStatus.REFUSED,
            "2/4",
        ),  # by place: half of them see the same first
        (lambda _: None, WRITTEN, SynthesisStatus.NOT_CONFIRMED, None),
        (editor_first, Report(error_type=ErrorType.SERVER_ERROR), SynthesisStatus.NOT_WRITTEN, None),
        (editor_first, None, SynthesisStatus.NOT_WRITTEN, None),
    ],
)
@pytest.mark.parametrize("select", [Select.JUDGE, Select.RANK, Select.VOTE])
def test_an_editors_text_is_the_answer_only_if_most_ballots_prefer_it(
    confirm: Callable[[Sequence[str]], str | None],
    edit: Report | None,
    status: SynthesisStatus,
    support: str | None,
    select: Select,
) -> None:
    tally = deliberate(Editing(confirm, edit), "t", agents=5, select=select, synthesize=True)
    decided, chosen = present(tally.synthesis), present(tally.choice)
    assert (decided.status, decided.support) == (status, support)
    winner = chosen.winner if select is Select.VOTE else "agent-dev-005"
    assert chosen.winner == winner
    ending = told(tally)
    accepted = decided.status is SynthesisStatus.ACCEPTED
    assert ending.answer_from == ("synthesis" if accepted else "vote" if select is Select.VOTE else "winner")
    assert ending.winner_id == winner
    assert ending.answer == ("the editor's" if accepted else None)  # the results are not in this ending
    assert present(ending.synthesis).status == decided.status.value
    failed = decided.status in (SynthesisStatus.NOT_WRITTEN, SynthesisStatus.NOT_CONFIRMED)
    assert ending.degraded == failed


def test_the_editor_is_shown_the_five_best_in_an_order_that_says_nothing() -> None:
    orders = set()
    for number in range(20):
        tally = deliberate(Editing(editor_first, WRITTEN), f"t-{number}", agents=8, synthesize=True)
        seen = shown(tally, phase_of(tally, EDIT))[EDITOR]
        assert sorted(seen) == [f"agent-dev-{number:03d}" for number in (4, 5, 6, 7, 8)]
        orders.add(seen.index("agent-dev-008"))
    assert orders == {0, 1, 2, 3, 4}


def test_the_choice_is_stored_before_the_editor_is_asked_and_does_not_change() -> None:
    members = Editing(editor_first, WRITTEN)
    request = Requested(
        task_id="t", seq=1, at=0.0, deadline=60.0, role="DEV", num_agents=3, select=Select.JUDGE,
        plan=plan(Select.JUDGE, 3, 3, synthesize=True), synthesize=True,
    )  # fmt: skip
    seen: dict[PhaseKind, set[str | None]] = {}

    class Watched(Deliberation):
        def _take(self, tally: Tally | None, *rest: Any) -> None:
            if tally is not None:
                winner = None if tally.choice is None else tally.choice.winner
                seen.setdefault(tally.phase.kind, set()).add(winner)
            super()._take(tally, *rest)

    Watched(members).run(request)
    assert seen == {ANSWER: {None}, JUDGE: {None}, EDIT: {"agent-dev-003"}, CONFIRM: {"agent-dev-003"}}


def test_where_nobody_is_chosen_nobody_edits() -> None:
    nobody = PromptlyReporting(lambda *_: None)
    tally = deliberate(nobody, "t", agents=3, synthesize=True)
    assert kinds(tally) == [(ANSWER, 3), (JUDGE, 3)]
    assert present(tally.synthesis).status is SynthesisStatus.LEFT_OUT
    assert present(told(tally).synthesis).why == "nobody was chosen"


def test_a_single_answer_is_the_answer() -> None:
    same = {f"agent-dev-{number:03d}": "a" for number in range(1, 4)}
    tally = deliberate(PromptlyReporting(by_number, same), "t", agents=3, synthesize=True)
    assert (kinds(tally), present(tally.choice).status) == ([(ANSWER, 3)], ChoiceStatus.ONLY_ONE)
    ending = told(tally)
    assert (present(ending.synthesis).status, ending.answer_from, ending.degraded) == (
        "left_out",
        "winner",
        False,
    )


def requested(
    agents: int, select: Select = Select.JUDGE, *, synthesize: bool = False, **fields: Any
) -> Requested:
    given: dict[str, Any] = {
        "task_id": "t", "seq": 1, "at": 0.0, "deadline": 60.0, "role": "DEV", "num_agents": agents, "select": select,
        "plan": plan(select, agents, 3, synthesize=synthesize), "synthesize": synthesize, **fields,
    }  # fmt: skip
    return Requested(**given)


class Silent(Editing):
    """As `Editing`, but these never report."""

    def __init__(self, *silent: str) -> None:
        super().__init__(editor_first, WRITTEN)
        self._silent = silent

    def answer(self, agent: str) -> Report | None:
        return None if agent in self._silent else super().answer(agent)

    def judge(self, judge: str, shown: Sequence[str]) -> Report | None:
        return None if judge in self._silent else super().judge(judge, shown)


@pytest.mark.parametrize(
    ("max_calls", "phases"),
    [
        (12, [(ANSWER, 5), (JUDGE, 3)]),
        (13, [(ANSWER, 5), (JUDGE, 3), (EDIT, 1), (CONFIRM, 4)]),
        (8, [(ANSWER, 5), (JUDGE, 3)]),
        (7, [(ANSWER, 5)]),
    ],
)
def test_no_call_is_made_for_what_the_rest_of_the_calls_cannot_decide(
    max_calls: int, phases: list[tuple[PhaseKind, int]]
) -> None:
    hanging = Silent("agent-dev-001")
    tally = Deliberation(hanging).run(requested(5, synthesize=True, max_calls=max_calls))
    assert kinds(tally) == phases
    # Where something follows, the answers have a limit all the same.
    assert (tally.phases[0].closed_by is ClosedBy.LIMIT) == (len(phases) > 1)
    ending = told(tally)
    left = [(gap.phase, gap.why) for gap in ending.degraded_reasons if gap.what == "left_out"]
    wanted = [kind.value for kind in (JUDGE, EDIT, CONFIRM) if kind not in [kind for kind, _ in phases]]
    assert [phase for phase, _ in left] == wanted
    if left:
        needs = 8 if max_calls < 8 else 13
        assert left[0][1] == f"it would have made {needs} calls, more than max_calls, {max_calls}"
        assert {why for _, why in left[1:]} <= {"the phase before it was left out"}
        assert present(ending.synthesis).status == "left_out"


def test_heats_are_not_paid_for_without_their_panel() -> None:
    tally = Deliberation(Silent()).run(requested(16, max_calls=18))
    assert kinds(tally) == [(ANSWER, 16)]


def test_an_editor_is_asked_only_if_there_is_time_to_confirm_its_text() -> None:
    for timeout in (4.0, 5.0, 7.0, 9.0, 12.0):
        tally = Deliberation(Silent()).run(requested(5, synthesize=True, deadline=timeout))
        for phase in tally.later_phases:
            if phase.kind is EDIT:
                assert present(phase.limit) <= timeout - 2.0


def test_a_hanging_judge_of_the_first_heats_does_not_stop_the_second() -> None:
    tally = Deliberation(Silent("judge-003")).run(requested(65))
    assert kinds(tally) == [(ANSWER, 65), (HEAT, 9), (HEAT, 2), (JUDGE, 3)]
    assert all(phase.successes == len(phase.agents) for phase in tally.later_phases[1:])


def test_members_hold_no_heats() -> None:
    tally = Deliberation(Silent()).run(requested(9, Select.RANK))
    assert kinds(tally) == [(ANSWER, 9), (RANK, 9)]
    assert set(present(tally.choice).scores) == set(tally.answers.agents)


def test_members_that_rank_the_others_wait_for_three_answers_even_if_they_may_finish_early() -> None:
    tally = Deliberation(Silent()).run(requested(5, Select.RANK, finish_early=True))
    assert kinds(tally) == [(ANSWER, 5), (RANK, 3)]
    assert present(tally.choice).winner is not None


@pytest.mark.parametrize(("early", "seconds"), [(True, 0.0), (False, 30.0)])
def test_a_vote_that_all_agree_on_does_not_wait_for_its_deadline_because_of_an_editor(
    early: bool, seconds: float
) -> None:
    class Alike(Silent):
        def answer(self, agent: str) -> Report | None:
            return super().answer(agent) and Report(said="7")

    wanted = requested(5, Select.VOTE, synthesize=True, finish_early=early, min_responses=3)
    tally = Deliberation(Alike("agent-dev-001")).run(wanted)
    assert present(tally.verdict).decided_at <= seconds
    assert present(tally.synthesis).status is SynthesisStatus.LEFT_OUT
    assert present(told(tally).synthesis).why == "there was only one answer"


def test_one_ballot_of_several_does_not_replace_the_winner() -> None:
    one = Silent("judge-004", "judge-005", "judge-006")
    tally = Deliberation(one).run(requested(5, synthesize=True))
    assert (present(tally.synthesis).status, present(tally.synthesis).support) == (
        SynthesisStatus.REFUSED,
        "1/1",
    )


@pytest.mark.parametrize("judges", [1, 2, 3, 4, 5])
def test_judges_that_look_at_places_only_never_prefer_an_editor(judges: int) -> None:
    for ballot in ("AB", "BA"):
        for number in range(20):
            members = Editing(lambda _, ballot=ballot: ballot, WRITTEN)  # type: ignore[misc]  # bound as it is now
            tally = deliberate(members, f"t-{number}", agents=3, judges=judges, synthesize=True)
            assert present(tally.synthesis).status is SynthesisStatus.REFUSED


def test_nobody_dissents_by_ballots_that_could_not_have_the_winner() -> None:
    ending = told(deliberate(PromptlyReporting(by_number), "t", agents=5, select=Select.RANK))
    assert ending.winner_id == "agent-dev-005"
    assert ending.dissent == ()


# ── any number of members, ballots, losses ────────────────────────────────────────────────────────────────────────


Lost = st.sampled_from([None, "AB", "CBA", "BA", "HGFEDCBA", ""])


@given(
    agents=st.integers(2, 40), judges=st.integers(1, 5), synthesize=st.booleans(), lost=st.dictionaries(st.integers(1, 12), Lost),
    same=st.integers(1, 40), rank=st.booleans(),
)  # fmt: skip
def test_every_deliberation_ends_with_the_best_of_what_came(
    agents: int, judges: int, synthesize: bool, lost: Mapping[int, str | None], same: int, rank: bool
) -> None:
    def vote(judge: str, shown: Sequence[str]) -> str | None:
        number = int(judge[-3:])
        return lost[number] if number in lost else by_number(judge, shown)

    keys = {f"agent-dev-{number:03d}": str(number % same) for number in range(1, agents + 1)}
    members = PromptlyReporting(vote, keys)
    select = Select.RANK if rank and 4 <= agents <= 9 else Select.JUDGE
    tally = deliberate(members, "t", agents=agents, judges=judges, select=select, synthesize=synthesize)
    assert tally.ended
    order = list(PhaseKind)
    found = [order.index(phase.kind) for phase in tally.all_phases]
    assert found == sorted(found)
    for phase in tally.later_phases:
        assert all(len(names) <= MAX_SHOWN for names in shown(tally, phase).values())
    chosen = present(tally.choice)
    heard = any(phase.successes for phase in tally.later_phases if phase.kind in (HEAT, JUDGE, RANK))
    assert (chosen.winner is not None) == (heard or len(pool(tally)) == 1)
    scores = [Fraction(score) for score in chosen.scores.values() if score is not None]
    if scores and chosen.winner is not None:
        assert Fraction(present(chosen.scores[chosen.winner])) == max(scores)
    assert told(tally).degraded == bool(told(tally).degraded_reasons)


def told(tally: Tally) -> DeliberationCompleted:
    """The ending, from what its agents would have reported."""
    judged: dict[int, AgentCompleted] = {}
    for phase in tally.later_phases:
        for agent, outcome in phase.outcomes.items():
            if outcome.succeeded:
                done = report(agent, phase=phase.kind)
                proposal = done.proposal.model_copy(update={"content": "the editor's"})
                judged[outcome.seq] = done.model_copy(update={"proposal": proposal})
    ending = compose(tally, (), {}, answered=tally.answers.successes, judged=judged)
    assert isinstance(ending, DeliberationCompleted)
    return ending
