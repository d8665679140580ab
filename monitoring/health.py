"""Live and ready. Live: the event loop turns. Ready: everything a message needs is there, by name."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

# A check that takes longer has failed: a probe must answer before its own timeout (Kubernetes: 1 s by default, ours says 5).
CHECK_SECONDS = 3.0

# What is wrong, or None.
Check = Callable[[], Awaitable[str | None]]


async def problems(checks: Mapping[str, Check]) -> dict[str, str]:
    """What stands in the way, by name of the check; empty when ready."""
    found = await asyncio.gather(*(_one(check) for check in checks.values()))
    return {name: problem for name, problem in zip(checks, found, strict=True) if problem is not None}


async def _one(check: Check) -> str | None:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            return await check()
    except TimeoutError:
        return f"no answer within {CHECK_SECONDS:g} s"
    except Exception as error:
        return str(error) or type(error).__name__
