"""The tallies of all deliberations, in the KV bucket `deliberations`, changed only by compare-and-set.

`apply` is the whole of it: read the tally, let `react` decide, write if something changed, try again if somebody else wrote
first. The effects come back to the caller, to be carried out after the write and before anything is acknowledged.

Reads come from a small cache of what this process wrote last; a stale one costs one refused write and a second look, which
asks the stream's leader.
"""

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from parley.broker.core.errors import Conflict
from parley.broker.core.tally import Effect, EndingPublished, Event, Reaction, Tally, react
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream

# Tallies remembered by one process, about 2 KiB each.
CACHED_TALLIES = 8_192
# Writers of one tally at one time are replicas of three handlers; each refusal means another one got on.
MAX_CAS_TRIES = 50


@dataclass(frozen=True, slots=True)
class Entry:
    """A tally and the revision it was read at; revision 0 means there is none yet."""

    tally: Tally | None
    revision: int


_NOTHING = Entry(None, 0)


@dataclass(frozen=True, slots=True)
class FoldResult:
    """What became of some events: the tally they left, what to do about it, and a note for each that changed nothing."""

    before: Tally | None
    tally: Tally | None
    effects: tuple[Effect, ...]
    reactions: tuple[Reaction, ...]

    @property
    def changed(self) -> bool:
        """Whether the tally was written."""
        return self.tally is not self.before


class TallyStore:
    def __init__(self, wire: JetStream, *, keep_seconds: float) -> None:
        self._wire = wire
        self._keep_seconds = keep_seconds
        self._cache: OrderedDict[str, Entry] = OrderedDict()

    async def read(self, task_id: str) -> Tally | None:
        """The tally as the bucket has it now."""
        return (await self._fetch(task_id)).tally

    def cached(self, task_id: str) -> Tally | None:
        """The tally as this process wrote or read it last, if it still knows. Asks nobody."""
        entry = self._cache.get(task_id)
        return entry.tally if entry is not None else None

    async def apply(
        self, task_id: str, events: Sequence[tuple[Event, float]], *, new: bool = False
    ) -> FoldResult:
        """Let `events`, each with the instant it was seen, happen to a deliberation, in one write.

        `new`: it is probably not recorded yet, so write first and read only if that is refused.
        Raises BrokerUnavailable when the bucket cannot be reached; nothing is lost, for the events are not acknowledged yet.
        """
        remembered = self._cache.get(task_id)
        entry = remembered or (_NOTHING if new else await self._fetch(task_id))
        for _ in range(MAX_CAS_TRIES):
            reactions, tally = _fold(entry.tally, events)
            effects = _in_force(reactions)
            if (tally is entry.tally or tally is None) and entry is remembered:
                # Nothing would be written, so nothing would tell that what we remember is old: another replica may have
                # ended it, and it may even be forgotten and its name free again.
                entry = await self._fetch(task_id)
                continue
            if tally is entry.tally or tally is None:
                return FoldResult(entry.tally, tally, effects, reactions)
            try:
                await self._write(tally, entry.revision)
            except Conflict:
                entry = await self._fetch(task_id)
                continue
            return FoldResult(entry.tally, tally, effects, reactions)
        raise Conflict(task_id)

    async def mark_published(self, task_id: str, seq: int) -> FoldResult:
        """Note that the ending is stored at `seq` in DELIBERATIONS. It reports a change to the first process that marks it."""
        return await self.apply(task_id, [(EndingPublished(seq), 0.0)])

    async def _fetch(self, task_id: str) -> Entry:
        stored = await self._wire.get_last(topology.TALLIES, topology.tally_subject(task_id))
        if stored is None or not stored.data or "KV-Operation" in stored.headers:
            # A delete or purge marker: gone, but a new key must still name the marker's revision.
            entry = Entry(None, stored.seq if stored is not None else 0)
        else:
            entry = Entry(Tally.model_validate_json(stored.data), stored.seq)
        self._remember(task_id, entry)
        return entry

    async def _write(self, tally: Tally, revision: int) -> None:
        self._cache.pop(tally.task_id, None)  # whatever happens to this write, what we knew is no longer so
        headers = {"Nats-Expected-Last-Subject-Sequence": str(revision)}
        if tally.ending_seq is not None:
            # Per-message TTL on an update: nats-py's KV offers it on create only, the server takes it on any message.
            headers["Nats-TTL"] = f"{max(1, math.ceil(self._keep_seconds))}s"
        body = tally.model_dump_json(exclude_defaults=True).encode()
        seq = (await self._wire.publish(topology.tally_subject(tally.task_id), body, headers=headers)).seq
        if tally.ending_seq is None:
            self._remember(tally.task_id, Entry(tally, seq))

    def _remember(self, task_id: str, entry: Entry) -> None:
        if entry.tally is None or entry.tally.ending_seq is not None:
            self._cache.pop(task_id, None)  # finished or unknown: nothing to be quick about
            return
        self._cache[task_id] = entry
        self._cache.move_to_end(task_id)
        if len(self._cache) > CACHED_TALLIES:
            self._cache.popitem(last=False)


def _fold(
    tally: Tally | None, events: Iterable[tuple[Event, float]]
) -> tuple[tuple[Reaction, ...], Tally | None]:
    reactions = []
    for event, now in events:
        reaction = react(tally, event, now)
        reactions.append(reaction)
        tally = reaction.tally
    return tuple(reactions), tally


def _in_force(reactions: Iterable[Reaction]) -> tuple[Effect, ...]:
    """Every effect once, in order: events folded together may each ask to publish the same ending."""
    return tuple(dict.fromkeys(effect for reaction in reactions for effect in reaction.effects))
