"""A job, and the core NATS message that carries it to an actor's own inbox, which the actor's event loop reads.

A Ray call carries the same job, but it wakes five threads in two processes.
"""

from dataclasses import dataclass

from parley.broker.core.errors import InvalidMessage
from parley.broker.core.traceparent import parse_traceparent
from parley.broker.jetstream import topology
from parley.broker.jetstream.acks_and_pulls import reply_pattern

# The two limits together bound what waits for an actor to read it: 8 MiB. nats-server disconnects a reader that has
# 64 MiB to read. A larger job, or one too many, goes as a call.
MAX_JOB_BYTES = 32 * 1024
MAX_UNCONFIRMED = 256
# The worker publishes to a job's key: a forged job must not make it write on any other subject.
_KEY = reply_pattern(topology.DISPATCH.stream, topology.DISPATCH.name)


@dataclass(frozen=True, slots=True)
class AgentJob:
    """`key`: the subject that settles its delivery, unique to it. Plain values: a job crosses to an actor."""

    key: str
    body: bytes
    traceparent: str | None = None


def pack(job: AgentJob) -> bytes | None:
    """The job as one message; None if it is over `MAX_JOB_BYTES`.

    The key is in the payload because a server takes no `$JS.ACK` subject as the reply subject of a client's message.
    """
    message = b"\n".join((job.key.encode(), (job.traceparent or "").encode(), job.body))
    return message if len(message) <= MAX_JOB_BYTES else None


def unpack(message: bytes) -> AgentJob:
    """The job in a message that `pack` made. Raises InvalidMessage."""
    if len(message) > MAX_JOB_BYTES:
        raise InvalidMessage([f"over {MAX_JOB_BYTES} bytes"])
    try:
        key, traceparent, body = message.split(b"\n", 2)
        job = AgentJob(key.decode(), body, parse_traceparent(traceparent.decode()))
    except ValueError as error:
        raise InvalidMessage([f"no job: {error}"]) from error
    if not _KEY.fullmatch(job.key):
        raise InvalidMessage(["key: settles no work"])
    return job
