"""A panel: whom a deliberation asks, and what each of its agents is asked with."""

from typing import Any

import pytest

from parley.broker.core.messages import DeliberationRequested
from tests.mirror.broker.core.test_messages import problems_of, request

TWO = [{"model": "small", "temperature": 0.2}, {"model": "large", "system": "Be brief.", "seed": 7}]


def asked(of: DeliberationRequested, field: str) -> list[Any]:
    return [of.of_agent(number)[field] for number in range(1, of.num_agents + 1)]


def test_there_are_as_many_agents_as_members_unless_more_are_asked_for() -> None:
    assert request(panel=TWO).num_agents == 2
    assert request(models=["a", "b", "c", "d"]).num_agents == 4
    assert asked(request(panel=TWO, num_agents=5), "model") == ["small", "large", "small", "large", "small"]


def test_what_a_member_leaves_out_is_the_requests_own() -> None:
    panel = request(panel=TWO, temperature=1.0, system="Be kind.", max_tokens=9, num_agents=2)
    assert asked(panel, "temperature") == [0.2, 1.0]
    assert asked(panel, "system") == ["Be kind.", "Be brief."]
    assert asked(panel, "max_tokens") == [9, 9]
    assert asked(panel, "persona") == [None, None]


def test_without_a_panel_no_agent_has_anything_of_its_own() -> None:
    assert request().of_agent(1) == {}
    assert asked(request(models=["a", "b"]), "model") == ["a", "b"]
    assert set(request(models=["a", "b"]).of_agent(2)) == {"model"}


def test_judges_take_the_models_of_the_panel_in_turn_unless_they_have_their_own() -> None:
    panel = {"panel": TWO, "select": "judge"}
    assert [request(**panel).model_of_judge(number) for number in (1, 2, 3)] == ["small", "large", "small"]
    assert request(**panel, judge_model="wise").model_of_judge(2) == "wise"
    assert request(panel=[{"persona": "a cook"}], model="m", num_agents=2).model_of_judge(1) == "m"


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"panel": [{}] * 300}, "panel: Tuple should have at most 256 items"),
        ({"panel": []}, "panel: Tuple should have at least 1 item"),
        ({"models": []}, "models: Tuple should have at least 1 item"),
        ({"models": ["a"] * 300}, "models: Tuple should have at most 256 items"),
        ({"panel": [{"temperature": 3}]}, "panel.0.temperature: Input should be less than or equal to 2"),
        ({"panel": [{"seed": "x"}]}, "panel.0.seed: Input should be a valid integer"),
        ({"panel": [{"system": ""}]}, "panel.0.system: String should have at least 1 character"),
        ({"panel": [{"system": "x" * 65_537}]}, "panel.0.system: "),
        ({"panel": [{"seed": -1}]}, "panel.0.seed: Input should be greater than or equal to 0"),
        ({"panel": [{"persona": "x" * 1_001}]}, "panel.0.persona: String should have at most 1000 characters"),
        ({"panel": [{"system": "x" * 60_000}] * 3}, "panel is 180"),
        ({"panel": TWO, "models": ["a", "b"]}, "panel and models are given; give one of them"),
        ({"models": ["a", "b"], "model": "c"}, "models and model are given; give one of them"),
        ({"models": ["a", "b", "c"], "num_agents": 2}, "num_agents is 2, fewer than the 3 of models"),
        ({"panel": TWO, "num_agents": 1}, "num_agents is 1, fewer than the 2 of panel"),
        ({"panel": TWO, "min_responses": 3}, "min_responses is 3, more than num_agents, 2"),
        ({"panel": [{}] * 10, "select": "rank"}, "num_agents is 10; select rank needs 4 to 9 (too many to rank)"),
    ],
)  # fmt: skip
def test_a_panel_that_cannot_be_is_refused_by_its_name(fields: dict[str, Any], problem: str) -> None:
    assert problem in problems_of(**fields)


def test_the_number_of_agents_given_or_not_makes_no_other_question_of_it() -> None:
    assert request(panel=TWO).question == request(panel=TWO, num_agents=2).question
    assert request(panel=TWO).question != request(panel=TWO[::-1]).question
    assert request(panel=[{}, {}, {}]).question != request().question  # it was asked for otherwise


def test_a_null_of_a_member_counts_as_not_given() -> None:
    assert request(panel=[{"model": None, "system": "Be kind.", "seed": None}]).of_agent(1)["model"] is None


def test_of_a_member_that_is_wrong_nothing_else_is_said() -> None:
    assert problems_of(panel=[{"seed": "x"}]) == "panel.0.seed: Input should be a valid integer"
