"""The streams, consumers and buckets that Parley needs, as data. `provision` creates them.

A KV bucket and an object store are streams with certain names (`KV_…`, `OBJ_…`) and are declared like the others.
"""

from dataclasses import dataclass

from nats.js import api
from nats.js.api import ConsumerConfig, StreamConfig

from parley.broker.core.messages import MAX_TIMEOUT_SECONDS

# ── names ─────────────────────────────────────────────────────────────────────────────────────────────────────────

REQUESTED = "deliberation.requested"
CANCEL = "deliberation.cancel"
COMPLETED = "deliberation.completed"
FAILED = "deliberation.failed"
TIMER = "deliberation.timer"
DEADLINE = "deliberation.deadline"
GET = "deliberation.get"
SERVICE = "deliberation.service"
AGENT_REQUESTED = "agent.requested"
AGENT_COMPLETED = "agent.response.completed"
AGENT_FAILED = "agent.response.failed"
AGENT_CANCEL = "agent.cancel"
AGENT_RUNNING = "agent.running"
DEAD_LETTER = "deadletter"
SUSPECT = "suspect"

REQUESTS = "REQUESTS"
DELIBERATIONS = "DELIBERATIONS"
AGENT_REQUESTS = "AGENT_REQUESTS"
AGENT_RESPONSES = "AGENT_RESPONSES"
DEAD_LETTERS = "DEAD_LETTERS"
SUSPECTS = "SUSPECTS"
TALLIES_BUCKET = "deliberations"
TALLIES = f"KV_{TALLIES_BUCKET}"
RESULTS_BUCKET = "results"
RESULTS = f"OBJ_{RESULTS_BUCKET}"
LIMITS_BUCKET = "limits"
LIMITS = f"KV_{LIMITS_BUCKET}"

# ── bounds ────────────────────────────────────────────────────────────────────────────────────────────────────────

# A deadline may lie a day ahead, and its timer waits in the stream until then. The second day is for late readers.
HISTORY_SECONDS = 2 * MAX_TIMEOUT_SECONDS
# Dead letters wait for an operator.
DEAD_LETTERS_SECONDS = 14 * 86_400.0
# A message that kills its processes comes again within seconds, or when a supervisor has waited for minutes.
SUSPECTS_SECONDS = 3_600.0
# What workers took of a model server's limit is renewed within seconds, and forgotten after a minute.
LIMITS_SECONDS = 3_600.0
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

# What each stream may hold, as a share of the storage budget. A quarter of the budget is in no share: timers and
# endings (DELIBERATIONS has no limit of its own, because schedules allow only one that drops the oldest timer).
# TALLIES: a part of its share is for tallies that exist (`parley.handlers.intake_backpressure`).
SHARES = {
    REQUESTS: 1 / 16,
    AGENT_REQUESTS: 1 / 16,
    AGENT_RESPONSES: 1 / 8,
    DEAD_LETTERS: 1 / 16,
    TALLIES: 5 / 16,
    RESULTS: 1 / 8,
}
# The largest budget that is taken unasked: 2 GiB for answers, and as much for large endings.
LARGEST_BUDGET_BYTES = 16 * 2**30
# With less than this no stream can keep a message of ordinary size.
SMALLEST_BUDGET_BYTES = 2**20


def max_bytes(stream: str, budget_bytes: int) -> int:
    """The limit of a stream in bytes; -1: none."""
    return int(budget_bytes * SHARES[stream]) if stream in SHARES else -1


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

# Until 0.1.0 requests and cancels were in DELIBERATIONS. What is left there is taken in from there.
OLD_INTAKE = Durable(DELIBERATIONS, "intake", REQUESTED, QUICK_ACK_WAIT_SECONDS)
OLD_CANCELLER = Durable(DELIBERATIONS, "cancel", CANCEL, QUICK_ACK_WAIT_SECONDS)


def timer_subject(task_id: str) -> str:
    return f"{TIMER}.{task_id}"


def purge_timer_headers(task_id: str) -> dict[str, str]:
    """A message of DELIBERATIONS that is stored with these headers cancels the timer of `task_id`."""
    return {"Nats-Schedule-Next": "purge", "Nats-Scheduler": timer_subject(task_id)}


def deadline_subject(task_id: str) -> str:
    return f"{DEADLINE}.{task_id}"


def tally_subject(task_id: str) -> str:
    return f"$KV.{TALLIES_BUCKET}.{task_id}"


def limit_subject(name: str) -> str:
    return f"$KV.{LIMITS_BUCKET}.{name}"


def dead_letter_subject(subject: str) -> str:
    return f"{DEAD_LETTER}.{subject}"


def suspect_subject(durable: Durable, seq: int) -> str:
    return f"{SUSPECT}.{durable.stream}.{durable.name}.{seq}"


# ── streams ───────────────────────────────────────────────────────────────────────────────────────────────────────


def streams(
    *,
    replicas: int = 1,
    keep_seconds: float = 3_600.0,
    budget_bytes: int | None = None,
    limits: bool = False,
) -> tuple[StreamConfig, ...]:
    """Every stream. `limits`: also that of the limits of model servers, which is needed where one has any. `keep_seconds`: how long a tally outlives its ending. An ending's Msg-Id is remembered no longer
    than that. `budget_bytes`: the storage of which each has its share; None: no limits."""

    def stream(name: str, *subjects: str, **more: object) -> StreamConfig:
        shared = {"storage": api.StorageType.FILE, "num_replicas": replicas, "allow_direct": True}
        own = {"retention": api.RetentionPolicy.LIMITS, "max_age": HISTORY_SECONDS, **more}
        if name in SHARES:
            # A full stream refuses what is new. What it holds is still needed.
            own["discard"] = api.DiscardPolicy.NEW
            own["max_bytes"] = -1 if budget_bytes is None else max_bytes(name, budget_bytes)
        # nats-py types its dataclass loosely.
        return StreamConfig(name=name, subjects=[*subjects], **shared, **own)  # type: ignore[arg-type]

    work = {"duplicate_window": WORK_DUPLICATE_SECONDS}
    bucket = {"allow_rollup_hdrs": True}
    # The server turns roll-up headers on with schedules.
    timers = {"allow_msg_schedules": True, "allow_msg_ttl": True, "allow_rollup_hdrs": True}
    last_word = {**bucket, "max_msgs_per_subject": 1, "deny_delete": True}
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
        # How often a message was begun and not finished (`crash_suspects.py`): the last word on each.
        stream(SUSPECTS, f"{SUSPECT}.*.*.*", max_age=SUSPECTS_SECONDS, max_msgs_per_subject=1),
        stream(TALLIES, tally_subject(">"), **bucket, **one_each),
        stream(RESULTS, f"$O.{RESULTS_BUCKET}.C.>", f"$O.{RESULTS_BUCKET}.M.>", **bucket),
        # What the workers have taken of each limit (`limit_store.py`): the last word on it.
        *((stream(LIMITS, limit_subject(">"), max_age=LIMITS_SECONDS, **last_word),) if limits else ()),
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
