"""Runs the checks behind /readyz, which `parley.readiness_checks` lists, and reports each problem under the name of its check."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

# A check that takes longer has failed. /readyz must answer within the probe's timeout: 5 s in the Helm chart.
CHECK_SECONDS = 3.0

# Returns what is wrong, or None.
Check = Callable[[], Awaitable[str | None]]


async def problems(checks: Mapping[str, Check]) -> dict[str, str]:
    """The problem of each failed check, by the check's name; empty when ready. A check that raises has failed."""
    found = await asyncio.gather(*(_run(check) for check in checks.values()))
    return {name: problem for name, problem in zip(checks, found, strict=True) if problem is not None}


async def _run(check: Check) -> str | None:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            return await check()
    except TimeoutError:
        return f"no answer within {CHECK_SECONDS:g} s"
    except Exception as error:
        return str(error) or type(error).__name__
