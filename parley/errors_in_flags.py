"""The flags of `parley ask` and `cancel`, for errors that name what was typed rather than the argument in Python. Pure."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from parley.broker.core.errors import InvalidMessage

FLAGS: Mapping[str, str] = {
    "agents": "--agents",
    "agree": "--agree",
    "answer_key": "--answer-key",
    "finish_early": "--finish-early",
    "judge_model": "--judge-model",
    "judge_models": "--judge-model",
    "judges": "--judges",
    "synthesize": "--synthesize",
    "max_calls": "--max-calls",
    "messages": "--messages",
    "min_responses": "--min-responses",
    "model": "--model",
    "models": "--model",
    "panel": "--panel",
    "reason": "--reason",
    "requirements": "--requirement",
    "response_format": "--schema",
    "role": "--role",
    "rounds": "--rounds",
    "rubric": "--rubric",
    "seed": "--seed",
    "select": "--select",
    "system": "--system",
    "task_description": "the question",
    "task_id": "--task-id",
    "timeout_seconds": "--timeout",
}
# In what the service says: the fields of the request.
_FIELDS = {"num_agents": "agents", "constraints.rubric": "rubric", "constraints.requirements": "requirements"}


@contextmanager
def errors_in_flags() -> Iterator[None]:
    """What is wrong with an argument is raised in the words of the command line."""
    try:
        yield
    except InvalidMessage as error:
        raise InvalidMessage([in_flags(problem) for problem in error.problems]) from None


def in_flags(problem: str) -> str:
    """A problem of the arguments or of the request's fields, in the words of the command line: `--agents: at most 256`."""
    name, colon, words = problem.partition(": ")
    if not colon:  # it is about several, which it names
        return re.sub(r"\b(\w+)\b", lambda word: FLAGS.get(word[1], word[1]), problem)
    name = re.sub(r"\.\d+$|(?<=^answer_key)\..*", "", name)
    name = _FIELDS.get(name, name)
    field, dot, inner = name.partition(".")
    return f"{FLAGS.get(field, field)}{dot}{inner}: {words}"
