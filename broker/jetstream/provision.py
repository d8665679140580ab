"""Makes the streams, consumers and buckets of `topology`: what is missing, and what may be changed without a loss.

`examine` looks, `provision` looks and acts. FastStream would overwrite a live stream's configuration at start-up, so
its own declaration is switched off.
"""

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import TypeVar

import nats.errors
from nats.js import JetStreamContext, api
from nats.js.api import ConsumerConfig, StreamConfig, StreamInfo
from nats.js.errors import APIError, NotFoundError

from parley.broker.core.errors import TopologyMismatch, TopologyRefused
from parley.broker.core.messages import MAX_TIMEOUT_SECONDS
from parley.broker.jetstream import topology
from parley.broker.jetstream.ack_pending_limit import add_consumer, raise_limit
from parley.broker.jetstream.connection import reason
from parley.broker.jetstream.duplicate_window_limit import with_shorter_window
from parley.broker.jetstream.nats_client import NotAllowed
from parley.broker.jetstream.provision_errors import NAME_IN_USE, NO_STORAGE, STORE_FAILED, refused
from parley.broker.jetstream.quorum import told_no_quorum
from parley.broker.jetstream.stream_differences import (
    TOLERATED,
    Difference,
    When,
    consumer_differences,
    stops_a_start,
    stream_differences,
)

log = logging.getLogger("parley.broker")

# How often a stream is asked for whose store the server could not make, and how long after.
STORE_TRIES = 5
STORE_WAIT_SECONDS = 0.2
# A stream that exists for the moment in which it is asked for how much the server promises.
PROBE = "PARLEY_PROBE"
# Room between a machine's clock and the server's, where a lost consumer begins anew.
CLOCK_SECONDS = 3_600.0

NO_RIGHT = "this NATS user may not change them. Run `parley provision --apply` as one that may"

Config = TypeVar("Config", StreamConfig, ConsumerConfig)


class Extent(IntEnum):
    """How much `provision` does. LOOK: nothing. MISSING: makes what is missing. START: also changes what is Parley's
    own. ALL: also what others set."""

    LOOK = 0
    MISSING = 1
    START = 2
    ALL = 3


@dataclass(frozen=True, slots=True)
class Wanted:
    """The settings that streams and consumers depend on. `storage_bytes`: the budget of which each stream has its
    share; None: as much as the server promises, at most `topology.LARGEST_BUDGET_BYTES`. `limits`: a model server has
    a limit, which all workers share."""

    replicas: int = 1
    keep_seconds: float = 3_600.0
    ack_wait_seconds: float = topology.ACK_WAIT_SECONDS
    storage_bytes: int | None = None
    limits: bool = False

    def streams(self, budget_bytes: int | None) -> tuple[StreamConfig, ...]:
        return topology.streams(
            replicas=self.replicas,
            keep_seconds=self.keep_seconds,
            budget_bytes=budget_bytes,
            limits=self.limits,
        )

    def refused(self, what: str, error: APIError) -> str:
        return refused(what, error, replicas=self.replicas, storage_bytes=self.storage_bytes)

    def consumer(self, durable: topology.Durable) -> ConsumerConfig:
        return topology.consumer(durable, self.ack_wait_seconds)


DEFAULT = Wanted()


@dataclass(frozen=True, slots=True)
class Findings:
    """What is there, by name; None for what is missing."""

    streams: Mapping[str, StreamInfo | None]
    consumers: Mapping[topology.Durable, ConsumerConfig | None]

    @property
    def missing(self) -> list[str]:
        streams = [f"stream {name}" for name, live in self.streams.items() if live is None]
        return [*streams, *(_called(durable) for durable, live in self.consumers.items() if live is None)]

    @property
    def budget_bytes(self) -> int | None:
        """The budget that the live limits are shares of; None where there are none."""
        limits = {
            name: live.config.max_bytes or -1 for name, live in self.streams.items() if live is not None
        }
        budgets = [limit / topology.SHARES[name] for name, limit in limits.items() if name in topology.SHARES]
        most = int(max(budgets, default=-1))
        return min(most, topology.LARGEST_BUDGET_BYTES) if most > 0 else None

    def differences(self, wanted: Wanted, budget_bytes: int | None) -> list[Difference]:
        found: list[Difference] = []
        for config in wanted.streams(budget_bytes):
            live = self.streams[config.name or ""]
            if live is not None:
                as_set = wanted.storage_bytes is not None
                found += stream_differences(config, live.config, live.state.bytes, as_set=as_set)
        for durable, there in self.consumers.items():
            if there is not None:
                found += consumer_differences(durable, wanted.consumer(durable), there)
        return found


def _called(durable: topology.Durable) -> str:
    return f"consumer {durable.stream}/{durable.name}"


# ── looking ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def examine(js: JetStreamContext, *, limits: bool = False) -> Findings:
    """Ask for every stream and consumer; `limits`: as in `Wanted`. Raises nats-py's errors."""
    streams: dict[str, StreamInfo | None] = {}
    consumers: dict[topology.Durable, ConsumerConfig | None] = {}
    for config in topology.streams(limits=limits):
        name = config.name or ""
        try:
            streams[name] = await js.stream_info(name)
        except NotFoundError:
            streams[name] = None
    for durable in topology.DURABLES:
        try:
            info = await js.consumer_info(durable.stream, durable.name)
            consumers[durable] = info.config
        except NotFoundError:
            consumers[durable] = None
    return Findings(streams, consumers)


async def _looked_at(js: JetStreamContext, wanted: Wanted) -> Findings:
    """As `examine`. Raises TopologyRefused."""
    try:
        return await examine(js, limits=wanted.limits)
    except (nats.errors.Error, TimeoutError) as error:
        lacking = told_no_quorum(error)
        why = "NATS does not answer" if isinstance(error, TimeoutError) else reason(error)
        if lacking is not None:
            why = f"NATS has no quorum: {lacking}; start the servers of its cluster that are down"
        raise TopologyRefused([f"streams and consumers: cannot be looked at: {why}"]) from error


async def provision(
    js: JetStreamContext, wanted: Wanted = DEFAULT, *, extent: Extent = Extent.START
) -> list[str]:
    """Returns what was made or changed; with `Extent.LOOK`, what is missing.

    Raises TopologyMismatch, before it changes anything, if a difference stops a service (`LOOK` and `START`); at the
    end, if one can't be changed (`ALL`); and if the server refuses or this user has not the right. No change loses a
    message.
    """
    found = await _looked_at(js, wanted)
    budget = wanted.storage_bytes or found.budget_bytes
    differences = found.differences(wanted, budget)
    stopping = [difference for difference in differences if stops_a_start(difference)]
    if stopping and extent in (Extent.LOOK, Extent.START):
        changeable = any(difference.when is When.ON_REQUEST for difference in stopping)
        raise TopologyMismatch(list(map(str, stopping)), changeable=changeable)
    if extent is Extent.LOOK:
        return found.missing
    try:
        done = await _act(js, found, wanted, budget, extent)
    except (NotAllowed, nats.errors.TimeoutError) as error:
        if found.missing or extent is Extent.ALL:
            listed = ", ".join(found.missing) or "streams"
            why = NO_RIGHT if isinstance(error, NotAllowed) else "NATS does not answer"
            raise TopologyRefused([f"{listed}: not made or changed: {why}"]) from error
        log.warning("the streams stay as an earlier version made them: %s", NO_RIGHT)
        return []
    never = [difference for difference in stopping if difference.when is When.NEVER]
    if never and extent is Extent.ALL:
        raise TopologyMismatch(list(map(str, never)), changeable=False)
    return done


async def _act(
    js: JetStreamContext, found: Findings, wanted: Wanted, budget: int | None, extent: Extent
) -> list[str]:
    if budget is None and (found.missing or extent >= Extent.START):
        budget = await _probe(js, wanted)
    differences = found.differences(wanted, budget)
    fixed = {difference.what for difference in differences if difference.when is When.NEVER}
    changes = [each for each in differences if _within(each, extent) and each.what not in fixed]
    for difference in differences:
        if difference.remedy == TOLERATED and difference not in changes:
            log.warning("%s", difference)
    changed = await _change_streams(js, found, wanted, changes)
    made = await _make_streams(js, found, wanted, budget)
    changed += await _change_consumers(js, found, wanted, changes)
    if extent >= Extent.START:
        for durable, live in found.consumers.items():
            changed += await raise_limit(js, durable, live, wanted.consumer(durable))
    for durable, live in found.consumers.items():
        if live is None:
            config = await _resumed(js, durable, wanted.consumer(durable))
            try:
                await add_consumer(js, durable.stream, config, durable.name)
            except APIError as error:
                if await _is_there(js, durable):
                    continue  # another process has made it meanwhile, and begins elsewhere in the stream
                raise TopologyRefused([wanted.refused(_called(durable), error)]) from error
            made.append(_called(durable))
    return [*made, *changed]


async def _is_there(js: JetStreamContext, durable: topology.Durable) -> bool:
    try:
        await js.consumer_info(durable.stream, durable.name)
    except APIError:
        return False
    return True


async def review(js: JetStreamContext, wanted: Wanted) -> list[str]:
    """One line for each thing that is missing or differs, and when that is changed. Changes nothing."""
    found = await _looked_at(js, wanted)
    lines = [f"{missing}: missing; made {When.AT_START}" for missing in found.missing]
    budget = wanted.storage_bytes or found.budget_bytes or topology.SMALLEST_BUDGET_BYTES
    for difference in found.differences(wanted, budget):
        if difference.field == "max_bytes" and difference.when is When.AT_START:
            lines.append(f"{difference.what}: no max_bytes; gets its share of the storage {When.AT_START}")
        elif difference.remedy:
            lines.append(f"{difference}")
        else:
            lines.append(f"{difference}; changed {difference.when.value}")
    return lines


def _within(difference: Difference, extent: Extent) -> bool:
    return extent is Extent.ALL or (extent is Extent.START and difference.when is When.AT_START)


# ── streams ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def _probe(js: JetStreamContext, wanted: Wanted) -> int:
    """The largest budget, of a power of two, that the server promises whole. Raises TopologyMismatch."""
    budget = topology.LARGEST_BUDGET_BYTES
    while True:
        config = StreamConfig(
            name=PROBE, subjects=["parley.probe"], max_bytes=budget, num_replicas=wanted.replicas
        )
        try:
            await js.add_stream(config)
        except APIError as error:
            if error.err_code == NAME_IN_USE:  # another process asks at the same time
                await _delete_probe(js)
            elif error.err_code not in NO_STORAGE or budget <= topology.SMALLEST_BUDGET_BYTES:
                raise TopologyRefused([wanted.refused("storage for the streams", error)]) from error
            else:
                budget //= 2
        else:
            await _delete_probe(js)
            return budget


async def _delete_probe(js: JetStreamContext) -> None:
    with suppress(NotFoundError):
        await js.delete_stream(PROBE)


async def _change_streams(
    js: JetStreamContext, found: Findings, wanted: Wanted, changes: Sequence[Difference]
) -> list[str]:
    changed: list[str] = []
    refusals: list[str] = []
    for name, live in found.streams.items():
        mine = [change for change in changes if change.what == f"stream {name}"]
        if live is None or not mine:
            continue
        try:
            changed += await _change_stream(js, live.config, mine)
        except APIError as error:
            refusals += [wanted.refused(str(change), error) for change in mine]
    if refusals:
        raise TopologyRefused(list(dict.fromkeys(refusals)))
    return changed


async def _change_stream(js: JetStreamContext, live: StreamConfig, changes: list[Difference]) -> list[str]:
    try:
        await js.update_stream(_changed(live, changes))
    except APIError as error:
        rest = [change for change in changes if change.field != "max_bytes"]
        if error.err_code not in NO_STORAGE or len(rest) == len(changes):
            raise
        # A limit is a promise of the server's, and it has promised its storage to others. The stream goes without.
        log.warning("stream %s has no limit: the server promises no storage to it", live.name)
        if rest:
            await js.update_stream(_changed(live, rest))
        changes = rest
    return list(map(_said, changes))


def _changed(live: Config, changes: Iterable[Difference]) -> Config:
    return replace(live, **{change.field: change.value for change in changes})  # type: ignore[arg-type]  # field names and their values, as data


def _said(change: Difference) -> str:
    live, value = (getattr(side, "value", side) for side in (change.live, change.value))
    return f"{change.what}: {change.field} {live} → {value}"


async def _make_streams(
    js: JetStreamContext, found: Findings, wanted: Wanted, budget_bytes: int | None
) -> list[str]:
    made: list[str] = []
    # The names of streams, by what the server says of them.
    refusals: dict[int | None, tuple[APIError, list[str]]] = {}
    for config in wanted.streams(budget_bytes):
        name = config.name or ""
        if found.streams[name] is not None:
            continue
        try:
            await _make_stream(js, replace(config, first_seq=await _first_seq(js, found, name)), wanted)
            made.append(f"stream {name}")
        except APIError as error:
            refusals.setdefault(error.err_code, (error, []))[1].append(name)
    if refusals:
        raise TopologyRefused(
            [wanted.refused(f"stream {', '.join(names)}", error) for error, names in refusals.values()]
        )
    return made


async def _make_stream(js: JetStreamContext, config: StreamConfig, wanted: Wanted) -> None:
    tries = iter(range(STORE_TRIES))
    while True:
        try:
            await js.add_stream(config)
        except APIError as error:
            if error.err_code == NAME_IN_USE:
                await js.stream_info(config.name or "")  # another process has just made it
                return
            if error.err_code == STORE_FAILED and next(tries, None) is not None:
                await asyncio.sleep(STORE_WAIT_SECONDS)
                continue
            if (shorter := with_shorter_window(config, error)) is not None:
                config = shorter
                continue
            half, least = (config.max_bytes or -1) // 2, topology.SMALLEST_BUDGET_BYTES // 16
            if error.err_code not in NO_STORAGE or wanted.storage_bytes is not None or half < least:
                raise
            config = replace(config, max_bytes=half)
        else:
            return


async def _first_seq(js: JetStreamContext, found: Findings, name: str) -> int | None:
    """Where a stream's numbers begin. Tallies name messages by their number, and `d-<number>` names deliberations, so
    the numbers of a stream that was lost are never used again."""
    old = found.streams[topology.DELIBERATIONS]
    if name == topology.REQUESTS and old is not None and topology.REQUESTED in (old.config.subjects or ()):
        # Requests were in that stream until 0.1.0. It takes none since its subjects changed, and took some until then.
        return (await js.stream_info(topology.DELIBERATIONS)).state.last_seq + 1
    others = (topology.DELIBERATIONS, topology.TALLIES, topology.REQUESTS)
    used = any(live is not None and live.state.last_seq for live in map(found.streams.get, others))
    # The time in milliseconds: more than any stream of fewer than 1,000 messages a second has counted to.
    return int(time.time() * 1000) if used else None


# ── consumers ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def _change_consumers(
    js: JetStreamContext, found: Findings, wanted: Wanted, changes: Sequence[Difference]
) -> list[str]:
    changed: list[str] = []
    refusals: list[str] = []
    for durable, live in found.consumers.items():
        mine = [change for change in changes if change.what == _called(durable)]
        if live is None or not mine:
            continue
        try:
            now = await add_consumer(js, durable.stream, _changed(live, mine), durable.name)
            changed += [_said(replace(change, value=getattr(now, change.field))) for change in mine]
        except APIError as error:
            refusals += [wanted.refused(str(change), error) for change in mine]
    if refusals:
        raise TopologyRefused(refusals)
    return changed


async def _resumed(js: JetStreamContext, durable: topology.Durable, config: ConsumerConfig) -> ConsumerConfig:
    """The configuration for a consumer that was lost. In a stream with messages it begins where work may still be
    open: at the oldest deadline, a day ago. What has had its ending since is recognised by the handlers."""
    state = (await js.stream_info(durable.stream)).state
    if durable.stream == topology.AGENT_REQUESTS or not state.messages:
        return config
    since = datetime.now(UTC) - timedelta(seconds=MAX_TIMEOUT_SECONDS + CLOCK_SECONDS)
    return config.evolve(deliver_policy=api.DeliverPolicy.BY_START_TIME, opt_start_time=since)
