"""An agent's prompt: its role's guidance, all that the client asked for, and a front that all agents share."""

from collections import Counter
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from parley.broker.core.messages import AgentRequested, AnswerKey, Constraints
from parley.workers.prompts import DIVERSE_TEMPERATURE, MAX_TEMPERATURE, PERSONAS, ROLES, Prompt, compose
from tests.mirror.workers import work

KNOWN = ["DEV", "QA", "ARCHITECT", "DEVOPS", "DATA"]
# The headings that all roles share; no other line may be in the guidance of two roles.
COMMON_LINES = {"", "How to think before you write:", "What to give:"}
ANGLE = "# Your angle"


def system(prompt: Prompt) -> str:
    assert prompt.messages[0]["role"] == "system"
    return str(prompt.messages[0]["content"])


def user(prompt: Prompt) -> str:
    assert prompt.messages[1]["role"] == "user"
    return str(prompt.messages[1]["content"])


def agents(count: int, **fields: Any) -> list[AgentRequested]:
    """All agents of one deliberation."""
    first = work(1, num_agents=count, **fields)
    return [
        first.model_copy(update={"agent_number": n, "agent_id": f"agent-dev-{n:03d}"})
        for n in range(1, count + 1)
    ]


def test_the_roles_with_prompts_are_those_of_the_contract() -> None:
    assert sorted(ROLES) == sorted(KNOWN)


@pytest.mark.parametrize("role", KNOWN)
def test_a_known_role_has_long_guidance_of_its_own(role: str) -> None:
    guidance = system(compose(work(role=role)))
    assert guidance == ROLES[role]
    assert len(guidance.split()) > 200
    assert set(guidance.split("\n")) >= COMMON_LINES


@pytest.mark.parametrize(("one", "other"), list(combinations(KNOWN, 2)))
def test_no_two_roles_share_a_line_of_guidance(one: str, other: str) -> None:
    assert set(ROLES[one].split("\n")) & set(ROLES[other].split("\n")) == COMMON_LINES


def test_a_callers_system_message_replaces_the_roles() -> None:
    own, ours = (compose(work(role="DEV", system=words)) for words in ("Answer in French.", None))
    assert system(own) == "Answer in French."
    assert user(own) == user(ours)


@pytest.mark.parametrize("own", [None, "Answer in French."])
def test_with_the_role_none_nothing_stands_around_the_question(own: str | None) -> None:
    asked = work(role="NONE", num_agents=3, task_description="Why?", system=own)
    question = {"role": "user", "content": "Why?"}
    assert compose(asked).messages == (
        (question,) if own is None else ({"role": "system", "content": own}, question)
    )


def test_with_the_role_none_what_the_caller_asked_for_is_there() -> None:
    asked = work(
        role="NONE", task_description="Why?", diversity=True, constraints=Constraints(requirements=("brief",)),
        answer_key=AnswerKey(after="ANSWER:"),
    )  # fmt: skip
    (message,) = compose(asked).messages
    assert message["content"].startswith("Why?\n\n# Requirements")
    assert "1. brief" in message["content"]
    assert "ANSWER:" in message["content"]
    assert ANGLE in message["content"]


def test_an_unknown_role_gets_the_generic_expert_with_its_name() -> None:
    lawyer, cook = (system(compose(work(role=role))) for role in ("TAX_LAWYER", "COOK"))
    assert "TAX_LAWYER" in lawyer
    assert lawyer.replace("TAX_LAWYER", "COOK") == cook
    assert lawyer not in ROLES.values()
    assert "{" not in lawyer


def test_the_task_and_every_constraint_reach_the_prompt() -> None:
    constraints = Constraints(
        rubric="Correctness before speed.",
        requirements=("handles 0", "rejects negatives"),
        metadata={"language": "Ünïcode", "limits": {"depth": [1, 2]}, "strict": True},
    )
    text = user(compose(work(task_description="Write `fact`", constraints=constraints)))
    assert "# Task\n\nWrite `fact`" in text
    assert "Correctness before speed." in text
    assert "1. handles 0\n2. rejects negatives" in text
    assert "- language: Ünïcode" in text
    assert '- limits: {"depth": [1, 2]}' in text
    assert "- strict: true" in text


def test_a_rubric_may_be_an_object() -> None:
    rubric: dict[str, JsonValue] = {"correctness": "must pass all tests", "weights": {"style": 0.2}}
    text = user(compose(work(constraints=Constraints(rubric=rubric))))
    assert "- correctness: must pass all tests" in text
    assert '- weights: {"style": 0.2}' in text


def test_a_missing_constraint_leaves_no_empty_heading() -> None:
    text = user(compose(work(num_agents=1)))
    assert text == "# Task\n\nWrite a factorial function"


@given(st.text(min_size=1))
def test_any_description_is_passed_on_unchanged(description: str) -> None:
    assert description in user(compose(work(task_description=description)))


@pytest.mark.parametrize("count", [2, 3, 64])
def test_without_diversity_all_agents_get_the_same_prompt(count: int) -> None:
    prompts = [compose(request) for request in agents(count)]
    assert len({prompt.messages[0]["content"] + prompt.messages[1]["content"] for prompt in prompts}) == 1
    # Nobody asked for a temperature or a seed.
    assert {(prompt.persona, prompt.seed, prompt.temperature) for prompt in prompts} == {(None, None, None)}


@pytest.mark.parametrize("count", [3, 8, 64])
def test_with_diversity_all_agents_share_everything_up_to_the_persona(count: int) -> None:
    asked = Constraints(rubric="r", requirements=("one",), metadata={"k": "v"})
    prompts = [compose(request) for request in agents(count, diversity=True, constraints=asked)]
    assert len({system(prompt) for prompt in prompts}) == 1
    assert {user(prompt).count(ANGLE) for prompt in prompts} == {1}
    fronts = {user(prompt).partition(ANGLE)[0] for prompt in prompts}
    assert fronts == {user(compose(work(num_agents=count, constraints=asked))) + "\n\n"}
    assert len({user(prompt).partition(ANGLE)[2] for prompt in prompts}) == min(count, len(PERSONAS))


def test_the_shared_front_contains_nothing_about_one_agent() -> None:
    request = work(7, num_agents=9, diversity=True, metadata={"ticket": "P-1"})
    front = system(compose(request)) + user(compose(request)).partition(ANGLE)[0]
    for own in (request.agent_id, request.task_id, request.deadline, request.requested_at, "P-1"):
        assert own not in front


@pytest.mark.parametrize("count", [3, 8])
def test_up_to_eight_diverse_agents_differ_in_persona_temperature_and_seed_alike(count: int) -> None:
    prompts = [compose(request) for request in agents(count, diversity=True)]
    for values in ([p.persona for p in prompts], [p.temperature for p in prompts], [p.seed for p in prompts]):
        assert len(set(values)) == count
    for prompt in prompts:
        assert f"You are the {prompt.persona} among" in user(prompt)


@pytest.mark.parametrize("base", [None, 0.0, 2.0])
def test_sixty_four_diverse_agents_share_eight_personas_and_no_two_are_alike(base: float | None) -> None:
    prompts = [compose(request) for request in agents(64, diversity=True, temperature=base)]
    assert set(Counter(p.persona for p in prompts).values()) == {8}
    assert len({(p.persona, p.temperature, p.seed) for p in prompts}) == 64
    assert len({p.seed for p in prompts}) == 64
    assert all(p.temperature is not None and 0 <= p.temperature <= MAX_TEMPERATURE for p in prompts)
    if base is None:
        assert len({(p.persona, p.temperature) for p in prompts}) == 64


@given(st.integers(1, 256), st.floats(0, 2))
def test_every_temperature_is_in_the_range_of_the_api(number: int, base: float) -> None:
    prompt = compose(work(number, num_agents=256, diversity=True, temperature=base))
    assert prompt.temperature is not None
    assert 0 <= prompt.temperature <= MAX_TEMPERATURE


@pytest.mark.parametrize(
    ("fields", "chosen"),
    [
        ({}, set()),
        ({"temperature": 0.5, "seed": 1}, set()),
        ({"diversity": True}, {"temperature", "seed"}),
        ({"diversity": True, "seed": 0}, {"temperature"}),
        ({"diversity": True, "temperature": 0.0}, {"seed"}),
    ],
)
def test_what_parley_chose_is_told_apart_from_what_the_caller_asked_for(
    fields: dict[str, Any], chosen: set[str]
) -> None:
    assert compose(work(**fields)).chosen == chosen


def test_the_first_persona_has_the_usual_temperature_of_diversity() -> None:
    assert compose(work(1, diversity=True)).temperature == DIVERSE_TEMPERATURE


def test_equal_requests_give_equal_prompts() -> None:
    request = work(5, num_agents=8, diversity=True)
    assert compose(request) == compose(request.model_copy())


def test_without_diversity_the_callers_temperature_is_used() -> None:
    assert compose(work(temperature=0.0)).temperature == 0.0


def test_an_agents_seed_is_the_callers_plus_its_index() -> None:
    assert [compose(request).seed for request in agents(3, seed=41)] == [41, 42, 43]
    assert [compose(request).seed for request in agents(3, seed=41, diversity=True)] == [41, 42, 43]


@pytest.mark.parametrize("seed", [2**63 - 1, -(2**63), -1])
def test_a_seed_at_the_edge_of_its_range_stays_in_it(seed: int) -> None:
    seeds = [compose(request).seed for request in agents(3, seed=seed)]
    assert len(set(seeds)) == 3
    assert all(s is not None and 0 <= s < 2**63 for s in seeds)


@pytest.mark.parametrize("names", [("alpha-0001", "bravo-0001"), ("d-100", "d-101"), ("a", "b")])
def test_diverse_agents_of_different_tasks_have_different_seeds(names: tuple[str, str]) -> None:
    one, other = (
        {compose(request).seed for request in agents(64, diversity=True, task_id=name)} for name in names
    )
    assert not one & other
