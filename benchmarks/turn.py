"""One system's turn: it is started, measured, and stopped before the next one starts, so that none idles beside another."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from benchmarks import systems
from benchmarks.peers import roster
from benchmarks.service import serving
from benchmarks.systems import Parley, System
from parley.app import simulator
from parley.client import connect

PARLEY = "parley"
BARE = "bare"
LATENCY_MS = 50.0
TOKENS = 48
# Of the bare loop: more than are ever in flight.
CONNECTIONS = 1024


@dataclass(frozen=True, slots=True)
class Turn:
    """`bare`: the plain loop, asking the same model server."""

    system: System
    bare: System


@asynccontextmanager
async def turn(name: str) -> AsyncIterator[Turn]:
    """Everything that `name` needs, from its start to its end."""
    async with AsyncExitStack() as stack:
        if name == PARLEY:
            service = await stack.enter_async_context(
                serving(pool="ray", latency_ms=LATENCY_MS, tokens=TOKENS)
            )
            client = await stack.enter_async_context(connect(service.nats_url))
            bare = await stack.enter_async_context(systems.bare(service.model_url, connections=CONNECTIONS))
            yield Turn(Parley(client), bare)
            return
        model_url = await stack.enter_async_context(
            simulator("--latency-ms", str(LATENCY_MS), "--tokens", str(TOKENS))
        )
        bare = await stack.enter_async_context(systems.bare(model_url, connections=CONNECTIONS))
        yield Turn(
            bare if name == BARE else await stack.enter_async_context(roster.running(name, model_url)), bare
        )
