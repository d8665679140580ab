"""The simulated answers: words chosen from the request and its seed. The same request gives the same words. No I/O."""

import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

from parley.workers.simulator.behaviour import Behaviour

_TEXT = (
    "the a one we this that each first then next result input output value state check edge case limit test "
    "queue message retry bound cache order time deadline agent design choice reason cost risk simple small "
    "clear measure prove keep drop split join write read store send wait"
)
_WORDS = _TEXT.split()
# For requests without a seed.
_UNSEEDED = random.Random()


def choose_words(body: Mapping[str, Any], behaviour: Behaviour) -> list[str]:
    """The answer's words. Every answer begins by saying that it is simulated.

    At temperature 0 the request's seed makes no difference, as with a real model.
    """
    temperature = body.get("temperature", 1.0)
    seed = body.get("seed") if temperature else None
    if temperature and seed is None:
        choice = _UNSEEDED
    else:
        choice = random.Random(json.dumps([body["messages"], temperature, seed, behaviour.seed]))
    ballot = _ballot(body, choice)
    if ballot:
        return [ballot]
    # Answers differ in length, as a model's do.
    longest = body.get("max_tokens") or behaviour.tokens
    count = min(choice.randint(behaviour.tokens // 2, behaviour.tokens), longest)
    return ["[simulated", "answer]", *choice.choices(_WORDS, k=count)][: max(1, count)]


def _ballot(body: Mapping[str, Any], choice: random.Random) -> str:
    """A judge's ballot at random, if the request's `response_format` asks for one; else empty."""
    schema = body.get("response_format", {}).get("json_schema", {}).get("schema", {})
    ranking = schema.get("properties", {}).get("ranking", {})
    if "enum" in ranking:
        ordered: Any = choice.choice(ranking["enum"])
    elif "items" in ranking:
        letters = list(ranking["items"]["enum"])
        ordered = choice.sample(letters, len(letters))
    else:
        return ""
    return json.dumps({"notes": "[simulated ballot]", "ranking": ordered})


def prompt_tokens(messages: Sequence[Mapping[str, str]]) -> int:
    return sum(len(str(message.get("content", "")).split()) for message in messages)


def usage(messages: Sequence[Mapping[str, str]], words: Sequence[str]) -> dict[str, int]:
    """The answer's `usage`, as the OpenAI API writes it."""
    prompt = prompt_tokens(messages)
    return {"prompt_tokens": prompt, "completion_tokens": len(words), "total_tokens": prompt + len(words)}
