"""Rules broken on purpose that only matter under a condition: each is looked for in the histories that have it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from nats.js.api import StreamConfig

from parley.broker.core import endings
from parley.broker.core.tally import Tally
from parley.broker.jetstream import jetstream, tally_store, topology
from parley.broker.jetstream.jetstream import StoredMessage
from parley.broker.jetstream.server_clock import ServerClock
from parley.broker.jetstream.tally_cache import Entry
from parley.handlers.deadline_rearm import DeadlineRecovery
from parley.handlers.effects import EffectRunner, Past
from parley.handlers.ending_publisher import EndingPublisher
from parley.handlers.ending_results import EndingResults
from parley.handlers.lost_tally_ending import LostTally
from parley.handlers.overdue_deadlines import DeadlineWatch
from parley.handlers.pull_window import PullWindow
from tests.simulation.clock import VirtualTime
from tests.simulation.conditions.absence import Absence
from tests.simulation.conditions.losses import Losses
from tests.simulation.conditions.payload import Payload
from tests.simulation.conditions.refusals import Refusals
from tests.simulation.conditions.skew import Skew
from tests.simulation.conditions.strangers import Strangers
from tests.simulation.conditions.versions import Versions
from tests.simulation.conditions.weight import Weight
from tests.simulation.invariants import Invariant
from tests.simulation.mutations import Mutation, _both

_streams = topology.streams
_entry = tally_store._entry
_encoded = tally_store._encoded


def _reads_its_own_clock(self: ServerClock) -> float:
    return VirtualTime.time()


def _obeys_everybody(**how: Any) -> tuple[StreamConfig, ...]:
    """As `topology.streams`, with requests in a stream that obeys headers."""
    everything = {"allow_msg_schedules": True, "allow_rollup_hdrs": True, "allow_msg_ttl": True}
    return tuple(
        config.evolve(**everything) if config.name == topology.REQUESTS else config
        for config in _streams(**how)
    )


async def _looks_never(self: Any, **how: Any) -> int:
    return 0


async def _looks_for_no_ending(self: EffectRunner, task_id: str, seq: int, at: float, count: int) -> Past:
    return Past()


async def _ends_nothing(self: LostTally, task_id: str, request_seq: int | None, now: float) -> None:
    return None


async def _any_ending_of_the_name(self: EndingPublisher, tally: Tally, seq: int) -> bool:
    return await self.lookup.holds(tally.task_id, seq)


def _reads_new_tallies_only(stored: StoredMessage | None) -> Entry:
    found = _entry(stored)
    if stored is None or found.tally is None or found.tally.question is not None or not found.tally.phases:
        return found
    return Entry(None, stored.seq, stored)


def _written_among_the_answers(tally: Tally) -> bytes:
    return _encoded(tally.model_copy(update={"phases": tally.all_phases, "later_phases": ()}))


def _read_among_the_answers(stored: StoredMessage | None) -> Entry:
    found = _entry(stored)
    if found.tally is None:
        return found
    answers, later = found.tally.phases[:1], found.tally.phases[1:]
    return replace(found, tally=found.tally.model_copy(update={"phases": answers, "later_phases": later}))


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
    Mutation(
        "takes an account without room for a bug",
        Invariant.NO_BUG,
        lambda: patch.object(jetstream, "_NO_ROOM", frozenset()),
        condition=Refusals,
    ),
    Mutation(
        "looks for nothing once a full store has room",
        Invariant.AN_ENDING,
        _both(_method(DeadlineWatch, "look", _looks_never), _method(DeadlineRecovery, "sweep", _looks_never)),
        condition=Refusals,
    ),
    Mutation(
        "looks for no ending of an old request",
        Invariant.ONE_ENDING,
        _method(EffectRunner, "past_of", _looks_for_no_ending),
        condition=Absence,
    ),
    Mutation(
        "a lost tally has no ending",
        Invariant.AN_ENDING,
        _method(LostTally, "end", _ends_nothing),
        condition=Losses,
    ),
    Mutation(
        "takes an earlier deliberation's ending for its own",
        Invariant.MARK_KEPT,
        _method(EndingPublisher, "_is_at", _any_ending_of_the_name),
        condition=Losses,
    ),
    Mutation(
        "cannot read a tally of the version before",
        Invariant.COUNTED_ONCE,
        lambda: patch.object(tally_store, "_entry", _reads_new_tallies_only),
        condition=Versions,
    ),
    Mutation(
        "writes the judges where an older version looks for the agents",
        Invariant.PHASES_IN_ORDER,
        _both(
            lambda: patch.object(tally_store, "_encoded", _written_among_the_answers),
            lambda: patch.object(tally_store, "_entry", _read_among_the_answers),
        ),
        condition=Versions,
    ),
)
