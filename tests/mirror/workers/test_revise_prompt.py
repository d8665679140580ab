"""What an agent is shown that revises its answer: the task as it had it, answers without names, its own not marked."""

from typing import Any

import pytest

from parley.broker.core.messages import AgentRequested, Candidate, Constraints
from parley.broker.core.phase_plan import PhaseKind
from parley.workers import prompts
from parley.workers.revise_prompt import compose, is_no_answer, may_keep, read_kept
from tests.mirror.workers import work
from tests.mirror.workers.test_judge_prompt import AT, answer

FORM = {"type": "json_object"}


def revising(number: int = 1, **fields: Any) -> AgentRequested:
    candidates = tuple(Candidate(label=label, seq=seq) for seq, label in enumerate("ABC", 1))
    given = {"task_id": "t-1", "requested_at": AT, "deadline": AT, "candidates": candidates, **fields}
    return work(number, phase=PhaseKind.REVISE, round=2, **given)


def words(request: AgentRequested) -> str:
    shown = [answer(1, "first"), answer(2, "I am agent-dev-002."), answer(3, "third")]
    return str(compose(request, shown).prompt.messages[1]["content"])


def test_its_beginning_is_the_agents_and_nothing_says_which_is_its_own() -> None:
    constraints = Constraints(requirements=("be short",))
    asked = work(1, constraints=constraints)
    shown = words(revising(constraints=constraints, task_description=asked.task_description))
    assert shown.startswith(str(prompts.asked(asked)[1]["content"]))
    assert "agent-dev" not in shown
    assert [shown.index(text) for text in ("first", "third")] == sorted(map(shown.index, ("first", "third")))
    assert "with each requirement met" in shown
    assert shown.endswith("the letter of that answer (A, B, C), and nothing else.")
    # Its first prompt says that none sees another's answer.
    assert "# Setting" not in shown


def test_a_member_is_who_it_was_and_has_another_seed_in_each_round() -> None:
    request = revising(2, persona="You are a cook.", temperature=0.4, seed=7)
    prompt = compose(request, [answer(1), answer(2)]).prompt
    assert "# Your angle\n\nYou are a cook." in str(prompt.messages[1]["content"])
    first = prompts.compose(work(2, persona="You are a cook.", temperature=0.4, seed=7))
    assert (prompt.persona, prompt.temperature) == (first.persona, first.temperature)
    assert prompt.seed != first.seed


def test_an_answer_that_has_a_form_cannot_be_kept() -> None:
    assert may_keep(revising())
    formed = revising(response_format=FORM)
    assert not may_keep(formed)
    assert "KEEP" not in words(formed)


@pytest.mark.parametrize(
    ("said", "label"),
    [
        ("KEEP B", "B"), ("KEEP (B)", "B"), ("**KEEP A**", "A"), (" KEEP: C.\n", "C"), ('"KEEP B"', "B"),
        ("KEEP", None), ("KEEP D", None), ("KEEP AB", None), ("KEEPB", None), ("Keep B.", None), ("KEEP A or B", None),
        ("I would KEEP B", None), ("KEEP B\n\nIt is right.", None), ("KEEP B, but shorter", None), ("", None),
    ],
)  # fmt: skip
def test_an_answer_is_kept_by_these_words_alone(said: str, label: str | None) -> None:
    assert read_kept(said, 3) == label


def test_only_what_was_shown_can_be_kept_and_such_words_are_no_answer() -> None:
    assert read_kept("KEEP C", 2) is None
    assert is_no_answer("KEEP C")
    assert is_no_answer("**KEEP** the second one")
    assert not is_no_answer("Keep B.")
    assert not is_no_answer("KEEP in mind that the first server is older than the other one: take it.")


def test_white_space_without_end_is_read_at_once() -> None:
    assert read_kept("KEEP" + " " * 200_000 + "x", 3) is None
    assert read_kept(" " * 200_000 + "x", 3) is None
