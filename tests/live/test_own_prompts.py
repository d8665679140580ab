"""What a caller says about its question, as a real vLLM takes it: its own messages, members and more fields.

The form of an answer is in test_judges.py: it needs a model that can end one."""

import re
from typing import Any

from parley.broker.core.messages import DeliberationCompleted
from tests.live.service import Front
from tests.rig.vllm.server import MODEL, Vllm


async def prompt_tokens(on: Front, question: str | None = None, **asking: object) -> int:
    ending = await on.client.deliberate(question, agents=1, max_tokens=4, **asking)  # type: ignore[arg-type]
    (outcome,) = await on.completed(ending)
    return outcome.usage.prompt_tokens


async def test_ones_own_messages_are_all_that_the_engine_reads(on: Front) -> None:
    bare = await prompt_tokens(on, "Why?", role="NONE")
    assert bare < 40  # the role's instructions alone are hundreds
    asked = [{"role": "user", "content": "Why?"}]
    assert await prompt_tokens(on, messages=asked, role="NONE") == bare
    parts = [{"role": "user", "content": [{"type": "text", "text": "Why?"}]}]
    assert await prompt_tokens(on, messages=parts, role="NONE") == bare
    system = [{"role": "system", "content": "Be brief."}, *asked]
    told = await prompt_tokens(on, messages=system, role="NONE")
    assert bare < told < bare + 40
    assert await prompt_tokens(on, "Why?", role="NONE", system="Be brief.") == told


async def test_log_probabilities_come_back_for_each_token(on: Front) -> None:
    ending = await on.client.deliberate("Why?", agents=1, max_tokens=5, logprobs=True, top_logprobs=2)
    assert isinstance(ending, DeliberationCompleted), ending
    logprobs = ending.results[0].logprobs
    assert logprobs is not None
    assert len(logprobs) == 5
    assert all(one["logprob"] <= 0 and len(one["top_logprobs"]) >= 2 for one in logprobs)


async def test_each_member_and_each_further_field_reaches_the_engine(on: Front, shared: Vllm) -> None:
    before = len(shared.said("Received request"))
    panel: list[dict[str, Any]] = [
        {"model": MODEL, "temperature": 0.25, "max_tokens": 7},
        {"seed": 5, "max_tokens": 8},
    ]
    ending = await on.client.deliberate("Why?", panel=panel, top_p=0.5, extra={"top_k": 7, "min_tokens": 2})
    assert isinstance(ending, DeliberationCompleted), ending
    lines = shared.said("Received request")[before:]
    found = [
        dict(re.findall(r"(temperature|seed|max_tokens|top_p|top_k|min_tokens)=([^,)]+)", line))
        for line in lines
    ]
    ours = sorted((one for one in found if one.get("top_k") == "7"), key=lambda one: one["max_tokens"])
    assert [(one["max_tokens"], one["top_p"], one["min_tokens"]) for one in ours] == [
        ("7", "0.5", "2"),
        ("8", "0.5", "2"),
    ]
    assert (ours[0]["temperature"], ours[1]["seed"]) == ("0.25", "5")
