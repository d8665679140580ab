"""The answers of a real vLLM: text, number of tokens, sampling, why they ended."""

import re

from parley.broker.core.messages import AgentCompleted, DeliberationCompleted
from tests.harness import fresh
from tests.live.service import Front
from tests.rig.vllm.server import MODEL, Vllm


async def test_three_agents_answer_and_the_tokens_are_those_that_vllm_counts(on: Front, shared: Vllm) -> None:
    before = await shared.figures()
    ending = await on.client.deliberate("Write a factorial function", agents=3, max_tokens=24)
    assert isinstance(ending, DeliberationCompleted), ending
    assert not ending.degraded
    outcomes = await on.completed(ending)
    assert all(outcome.proposal.content.strip() and outcome.model == MODEL for outcome in outcomes)
    made = sum(outcome.usage.completion_tokens for outcome in outcomes)
    read = sum(outcome.usage.prompt_tokens for outcome in outcomes)
    assert made == 3 * 24
    assert read > 3 * 100
    await shared.grew(before, generation_tokens_total=made, prompt_tokens_total=read, request_success_total=3)
    assert [result.proposal.tokens for result in ending.results] == [
        outcome.usage.completion_tokens for outcome in outcomes
    ]
    assert all(
        outcome.usage.total_tokens == outcome.usage.prompt_tokens + outcome.usage.completion_tokens
        for outcome in outcomes
    )


async def test_an_answer_says_whether_it_was_cut(on: Front) -> None:
    cut = await on.completed(await on.client.deliberate("Go on and on", agents=2, max_tokens=9))
    assert {outcome.finish_reason for outcome in cut} == {"length"}
    assert {outcome.usage.completion_tokens for outcome in cut} == {9}
    # Random text contains these letters sooner or later. An answer that begins with them is empty.
    await on.client.deliberate(
        "Go on and on", agents=8, max_tokens=400, stop=["th"], task_id=(name := fresh())
    )
    whole = [outcome for outcome in await on.outcomes(name) if isinstance(outcome, AgentCompleted)]
    assert not any("th" in outcome.proposal.content for outcome in whole)
    assert all(
        outcome.finish_reason == ("length" if outcome.usage.completion_tokens == 400 else "stop")
        for outcome in whole
    )
    assert "stop" in {outcome.finish_reason for outcome in whole}


async def test_what_is_asked_of_sampling_reaches_the_engine(on: Front, shared: Vllm) -> None:
    def asked() -> list[dict[str, str]]:
        return [
            dict(re.findall(r"(temperature|seed|max_tokens|stop)=(\[.*?\]|[^,]+)", line))
            for line in shared.said("Received request")
        ]

    before = len(asked())
    await on.client.deliberate("Name it", agents=3, max_tokens=11, temperature=0.35, seed=70, stop=["zq"])
    same = {"temperature": "0.35", "max_tokens": "11", "stop": "['zq']"}
    assert sorted(asked()[before:], key=lambda one: one["seed"]) == [
        {**same, "seed": str(seed)} for seed in (70, 71, 72)
    ]


async def test_the_same_seed_gives_the_same_answers_and_another_gives_others(on: Front) -> None:
    async def answers(**asking: float) -> list[str]:
        ending = await on.client.deliberate("Name it", agents=3, max_tokens=16, **asking)  # type: ignore[arg-type]
        return [result.proposal.content for result in ending.results]

    first = await answers(seed=7)
    assert len(set(first)) == 3
    assert await answers(seed=7) == first
    assert not set(await answers(seed=7_000)) & set(first)
    # Without chance, all agents of one prompt say the same, whatever their seed.
    assert len(set(await answers(seed=7, temperature=0))) == 1


async def test_diverse_agents_sample_differently_and_answer_differently(on: Front) -> None:
    outcomes = await on.completed(
        await on.client.deliberate("Name it", agents=4, max_tokens=16, diversity=True)
    )
    assert len({outcome.proposal.content for outcome in outcomes}) == 4
    assert len({outcome.persona for outcome in outcomes}) == 4
    assert len({outcome.seed for outcome in outcomes}) == 4
    assert len({outcome.proposal.temperature for outcome in outcomes}) == 4
