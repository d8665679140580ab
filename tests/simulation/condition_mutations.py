"""Rules broken on purpose that only matter under a condition: each is looked for in the histories that have it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

from parley.broker.jetstream.server_clock import ServerClock
from tests.simulation.clock import VirtualTime
from tests.simulation.conditions.skew import Skew
from tests.simulation.invariants import Invariant
from tests.simulation.mutations import Mutation


def _reads_its_own_clock(self: ServerClock) -> float:
    return VirtualTime.time()


def _method(owner: type, name: str, broken: Callable[..., Any]) -> Callable[[], AbstractContextManager[Any]]:
    return lambda: patch.object(owner, name, broken)


CONDITION_MUTATIONS = (
    Mutation(
        "believes its own clock",
        Invariant.ONE_CLOCK,
        _method(ServerClock, "now", _reads_its_own_clock),
        condition=Skew,
    ),
)
