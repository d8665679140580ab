"""The streams, consumers and buckets that Parley needs, as data, and `provision()`, which creates them.

`provision` is idempotent and never overwrites: it creates what is missing, and reports what differs. FastStream would
overwrite a live stream's configuration at start-up, so its own declaration is switched off.

A KV bucket and an object store are streams with certain names (`KV_…`, `OBJ_…`) and are declared like the others.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from nats.js import JetStreamContext, api
from nats.js.api import ConsumerConfig, StreamConfig
from nats.js.errors import APIError, NotFoundError

from parley.broker.core.errors import TopologyMismatch
from parley.broker.core.messages import MAX_TIMEOUT_SECONDS

# ── names ─────────────────────────────────────────────────────────────────────────────────────────────────────────

REQUESTED = "deliberation.requested"
CANCEL = "deliberation.cancel"
COMPLETED = "deliberation.completed"
FAILED = "deliberation.failed"
TIMER = "deliberation.timer"
DEADLINE = "deliberation.deadline"
GET = "deliberation.get"
AGENT_REQUESTED = "agent.requested"
AGENT_COMPLETED = "agent.response.completed"
AGENT_FAILED = "agent.response.failed"
AGENT_CANCEL = "agent.cancel"
DEAD_LETTER = "deadletter"

REQUESTS = "REQUESTS"
DELIBERATIONS = "DELIBERATIONS"
AGENT_REQUESTS = "AGENT_REQUESTS"
AGENT_RESPONSES = "AGENT_RESPONSES"
DEAD_LETTERS = "DEAD_LETTERS"
TALLIES_BUCKET = "deliberations"
TALLIES = f"KV_{TALLIES_BUCKET}"
RESULTS_BUCKET = "results"
RESULTS = f"OBJ_{RESULTS_BUCKET}"

# ── bounds ────────────────────────────────────────────────────────────────────────────────────────────────────────

# A deadline may lie a day ahead, and its timer waits in the stream until then. The second day is for late readers.
HISTORY_SECONDS = 2 * MAX_TIMEOUT_SECONDS
# Dead letters wait for an operator.
DEAD_LETTERS_SECONDS = 14 * 86_400.0
# How long JetStream remembers an ending's Nats-Msg-Id. After that the mark in the tally prevents a second ending.
ENDING_DUPLICATE_SECONDS = 3_600.0
# A worker's outcome or a fan-out is repeated within seconds of its first try, or after `ack_wait`.
WORK_DUPLICATE_SECONDS = 120.0
# A message that is not settled is delivered again after this long. Workers signal progress three times within it.
ACK_WAIT_SECONDS = 30.0
# Messages delivered and not settled, over all replicas. Above any pool we know of, and within what a server keeps
# easily.
MAX_ACK_PENDING = 50_000
# Pull requests that wait at the server: one a replica, with room for those that a reconnect left behind.
MAX_WAITING = 512


@dataclass(frozen=True, slots=True)
class Durable:
    """A durable pull consumer. `filter`: the subject that it consumes.

    `ack_wait_seconds` None: the deployment's setting, for work that may take long and is kept alive by progress
    signals.
    """

    stream: str
    name: str
    filter: str
    ack_wait_seconds: float | None = None


# These messages take milliseconds to handle, and a handler signals progress where one takes longer. An ending is
# promised within a second after its deadline, even if the process that handles the deadline, or the request, dies.
QUICK_ACK_WAIT_SECONDS = 1.0
DEADLINE_ACK_WAIT_SECONDS = 0.5

INTAKE = Durable(REQUESTS, "intake", REQUESTED, QUICK_ACK_WAIT_SECONDS)
CANCELLER = Durable(REQUESTS, "cancel", CANCEL, QUICK_ACK_WAIT_SECONDS)
EXPIRY = Durable(DELIBERATIONS, "expire", f"{DEADLINE}.*", DEADLINE_ACK_WAIT_SECONDS)
DISPATCH = Durable(AGENT_REQUESTS, "dispatch", AGENT_REQUESTED)
AGGREGATE = Durable(AGENT_RESPONSES, "aggregate", "agent.response.*", QUICK_ACK_WAIT_SECONDS)

DURABLES = (INTAKE, CANCELLER, EXPIRY, DISPATCH, AGGREGATE)


def timer_subject(task_id: str) -> str:
    return f"{TIMER}.{task_id}"


def purge_timer_headers(task_id: str) -> dict[str, str]:
    """A message of DELIBERATIONS that is stored with these headers cancels the timer of `task_id`."""
    return {"Nats-Schedule-Next": "purge", "Nats-Scheduler": timer_subject(task_id)}


def deadline_subject(task_id: str) -> str:
    return f"{DEADLINE}.{task_id}"


def tally_subject(task_id: str) -> str:
    return f"$KV.{TALLIES_BUCKET}.{task_id}"


def dead_letter_subject(subject: str) -> str:
    return f"{DEAD_LETTER}.{subject}"


# ── streams ───────────────────────────────────────────────────────────────────────────────────────────────────────


def streams(*, replicas: int = 1, keep_seconds: float = 3_600.0) -> tuple[StreamConfig, ...]:
    """Every stream. `keep_seconds`: how long a tally outlives its ending. An ending's Msg-Id is remembered no longer
    than that."""

    def stream(name: str, *subjects: str, **more: object) -> StreamConfig:
        shared = {"storage": api.StorageType.FILE, "num_replicas": replicas, "allow_direct": True}
        own = {"retention": api.RetentionPolicy.LIMITS, "max_age": HISTORY_SECONDS, **more}
        # nats-py types its dataclass loosely.
        return StreamConfig(name=name, subjects=[*subjects], **shared, **own)  # type: ignore[arg-type]

    work = {"duplicate_window": WORK_DUPLICATE_SECONDS}
    bucket = {"discard": api.DiscardPolicy.NEW, "allow_rollup_hdrs": True}
    # The server turns roll-up headers on with schedules.
    timers = {"allow_msg_schedules": True, "allow_msg_ttl": True, "allow_rollup_hdrs": True}
    remembered = min(ENDING_DUPLICATE_SECONDS, keep_seconds)
    subjects = (COMPLETED, FAILED, f"{TIMER}.*", f"{DEADLINE}.*")
    one_each = {"max_msgs_per_subject": 1, "allow_msg_ttl": True, "deny_delete": True}
    return (
        # Apart: on a stream with schedules the server obeys headers of whoever may publish (Nats-Rollup,
        # Nats-Schedule-Target): a client could empty the stream or forge an ending. This one refuses them.
        stream(REQUESTS, REQUESTED, CANCEL, duplicate_window=remembered),
        stream(DELIBERATIONS, *subjects, duplicate_window=remembered, **timers),
        stream(AGENT_REQUESTS, AGENT_REQUESTED, retention=api.RetentionPolicy.WORK_QUEUE, **work),
        stream(AGENT_RESPONSES, "agent.response.*", **work),
        stream(DEAD_LETTERS, f"{DEAD_LETTER}.>", max_age=DEAD_LETTERS_SECONDS),
        stream(TALLIES, tally_subject(">"), **bucket, **one_each),
        stream(RESULTS, f"$O.{RESULTS_BUCKET}.C.>", f"$O.{RESULTS_BUCKET}.M.>", **bucket),
    )


def consumer(durable: Durable, ack_wait_seconds: float = ACK_WAIT_SECONDS) -> ConsumerConfig:
    """The server delivers without limit. A message past `max_deliver` would stay in the work queue for ever, and the
    advisory has no payload (nats-server#5049). `parley.handlers.settle` counts deliveries and dead-letters the whole
    message instead."""
    return ConsumerConfig(
        durable_name=durable.name,
        filter_subject=durable.filter,
        ack_policy=api.AckPolicy.EXPLICIT,
        ack_wait=min(ack_wait_seconds, durable.ack_wait_seconds or ack_wait_seconds),
        max_deliver=-1,
        max_ack_pending=MAX_ACK_PENDING,
        max_waiting=MAX_WAITING,
    )


# ── provisioning ──────────────────────────────────────────────────────────────────────────────────────────────────


async def provision(
    js: JetStreamContext,
    *,
    replicas: int = 1,
    keep_seconds: float = 3_600.0,
    ack_wait_seconds: float = ACK_WAIT_SECONDS,
    create: bool = True,
) -> list[str]:
    """Create what is missing. Returns what was created; with `create=False`, what is missing.

    Raises TopologyMismatch if a live stream or consumer differs or the server refuses a stream (more replicas than
    servers, say). Nothing that exists is ever changed.
    """
    made: list[str] = []
    differences: list[str] = []
    refused: list[str] = []
    for wanted in streams(replicas=replicas, keep_seconds=keep_seconds):
        assert wanted.name is not None
        try:
            live = (await js.stream_info(wanted.name)).config
        except NotFoundError:
            made.append(f"stream {wanted.name}")
            try:
                if create:
                    await js.add_stream(wanted)
            except APIError as error:
                refused.append(f"stream {wanted.name}: refused by the server: {error.description}")
            continue
        differences += _differences(f"stream {wanted.name}", wanted, live)
    if refused:
        raise TopologyMismatch([*refused, *differences])
    for durable in DURABLES:
        expected = consumer(durable, ack_wait_seconds)
        try:
            there = (await js.consumer_info(durable.stream, durable.name)).config
        except NotFoundError:
            made.append(f"consumer {durable.stream}/{durable.name}")
            if create:
                await js.add_consumer(durable.stream, await _resumed(js, durable, expected, keep_seconds))
            continue
        differences += _differences(f"consumer {durable.stream}/{durable.name}", expected, there)
    if differences:
        raise TopologyMismatch(differences)
    return made


async def _resumed(
    js: JetStreamContext, durable: Durable, config: ConsumerConfig, keep_seconds: float
) -> ConsumerConfig:
    """The configuration for a consumer that was lost. In a stream with messages it begins where tallies are still
    kept. From the beginning it would run two days of requests again that have had their endings."""
    if durable.stream == AGENT_REQUESTS or not (await js.stream_info(durable.stream)).state.messages:
        return config
    since = datetime.now(UTC) - timedelta(seconds=keep_seconds)
    return config.evolve(deliver_policy=api.DeliverPolicy.BY_START_TIME, opt_start_time=since)


_STREAM_FIELDS = (
    "subjects retention discard max_age max_msgs_per_subject num_replicas duplicate_window allow_rollup_hdrs "
    "allow_direct allow_msg_ttl allow_msg_schedules"
)
_CONSUMER_FIELDS = "filter_subject ack_policy ack_wait max_deliver max_ack_pending max_waiting"


def _differences(
    what: str, wanted: StreamConfig | ConsumerConfig, live: StreamConfig | ConsumerConfig
) -> Iterable[str]:
    fields = _STREAM_FIELDS if isinstance(wanted, StreamConfig) else _CONSUMER_FIELDS
    for name in fields.split():
        expected, found = getattr(wanted, name), getattr(live, name)
        # Where the declaration leaves a field to the server's default, the operator may choose.
        unset = expected is None or (name == "duplicate_window" and not expected)
        if not unset and expected != found:
            # Of an enum its value, as the server writes it.
            found, expected = getattr(found, "value", found), getattr(expected, "value", expected)
            yield f"{what}: {name} is {found}, declared {expected}"
