"""A real vLLM is as busy through Parley as with a plain client. `python -m benchmarks.live` is the same with the target itself."""

import pytest

from benchmarks import live
from tests.live.server import Install

# Two pairs on a machine that did other things too came to 0.82 once; three in `make live`, on cores of their own, have the median's help.
PAIRS = 3
LEAST = 0.9


async def test_vllm_makes_as_many_tokens_through_parley_as_for_a_plain_client(install: Install, full: bool) -> None:
    if not full:
        pytest.skip("takes two minutes in peace: make live")
    assert install.python.exists()
    found = await live.measured(None, PAIRS)
    (target,) = found.targets
    print(f"\n{target.name}: {target.value:.3f}, {dict(found.figures)}")
    assert target.value >= LEAST, found
