"""What a tally has that was not told yet: each once, whoever tells it."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.broker.core.phase_plan import PhaseKind
from parley.broker.core.tally import Outcome, Phase
from parley.job_events import AgentAnswered, Told, name_of_answer, news
from tests.mirror.parley.test_display import tally

AGENTS = tuple(f"agent-dev-{number:03d}" for number in range(1, 257))


def phase(agents: int, reported: list[int], kind: PhaseKind = PhaseKind.ANSWER, number: int = 1) -> Phase:
    outcomes = {AGENTS[place]: Outcome(succeeded=place % 3 != 0, seq=100 + place) for place in reported}
    return Phase(number=number, agents=AGENTS[:agents], kind=kind, outcomes=outcomes)


def told_of(phases: list[Phase], told: Told) -> list[str]:
    one = tally(phases=tuple(phases[:1]), later_phases=tuple(phases[1:]))
    return [
        f"{event.type} {event.phase} {getattr(event, 'agent_id', '')}".strip() for event in news(one, told)
    ]


def test_reports_are_told_in_the_order_in_which_they_were_stored() -> None:
    told = Told()
    assert told_of([phase(4, [2, 0])], told) == [
        "phase answer", "failure answer agent-dev-001", "answer answer agent-dev-003",
    ]  # fmt: skip
    # One that was stored earlier and counted later comes now.
    assert told_of([phase(4, [0, 1, 2])], told) == ["answer answer agent-dev-002"]
    assert told_of([phase(4, [0, 1, 2])], told) == []


def test_who_compares_casts_a_ballot() -> None:
    phases = [phase(3, [0, 1, 2]), phase(2, [1], PhaseKind.JUDGE)]
    assert told_of(phases, Told())[4:] == ["phase judge", "ballot judge agent-dev-002"]


@given(st.integers(1, 12), st.integers(1, 4), st.randoms(use_true_random=False))
def test_a_break_anywhere_loses_nothing_and_repeats_nothing(
    agents: int, phases: int, rng: random.Random
) -> None:
    """At each look one may be another that goes on behind the last id."""
    told, found = Told(), []
    reported: list[list[int]] = []
    for _ in range(phases):
        reported.append([])
        order = list(range(agents))
        rng.shuffle(order)
        while order:
            taken = rng.randint(1, len(order))
            reported[-1] += order[:taken]
            del order[:taken]
            found += told_of([phase(agents, each) for each in reported], told)
            told = Told.read(told.event_id)
    assert len(found) == phases * (1 + agents)


def test_an_id_of_the_most_agents_in_many_phases_is_short_enough_for_a_header() -> None:
    told = Told()
    assert (
        len(told_of([phase(256, list(range(256)), number=number) for number in range(1, 21)], told))
        == 20 * 257
    )
    assert len(told.event_id) < 1_000


def test_after_the_ending_comes_nothing() -> None:
    told = Told()
    told.end()
    assert Told.read(told.event_id).ended


@pytest.mark.parametrize(
    "text", ["", "0", "2.AA", "1.A", "1.A=", "1. AA", "1.\n", "1-end.", "1." + 5_000 * "A"]
)
def test_an_id_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no id of an event"):
        Told.read(text)


def test_words_are_asked_for_by_the_name_that_results_have() -> None:
    def answered(phase: str, number: int = 1, *, kept: bool = False) -> AgentAnswered:
        return AgentAnswered(task_id="t", id="1", phase=phase, round=number, agent_id=AGENTS[0], kept=kept)

    assert name_of_answer(answered("answer")) == AGENTS[0]
    assert name_of_answer(answered("revise", 2)) == f"{AGENTS[0]}/2"
    assert name_of_answer(answered("revise", 2, kept=True)) is None
    assert name_of_answer(answered("edit")) is None
