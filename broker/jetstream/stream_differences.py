"""Where a live stream or consumer differs from the declared one, whether that does harm, and who may change it. Pure.

A difference that does no harm (a longer `max_age`, a larger `max_bytes`, more replicas) is not one. The rest:

- `AT_START`: Parley's own, of an earlier version or another setting. A service changes it as it starts. The rules
  have one direction each, so processes of two settings never change it to and fro.
- `ON_REQUEST`: a limit that somebody else set. A service refuses to start; `parley provision --apply` changes it.
- `NEVER`: nats-server changes it in no live stream. A service refuses to start and says what to do.

No change of either kind loses a message.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from nats.js.api import AckPolicy, ConsumerConfig, DiscardPolicy, ReplayPolicy, StreamConfig

from parley.broker.jetstream import topology
from parley.broker.jetstream.ack_pending_limit import is_fitted

# Any Msg-Id is used again within this time, if at all.
LEAST_WINDOW_SECONDS = topology.WORK_DUPLICATE_SECONDS
# nats-server's default for a message of any kind.
LEAST_MESSAGE_BYTES = 2**20
# Readers of a stream are consumers too, each for as long as it reads.
LEAST_CONSUMERS = 64
# Pull requests of one replica, and those that a reconnect left behind.
LEAST_WAITING = 64
# A limit below this holds no message of ordinary size.
LEAST_STREAM_BYTES = topology.SMALLEST_BUDGET_BYTES // 16


# The remedy of a difference that stops no service.
TOLERATED = "kept until `parley provision --apply`"


class When(StrEnum):
    AT_START = "at the next start of a service"
    ON_REQUEST = "by `parley provision --apply`"
    NEVER = "by nobody"


@dataclass(frozen=True, slots=True)
class Difference:
    """`what`: `stream NAME` or `consumer STREAM/NAME`. `value`: what the field is changed to."""

    what: str
    field: str
    live: object
    value: object
    when: When
    remedy: str = ""

    def __str__(self) -> str:
        said = f"{self.what}: {self.field} is {_shown(self.live)}, declared {_shown(self.value)}"
        return f"{said} ({self.remedy})" if self.remedy else said


def _shown(value: object) -> object:
    """An enum as the server writes it."""
    return getattr(value, "value", value)


# ── streams ───────────────────────────────────────────────────────────────────────────────────────────────────────


def stream_differences(
    wanted: StreamConfig, live: StreamConfig, stored_bytes: int = 0, *, as_set: bool = False
) -> Iterator[Difference]:
    """`stored_bytes`: what the live stream holds. A limit is never set below twice that. `as_set`: the wanted limit
    is a setting, so that another live one is a difference."""
    name = wanted.name or ""
    what = f"stream {name}"
    delete = f"stop the service, `nats stream rm {name}`, start it: it makes the stream again, empty"
    for field in ("retention", "storage"):
        if getattr(live, field) != getattr(wanted, field):
            yield Difference(what, field, getattr(live, field), getattr(wanted, field), When.NEVER, delete)
    if live.sealed or live.mirror:
        field = "sealed" if live.sealed else "mirror"
        yield Difference(what, field, getattr(live, field), None, When.NEVER, delete)
    yield from _subjects(what, wanted, live)
    yield from _switches(what, wanted, live, delete)
    yield from _counts(what, wanted, live, delete)
    yield from _bytes(what, wanted, live, max(wanted.max_bytes or -1, 2 * stored_bytes), as_set)
    yield from _times(what, wanted, live)
    if (live.num_replicas or 1) < (wanted.num_replicas or 1):
        yield Difference(what, "num_replicas", live.num_replicas, wanted.num_replicas, When.AT_START)


def _subjects(what: str, wanted: StreamConfig, live: StreamConfig) -> Iterator[Difference]:
    declared, found = wanted.subjects or [], live.subjects or []
    if set(declared) == set(found):
        return
    foreign = set(found) - set(declared)
    when = When.ON_REQUEST
    # Until 0.1.0 requests and cancels were in DELIBERATIONS.
    if wanted.name == topology.DELIBERATIONS and foreign <= {topology.REQUESTED, topology.CANCEL}:
        when = When.AT_START
    yield Difference(what, "subjects", found, declared, when)


# Fields that are on or off. A live True where the server can't take it back: NEVER.
_SWITCHES = {
    "allow_rollup_hdrs": When.AT_START,
    "allow_direct": When.AT_START,
    "allow_msg_ttl": When.AT_START,
    "allow_msg_schedules": When.AT_START,
    "no_ack": When.ON_REQUEST,
    "discard_new_per_subject": When.ON_REQUEST,
    "deny_purge": When.ON_REQUEST,
}
_ONE_WAY = frozenset({"allow_msg_ttl", "allow_msg_schedules", "deny_purge"})


def _switches(what: str, wanted: StreamConfig, live: StreamConfig, delete: str) -> Iterator[Difference]:
    for field, when in _SWITCHES.items():
        declared, found = bool(getattr(wanted, field)), bool(getattr(live, field))
        if declared == found:
            continue
        if found and field in _ONE_WAY:
            yield Difference(what, field, found, declared, When.NEVER, delete)
        else:
            yield Difference(what, field, found, declared, when)
    if live.discard != wanted.discard:
        ours = wanted.discard == DiscardPolicy.NEW  # 0.1.0 had no limits and discarded the oldest
        when = When.AT_START if ours else When.ON_REQUEST
        yield Difference(what, "discard", live.discard, wanted.discard, when)
    if live.subject_transform:
        yield Difference(what, "subject_transform", live.subject_transform, None, When.ON_REQUEST)


def _counts(what: str, wanted: StreamConfig, live: StreamConfig, delete: str) -> Iterator[Difference]:
    if _limited(live.max_msgs):
        yield Difference(what, "max_msgs", live.max_msgs, -1, When.ON_REQUEST)
    if _limited(live.max_msg_size) and (live.max_msg_size or 0) < LEAST_MESSAGE_BYTES:
        yield Difference(what, "max_msg_size", live.max_msg_size, -1, When.ON_REQUEST)
    if _limited(live.max_consumers) and (live.max_consumers or 0) < LEAST_CONSUMERS:
        yield Difference(what, "max_consumers", live.max_consumers, -1, When.NEVER, delete)
    limits = live.consumer_limits
    # It refuses our consumers, or has the server delete them in an hour without a service.
    if limits and (0 < (limits.max_ack_pending or 0) < topology.MAX_ACK_PENDING or limits.inactive_threshold):
        yield Difference(what, "consumer_limits", limits, None, When.ON_REQUEST)
    each = wanted.max_msgs_per_subject or -1
    if (live.max_msgs_per_subject or -1) != each:
        yield Difference(what, "max_msgs_per_subject", live.max_msgs_per_subject, each, When.ON_REQUEST)


def _bytes(
    what: str, wanted: StreamConfig, live: StreamConfig, declared: int, as_set: bool
) -> Iterator[Difference]:
    found = live.max_bytes
    if wanted.name not in topology.SHARES:
        # It holds the timers, and with schedules a full stream can only drop its oldest.
        if _limited(found):
            yield Difference(what, "max_bytes", found, -1, When.ON_REQUEST)
    elif not _limited(found):
        if _limited(wanted.max_bytes):
            yield Difference(what, "max_bytes", found, declared, When.AT_START)
    elif (found or 0) < LEAST_STREAM_BYTES:
        yield Difference(what, "max_bytes", found, max(declared, LEAST_STREAM_BYTES), When.ON_REQUEST)
    elif as_set and found != declared:
        yield Difference(what, "max_bytes", found, declared, When.ON_REQUEST, TOLERATED)


def _limited(value: int | None) -> bool:
    return value is not None and value > 0


def _times(what: str, wanted: StreamConfig, live: StreamConfig) -> Iterator[Difference]:
    if live.max_age and live.max_age < (wanted.max_age or 0):
        yield Difference(what, "max_age", live.max_age, wanted.max_age, When.ON_REQUEST)
    declared, found = wanted.duplicate_window, live.duplicate_window
    # Where none is declared the operator may choose. A longer one would drop what a name that is free again sends; a
    # shorter one is enough for as long as a message is repeated.
    if declared and found and found > declared:
        yield Difference(what, "duplicate_window", found, declared, When.AT_START)
    elif declared and (found or 0) < min(declared, LEAST_WINDOW_SECONDS):
        yield Difference(what, "duplicate_window", found, declared, When.ON_REQUEST)


# ── consumers ─────────────────────────────────────────────────────────────────────────────────────────────────────


# What no consumer of ours has. With a limit on requests, or with groups, the server refuses to deliver.
_ABSENT = (
    "backoff",
    "inactive_threshold",
    "headers_only",
    "max_bytes",
    "priority_policy",
    "priority_groups",
)


def consumer_differences(
    durable: topology.Durable, wanted: ConsumerConfig, live: ConsumerConfig
) -> Iterator[Difference]:
    what = f"consumer {durable.stream}/{durable.name}"
    delete = f"`nats consumer rm {durable.stream} {durable.name}`: a service makes it again"
    if live.filter_subject != wanted.filter_subject or live.filter_subjects:
        found = live.filter_subjects or live.filter_subject
        yield Difference(what, "filter_subject", found, wanted.filter_subject, When.NEVER, delete)
    if live.ack_policy != AckPolicy.EXPLICIT:
        yield Difference(what, "ack_policy", live.ack_policy, AckPolicy.EXPLICIT, When.NEVER, delete)
    if live.deliver_subject:
        yield Difference(what, "deliver_subject", live.deliver_subject, None, When.NEVER, delete)
    if live.replay_policy not in (None, ReplayPolicy.INSTANT):  # as slowly as the messages were published
        yield Difference(what, "replay_policy", live.replay_policy, ReplayPolicy.INSTANT, When.NEVER, delete)
    if live.mem_storage:  # a server that restarts forgets what is settled
        yield Difference(what, "mem_storage", True, None, When.NEVER, delete)
    if live.pause_until:
        resume = f"`nats consumer resume {durable.stream} {durable.name}`"
        yield Difference(what, "pause_until", live.pause_until, None, When.NEVER, resume)
    if _limited(live.max_waiting) and (live.max_waiting or 0) < LEAST_WAITING:
        yield Difference(what, "max_waiting", live.max_waiting, wanted.max_waiting, When.NEVER, delete)
    if _limited(live.max_deliver):
        yield Difference(what, "max_deliver", live.max_deliver, -1, When.ON_REQUEST)
    for field in _ABSENT:
        if found := getattr(live, field, None):
            yield Difference(what, field, found, None, When.ON_REQUEST)
    if 0 < (live.max_ack_pending or 0) < (wanted.max_ack_pending or 0) and not is_fitted(live):
        yield Difference(
            what, "max_ack_pending", live.max_ack_pending, wanted.max_ack_pending, When.ON_REQUEST
        )
    yield from _ack_wait(what, durable, wanted, live)


def _ack_wait(
    what: str, durable: topology.Durable, wanted: ConsumerConfig, live: ConsumerConfig
) -> Iterator[Difference]:
    declared, found = wanted.ack_wait or 0.0, live.ack_wait or 0.0
    if found == declared:
        return
    # A process of a longer setting signals too seldom for a shorter one: work would be delivered twice. So a start
    # only makes it longer. The quick handlers' time is the program's and not a setting.
    quick = durable.ack_wait_seconds is not None and declared == durable.ack_wait_seconds
    when = When.AT_START if found < declared or quick else When.ON_REQUEST
    yield Difference(what, "ack_wait", found, declared, when, "" if when is When.AT_START else TOLERATED)


def stops_a_start(difference: Difference) -> bool:
    """Whether a service must not run beside this difference."""
    return difference.when is not When.AT_START and difference.remedy != TOLERATED
