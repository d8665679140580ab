"""How a job travels to an actor: a core NATS message on the actor's own inbox, which its event loop reads by itself.

As a call of Ray's the same job wakes five threads in two processes on its way.
"""

from dataclasses import dataclass

from parley.broker.core.errors import InvalidMessage
from parley.broker.core.traceparent import parse_traceparent
from parley.broker.jetstream import topology
from parley.broker.jetstream.acks import reply_pattern

# Both together: the most that waits for an actor to read it, 8 MiB. nats-server cuts a reader off that has 64 MiB to read. What is larger, or one
# more, goes as a call.
MAX_JOB_BYTES = 32 * 1024
MAX_UNCONFIRMED = 256
# The worker publishes to a job's reply subject: it must not be made to write on any other subject.
_REPLY = reply_pattern(topology.DISPATCH.stream, topology.DISPATCH.name)


@dataclass(frozen=True, slots=True)
class Job:
    """`reply` settles the message and is unique to this delivery; it is the job's key. Plain values: it crosses to an actor."""

    reply: str
    body: bytes
    traceparent: str | None = None


def pack(job: Job) -> bytes | None:
    """The job as one message; None for one that is too large. Not in headers: a server takes no `$JS.ACK` for a reply subject from a client."""
    parcel = b"\n".join((job.reply.encode(), (job.traceparent or "").encode(), job.body))
    return parcel if len(parcel) <= MAX_JOB_BYTES else None


def unpack(parcel: bytes) -> Job:
    """What `pack` made. Raises InvalidMessage."""
    if len(parcel) > MAX_JOB_BYTES:
        raise InvalidMessage([f"over {MAX_JOB_BYTES} bytes"])
    try:
        reply, traceparent, body = parcel.split(b"\n", 2)
        job = Job(reply.decode(), body, parse_traceparent(traceparent.decode()))
    except ValueError as error:
        raise InvalidMessage([f"no job: {error}"]) from error
    if not _REPLY.fullmatch(job.reply):
        raise InvalidMessage(["reply: settles no work"])
    return job
