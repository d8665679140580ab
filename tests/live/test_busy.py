"""A real vLLM makes as many tokens through Parley as for a plain client. The target itself, 0.98, is `make live`'s: it takes five minutes."""

from benchmarks import live
from tests.live.server import Vllm

# One pair of two seconds, on cores that are shared: whole machines were a fifth slower from one second to the next.
LEAST = 0.7
# All that the server works at, and as much again in its queue is not needed to see it.
CALLS = 32


async def test_vllm_makes_about_as_many_tokens_through_parley_as_for_a_plain_client(shared: Vllm) -> None:
    found = await live.run(shared.url, pairs=1, window_seconds=2.0, calls=CALLS)
    (target,) = found.targets
    print(f"\n{target.name}: {target.value:.3f}, {dict(found.figures)}")
    assert target.value >= LEAST, found
