"""A real vLLM is as busy through Parley as with a plain client. `python -m benchmarks.live` is the long form, and has the target."""

from benchmarks import live
from tests.live.server import Vllm

# A short window on a machine that does other things too; what is measured in peace is docs/performance.md's.
LEAST = 0.9


async def test_vllm_makes_as_many_tokens_through_parley_as_for_a_plain_client(shared: Vllm, full: bool) -> None:
    found = await live.run(shared.url, pairs=5 if full else 2, window_seconds=10.0 if full else 4.0)
    (target,) = found.targets
    assert target.value >= LEAST, found
