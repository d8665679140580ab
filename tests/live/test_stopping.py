"""A real vLLM stops working on cancelled calls: its engine aborts them."""

import time

from parley.broker.core.messages import DeliberationCompleted, ErrorType
from tests.live.service import Front
from tests.rig.vllm.server import MAX_TOKENS, Vllm

# No call ends by itself during a test: about 10 s of work for three at once.
LONG = MAX_TOKENS - 1_500
STOPS = ["ez", "ek", "uz", "ov"]
# From the cancel to the last token.
ABORT_SECONDS = 1.0


async def stopped(server: Vllm, since: float) -> float:
    """Wait until the engine runs no request and makes no more tokens. Returns the seconds since `since`."""
    await server.running(0)
    took = time.monotonic() - since
    made = await server.figure("generation_tokens_total")
    await server.figure("generation_tokens_total")
    assert await server.figure("generation_tokens_total") == made
    return took


async def test_a_cancel_aborts_the_calls_inside_the_engine(on: Front, shared: Vllm) -> None:
    before = await shared.figures()
    submitted = await on.client.submit("Go on and on", agents=3, max_tokens=LONG, timeout_seconds=60)
    await shared.running(3)
    cancelled = time.monotonic()
    await on.client.cancel(submitted.task_id, "enough")
    took = await stopped(shared, cancelled)
    ending = await on.client.ending(submitted)
    assert ending.status == "cancelled"
    after = await shared.figures()
    made = after["vllm:generation_tokens_total"] - before["vllm:generation_tokens_total"]
    print(f"\ncancelled: the engine was idle {took:.3f} s later, {made:.0f} of {3 * LONG} tokens made")
    assert took < ABORT_SECONDS
    assert made < 3 * LONG


async def test_an_early_finish_aborts_the_others_inside_the_engine(on: Front, shared: Vllm) -> None:
    before = await shared.figures()
    # Each answer goes on until it contains one of the stop texts; the first one ends the deliberation. The model's
    # words are random: of one text alone, no answer may have any, and one that begins with it is empty.
    ending = await on.client.deliberate(
        "Go on and on", agents=8, max_tokens=LONG, stop=STOPS, finish_early=True, timeout_seconds=60
    )
    took = await stopped(shared, time.monotonic())
    assert isinstance(ending, DeliberationCompleted)
    empty = [failed for failed in ending.failed_agents if failed.error_type is ErrorType.EMPTY_ANSWER]
    assert len(ending.results) + len(ending.stopped_agents) + len(empty) == 8
    assert ending.stopped_agents
    after = await shared.figures()
    made = after["vllm:generation_tokens_total"] - before["vllm:generation_tokens_total"]
    finished = sum(result.proposal.tokens for result in ending.results)
    print(
        f"\nfinished early: {len(ending.results)} of 8 answered ({finished} tokens of {made:.0f}); idle {took:.3f} s later"
    )
    assert took < ABORT_SECONDS
    assert made < 8 * LONG
