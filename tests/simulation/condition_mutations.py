"""Rules broken on purpose that only matter under a condition: each is looked for in the histories that have it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

from nats.js.api import StreamConfig

from parley.broker.core import endings
from parley.broker.jetstream import jetstream, topology
from parley.broker.jetstream.server_clock import ServerClock
from parley.handlers.ending_results import EndingResults
from parley.handlers.pull_window import PullWindow
from tests.simulation.clock import VirtualTime
from tests.simulation.conditions.payload import Payload
from tests.simulation.conditions.skew import Skew
from tests.simulation.conditions.strangers import Strangers
from tests.simulation.conditions.weight import Weight
from tests.simulation.invariants import Invariant
from tests.simulation.mutations import Mutation

_streams = topology.streams


def _reads_its_own_clock(self: ServerClock) -> float:
    return VirtualTime.time()


def _obeys_everybody(**how: Any) -> tuple[StreamConfig, ...]:
    """As `topology.streams`, with requests in a stream that obeys headers."""
    everything = {"allow_msg_schedules": True, "allow_rollup_hdrs": True, "allow_msg_ttl": True}
    return tuple(
        config.evolve(**everything) if config.name == topology.REQUESTS else config
        for config in _streams(**how)
    )


def _any_bytes(self: PullWindow[Any]) -> None:
    return None


async def _asks_no_object_store(self: EndingResults) -> None:
    return None


def _leaves_nothing_out(message: Any, limit: int) -> Any:
    return message, message.encode()


def _believes_any(stream: str, subject: str) -> bool:
    return True


def _method(owner: type, name: str, broken: Callable[..., Any]) -> Callable[[], AbstractContextManager[Any]]:
    return lambda: patch.object(owner, name, broken)


CONDITION_MUTATIONS = (
    Mutation(
        "believes its own clock",
        Invariant.ONE_CLOCK,
        _method(ServerClock, "now", _reads_its_own_clock),
        condition=Skew,
    ),
    Mutation(
        "obeys the headers of requests",
        Invariant.NOT_LOST,
        lambda: patch.object(topology, "streams", _obeys_everybody),
        condition=Strangers,
    ),
    Mutation(
        "believes any acknowledgement",
        Invariant.MARK_KEPT,
        lambda: patch.object(jetstream, "may_acknowledge", _believes_any),
        condition=Strangers,
    ),
    Mutation(
        "leaves results out without asking the object store",
        Invariant.WHOLE,
        _method(EndingResults, "refer", _asks_no_object_store),
        condition=Payload,
    ),
    Mutation(
        "publishes an ending as large as it is",
        Invariant.NO_BUG,
        lambda: patch.object(endings, "fit", _leaves_nothing_out),
        condition=Payload,
    ),
    Mutation(
        "counts messages and not their bytes",
        Invariant.WITHIN_MEMORY,
        _method(PullWindow, "bytes_to_request", _any_bytes),
        condition=Weight,
    ),
)
