"""Wait for a fact, never for a duration."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar, overload

T = TypeVar("T")

# Long enough for a loaded machine with two cores. A fact that takes longer never comes.
PATIENCE_SECONDS = 30.0


@overload
async def until(fact: Callable[[], Coroutine[Any, Any, T]], what: str, seconds: float = ...) -> T: ...
@overload
async def until(fact: Callable[[], T], what: str, seconds: float = ...) -> T: ...
async def until(fact: Callable[[], Any], what: str, seconds: float = PATIENCE_SECONDS) -> Any:
    """Wait until `fact()` is truthy and return it. Fails with `what` in the message if that takes longer than
    `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = fact()
        found = await value if isinstance(value, Awaitable) else value
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"never happened within {seconds:g} s: {what}")
        await asyncio.sleep(0.02)
