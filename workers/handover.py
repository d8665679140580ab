"""How a job travels to an actor: a core NATS message on the actor's own inbox, which its event loop reads by itself.

As a call of Ray's the same job wakes five threads in two processes on its way. What is large goes that way all the same, so that no more
than a few MiB ever wait for one connection.
"""

import re
from dataclasses import dataclass

from broker.errors import BadMessage

# The most that all slots of an actor can have on their way is then 8 MiB with 256 of them; nats-server cuts a reader off that has 64 MiB to read.
PARCEL_BYTES = 32 * 1024
# What settles a delivery (nats-server: `$JS.ACK.<stream>…`, or `$JS.ACK.<domain>.<account>.<stream>…`). The worker publishes there: it is
# not to be made to write on any other subject.
_REPLY = re.compile(r"\$JS\.ACK\.[^\s*>]+")


@dataclass(frozen=True, slots=True)
class Job:
    """`reply` settles the message and is unique to this delivery; it is the job's key. Plain values: it crosses to an actor."""

    reply: str
    body: bytes
    traceparent: str | None = None


def pack(job: Job) -> bytes | None:
    """The job as one message; None for one that is too large. Not in headers: a server takes no `$JS.ACK` for a reply subject from a client."""
    parcel = b"\n".join((job.reply.encode(), (job.traceparent or "").encode(), job.body))
    return parcel if len(parcel) <= PARCEL_BYTES else None


def unpack(parcel: bytes) -> Job:
    """What `pack` made. Raises BadMessage."""
    try:
        reply, traceparent, body = parcel.split(b"\n", 2)
        job = Job(reply.decode(), body, traceparent.decode() or None)
    except ValueError as error:
        raise BadMessage([f"no job: {error}"]) from error
    if not _REPLY.fullmatch(job.reply):
        raise BadMessage(["reply: settles no delivery"])
    return job
