"""Who waits no longer does not let a real vLLM work on: what is cancelled is aborted in the engine."""

import time

from broker.messages import DeliberationCompleted
from tests.live.server import MAX_TOKENS, Vllm
from tests.live.service import Front

# Nobody is to finish by itself while a test looks: about 10 s of work for three at once.
LONG = MAX_TOKENS - 1_500
# From the cancel to the last token.
ABORT_SECONDS = 1.0


async def stopped(server: Vllm, since: float) -> float:
    """Wait until the engine runs nothing; seconds after `since`. Then not one more token comes."""
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
    # The seeds differ, so that one comes by a `z` long before the others.
    ending = await on.client.deliberate(
        "Go on and on", agents=8, max_tokens=LONG, stop=["zz"], finish_early=True, timeout_seconds=60
    )
    ended = time.monotonic()
    took = await stopped(shared, ended)
    assert isinstance(ending, DeliberationCompleted)
    after = await shared.figures()
    print(f"\nfinished early: idle {took:.3f} s later, {after}"[:100], before == after)
    assert took < ABORT_SECONDS
