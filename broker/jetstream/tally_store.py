"""Applies events to tallies: reads one from the KV bucket `deliberations`, lets `react` decide, writes it back.

The write is a compare-and-set, made only if the tally changed. If another process wrote first, it starts again. The effects go back to the caller, who carries them out before it acknowledges anything.

Reads come from a small cache of what this process wrote last. A stale entry costs one refused write, and then a read
from the stream's leader.
"""

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from parley.broker.core.errors import BrokerUnavailable, Conflict, Forgotten, PayloadTooLarge
from parley.broker.core.events_and_effects import ArmDeadline, Effect, EndingPublished, Event, RequestAgents
from parley.broker.core.reactions import Reaction, react
from parley.broker.core.tally import Tally
from parley.broker.core.tally_size import smallest
from parley.broker.jetstream import topology
from parley.broker.jetstream.deadletters import OriginalMessage, dead_letter
from parley.broker.jetstream.jetstream import JetStream, StoredMessage
from parley.broker.jetstream.last_messages import last_messages
from parley.broker.jetstream.tally_cache import Entry, TallyCache
from parley.broker.jetstream.topology import Durable

log = logging.getLogger("parley.broker")

# So many tallies to read are asked for together: fewer cost as much one by one.
WORTH_A_BATCH = 8
# Replicas of three handlers may write one tally at a time. Each refusal means that another one has written.
MAX_CAS_TRIES = 50


_NOTHING = Entry(None, 0)
# What a dead letter from the bucket names as its origin. No consumer of that name exists.
_BUCKET = Durable(topology.TALLIES, "tallies", topology.tally_subject(">"))


@dataclass(frozen=True, slots=True)
class FoldResult:
    """What some events did: the tally before and after, the effects to carry out, and one reaction an event."""

    before: Tally | None
    tally: Tally | None
    effects: tuple[Effect, ...]
    reactions: tuple[Reaction, ...]

    @property
    def changed(self) -> bool:
        """Whether the tally was written."""
        return self.tally is not self.before


class TallyStore:
    """`keep_seconds`: how long a tally stays after its ending is published. `cache`: by default of 32 MiB."""

    def __init__(self, jetstream: JetStream, *, keep_seconds: float, cache: TallyCache | None = None) -> None:
        self._jetstream = jetstream
        self.keep_seconds = keep_seconds
        # Tallies that this process read or wrote last, by task_id. Only those that have no published ending.
        self._cache = cache if cache is not None else TallyCache()
        # What the tallies that this process created have taken in the bucket, from its start on.
        self.created_bytes = 0

    async def read(self, task_id: str) -> Tally | None:
        """The tally as the stream's leader has it now. Raises BrokerUnavailable."""
        return (await self._fetch(task_id)).tally

    def cached(self, task_id: str) -> Tally | None:
        """The tally as this process read or wrote it last, or None if it is not cached. May be stale."""
        entry = self._cache.get(task_id)
        return entry.tally if entry is not None else None

    async def read_ahead(self, task_ids: Sequence[str]) -> None:
        """Have these tallies in the cache, read with one request where there are many. They may be stale, as any in the
        cache. Raises nothing: what it does not read, `apply` does."""
        absent = {
            topology.tally_subject(task_id): task_id
            for task_id in task_ids
            if self._cache.get(task_id) is None
        }
        if len(absent) < WORTH_A_BATCH:
            return
        try:
            found = await last_messages(self._jetstream, topology.TALLIES, list(absent))
        except BrokerUnavailable:
            return
        for subject, stored in found.items():
            task_id = absent[subject]
            if self._cache.get(task_id) is not None:  # written meanwhile
                continue
            self._cache_entry(task_id, _entry(stored), len(stored.data))

    async def apply(
        self,
        task_id: str,
        events: Sequence[tuple[Event, float]],
        *,
        new: bool = False,
        is_recorded: bool = False,
    ) -> FoldResult:
        """Fold `events`, each with the instant at which it was seen, into a tally, in one write.

        `new`: the deliberation is probably not recorded yet, so write first, and read only if that is refused.
        `is_recorded`: the caller has seen a tally. None is made where that is gone meanwhile: Forgotten is raised. So it is
        where a first write is refused because of a tally that is gone when it is read.
        Raises BrokerUnavailable. Nothing is lost then: the events are not acknowledged yet.
        """
        cached = self._cache.get(task_id)
        entry = cached or (_NOTHING if new else await self._fetch(task_id))
        for _ in range(MAX_CAS_TRIES):
            if is_recorded and entry.tally is None and entry.unreadable is None:
                raise Forgotten(task_id)
            reactions, tally = _fold(entry.tally, events)
            if tally is not entry.tally and tally is not None:
                if entry.unreadable is not None:
                    await self._put_aside(entry.unreadable)
                try:
                    tally = await self._write(tally, entry.revision)
                except Conflict:
                    refused, entry = entry, await self._fetch(task_id)
                    if new and not refused.revision and not entry.revision:
                        # Recorded by another process and forgotten since: this one stood still between the two.
                        raise Forgotten(task_id) from None
                    continue
            elif entry is cached:
                # Nothing changed, so no write follows that would show that the cached entry is stale. Only a read can:
                # another replica may have ended the deliberation, and its task_id may even be free again.
                entry = await self._fetch(task_id)
                continue
            return FoldResult(entry.tally, tally, _distinct_effects(reactions), reactions)
        raise Conflict(task_id)

    async def mark_published(self, task_id: str, seq: int) -> FoldResult:
        """Note that the ending is stored at `seq` in DELIBERATIONS. Only the first process that does so sees a
        change."""
        return await self.apply(task_id, [(EndingPublished(seq), 0.0)])

    async def _fetch(self, task_id: str) -> Entry:
        stored = await self._jetstream.get_last(topology.TALLIES, topology.tally_subject(task_id))
        entry = _entry(stored)
        if entry.unreadable is not None:
            log.error("the tally of %s cannot be read", task_id)
        self._cache_entry(task_id, entry, len(stored.data) if stored is not None else 0)
        return entry

    async def _put_aside(self, stored: StoredMessage) -> None:
        """Keep what is about to be replaced whole in DEAD_LETTERS. Once, however often."""
        now = self._jetstream.clock.now()
        message = OriginalMessage(stored.subject, stored.data, stored.headers, stored.seq, now, 1)
        await dead_letter(self._jetstream, _BUCKET, message, "a tally that cannot be read")

    async def discard_unreadable(self, task_id: str) -> bool:
        """Remove what is stored under `task_id` if it is no tally that can be read, after it is put aside; return
        whether it was. Raises BrokerUnavailable."""
        entry = await self._fetch(task_id)
        if entry.unreadable is None:
            return False
        await self._put_aside(entry.unreadable)
        headers = {"KV-Operation": "DEL", "Nats-Expected-Last-Subject-Sequence": str(entry.revision)}
        try:
            await self._jetstream.publish(topology.tally_subject(task_id), b"", headers=headers)
        except Conflict:  # another process wrote a tally meanwhile
            return False
        return True

    async def _write(self, tally: Tally, revision: int) -> Tally:
        """Returns the tally as it was written. Raises Conflict, BrokerUnavailable, PayloadTooLarge."""
        self._cache.drop(tally.task_id)  # stale by now, whether or not the write succeeds
        headers = {"Nats-Expected-Last-Subject-Sequence": str(revision)}
        if tally.ending_seq is not None:
            # The server takes a TTL on any message. nats-py's KV offers it only when a key is created.
            headers["Nats-TTL"] = f"{max(1, math.ceil(self.keep_seconds))}s"
        subject, body = topology.tally_subject(tally.task_id), _encoded(tally)
        try:
            ack = await self._jetstream.publish(subject, body, headers=headers)
        except PayloadTooLarge:
            tally = smallest(tally)
            body = _encoded(tally)
            ack = await self._jetstream.publish(subject, body, headers=headers)
        if not revision:
            self.created_bytes += len(body)
        self._cache_entry(tally.task_id, Entry(tally, ack.seq), len(body))
        return tally

    def _cache_entry(self, task_id: str, entry: Entry, json_bytes: int) -> None:
        if entry.tally is None or entry.tally.ending_seq is not None:
            self._cache.drop(task_id)
        else:
            self._cache.put(task_id, entry, json_bytes)


def _encoded(tally: Tally) -> bytes:
    return tally.__pydantic_serializer__.to_json(tally, exclude_defaults=True)


def _entry(stored: StoredMessage | None) -> Entry:
    if stored is None:
        return _NOTHING
    if not stored.data or "KV-Operation" in stored.headers:
        # A delete or purge marker counts as nothing, but the next write must name its revision.
        return Entry(None, stored.seq)
    try:
        return Entry(Tally.model_validate_json(stored.data), stored.seq)
    except ValidationError:
        return Entry(None, stored.seq, stored)


def _fold(
    tally: Tally | None, events: Iterable[tuple[Event, float]]
) -> tuple[tuple[Reaction, ...], Tally | None]:
    reactions = []
    for event, now in events:
        reaction = react(tally, event, now)
        reactions.append(reaction)
        tally = reaction.tally
    return tuple(reactions), tally


def _distinct_effects(reactions: Sequence[Reaction]) -> tuple[Effect, ...]:
    """Every effect once, in order: several events of one fold may ask to publish the same ending. Of several alarms only
    the last one counts, and of several phases' work: a later one replaces it, and effects are not carried out one after
    the other."""
    if len(reactions) == 1:
        return reactions[0].effects
    distinct = dict.fromkeys(effect for reaction in reactions for effect in reaction.effects)
    last = {type(effect): effect for effect in distinct}
    return tuple(
        effect
        for effect in distinct
        if not isinstance(effect, ArmDeadline | RequestAgents) or effect is last[type(effect)]
    )
