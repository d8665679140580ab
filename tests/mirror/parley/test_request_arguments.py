"""What is wrong with a request, in the words of the arguments in Python and of the flags of the command."""

import math
from typing import Any

import pytest

from parley.broker.core.errors import InvalidMessage
from parley.errors_in_flags import in_flags
from parley.request_arguments import compose

CIRCLE: dict[str, Any] = {}
CIRCLE["itself"] = CIRCLE

PROBLEMS: list[tuple[dict[str, Any], str, str]] = [
    ({"agents": 300}, "agents: at most 256", "--agents: at most 256"),
    ({"agents": 0}, "agents: at least 1", "--agents: at least 1"),
    ({"agents": 1.5}, "agents: must be a whole number", "--agents: must be a whole number"),
    (
        {"min_responses": 9},
        "min_responses is 9, more than agents, 3",
        "--min-responses is 9, more than --agents, 3",
    ),
    ({"role": "two words"}, "role: 1 to 32 of A-Z 0-9 _, a letter first", "--role: 1 to 32 of A-Z"),
    ({"task_id": "a b"}, "task_id: 1 to 64 of A-Z a-z 0-9 _ -", "--task-id: 1 to 64 of"),
    ({"task_id": "d-5"}, "task_id: d-5 is a name the service gives", "--task-id: d-5 is a name"),
    ({"timeout_seconds": 0}, "timeout_seconds: at least 0.1", "--timeout: at least 0.1"),
    ({"timeout_seconds": math.inf}, "timeout_seconds: must be a number", "--timeout: must be a number"),
    ({"seed": 2**64}, "seed: less than 9223372036854775808", "--seed: less than 9223372036854775808"),
    ({"stop": ["a"] * 5}, "stop: at most 4", "stop: at most 4"),
    ({"rubric": "\udcff"}, "rubric: is not UTF-8 text", "--rubric: is not UTF-8 text"),
    (
        {"requirements": ["a", "\ud800"]},
        "requirements: is not UTF-8 text",
        "--requirement: is not UTF-8 text",
    ),
    ({"requirements": [5]}, "requirements", "--requirement: has the wrong type"),
    ({"context": {"a": object()}}, "context: cannot be written as JSON: Unable to serialize", "context: "),
    ({"context": {"a": b"\xff"}}, "context: is not UTF-8 text", "context: "),
    ({"context": CIRCLE}, "context: cannot be written as JSON", "context: "),
    ({"context": [1]}, "context: must be an object", "context: "),
    ({"metadata": {"a": object()}}, "metadata: cannot be written as JSON", "metadata: "),
    ({"context": {"a": "x" * 70_000}}, "rubric, requirements and context together are 70", ""),
]


@pytest.mark.parametrize(("asking", "python", "shell"), PROBLEMS)
def test_a_problem_names_what_was_given(asking: dict[str, Any], python: str, shell: str) -> None:
    with pytest.raises(InvalidMessage) as caught:
        compose("x", **asking)
    (problem,) = caught.value.problems
    assert problem.startswith(python)
    assert in_flags(problem).startswith(shell)


@pytest.mark.parametrize("question", ["\ud800", "x" * 300_000, ""])
def test_a_question_that_cannot_be_asked_is_named(question: str) -> None:
    with pytest.raises(InvalidMessage) as caught:
        compose(question)
    (problem,) = caught.value.problems
    assert problem.startswith("task_description: is ")
    assert in_flags(problem).startswith("the question: is ")
