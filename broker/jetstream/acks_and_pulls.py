"""What a JetStream consumer sends and reads by itself: acknowledgements, reply subjects, pull requests.

JetStream settles a message by what is published to its reply subject, so any process that knows the subject can
settle it.
"""

import json
import re

from nats.aio.msg import Msg
from nats.errors import NotJSMessageError

# Settled: JetStream does not deliver it again.
ACK = b"+ACK"
# Still in progress: JetStream waits another `ack_wait` before it delivers the message again.
IN_PROGRESS = b"+WPI"

_BATCH_LIMIT = re.compile(r"Exceeded MaxRequestBatch of ([0-9]{1,9})")
_TOKEN = r"[^\s.*>]{1,64}"
# Tokens of a reply subject without and with a domain. A server that knows domains may add one more.
_PLAIN_TOKENS = 9
_DOMAIN_TOKENS = 11


def nak(delay_seconds: float = 0.0) -> bytes:
    """Not settled: JetStream delivers the message again, after a delay if there is one."""
    if not delay_seconds:
        return b"-NAK"
    return b"-NAK " + json.dumps({"delay": int(delay_seconds * 1e9)}).encode()


def parse_reply(reply: str) -> tuple[int, float, int]:
    """What a delivered message's reply subject says: its sequence in the stream, when it was stored (seconds since
    the epoch, on the server's clock), and which delivery this is, from 1. Raises nats-py's NotJSMessageError for any
    other subject.

    The subject is `$JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<timestamp ns>.<pending>`;
    some servers put a domain and an account hash before the stream, and a random token at the end. nats-py's own
    `Msg.metadata` builds datetimes, which cost more than the rest of a delivery.
    """
    tokens = reply.split(".")
    if len(tokens) == _PLAIN_TOKENS:
        count, seq, stored_at = tokens[4], tokens[5], tokens[7]
    elif len(tokens) >= _DOMAIN_TOKENS:
        count, seq, stored_at = tokens[6], tokens[7], tokens[9]
    else:
        raise NotJSMessageError
    if not reply.startswith("$JS.ACK."):
        raise NotJSMessageError
    return int(seq), int(stored_at) / 1e9, int(count)


def reply_pattern(stream: str, consumer: str) -> re.Pattern[str]:
    """Matches (`fullmatch`) the reply subjects of this consumer and no other subject: a process that is told a reply
    subject from outside must not be made to publish anywhere else."""
    domain, numbers, token = rf"(?:{_TOKEN}\.{_TOKEN}\.)?", r"(?:\.\d{1,20}){5}", rf"(?:\.{_TOKEN})?"
    return re.compile(rf"\$JS\.ACK\.{domain}{re.escape(stream)}\.{re.escape(consumer)}{numbers}{token}")


def next_subject(stream: str, consumer: str) -> str:
    """The subject to send `pull_request` to."""
    return f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"


def pull_request(batch: int, *, expires_seconds: float | None = None, max_bytes: int | None = None) -> bytes:
    """Ask for up to `batch` messages of at most `max_bytes` together. The request waits at the server for
    `expires_seconds`; None: it does not wait."""
    wait = {"no_wait": True} if expires_seconds is None else {"expires": int(expires_seconds * 1e9)}
    bound = {} if max_bytes is None else {"max_bytes": max_bytes}
    return json.dumps({"batch": batch, **wait, **bound}).encode()


def batch_limit(description: str) -> int | None:
    """The most messages of one request, where a status says that a request was for more (max_request_batch); else
    None."""
    found = _BATCH_LIMIT.fullmatch(description.strip())
    return max(1, int(found[1])) if found else None


def size_of(message: Msg) -> int:
    """The size of a delivered message as the server counts it against `max_bytes`."""
    size = len(message.data) + len(message.subject) + len(message.reply)
    if message.headers:
        # "NATS/1.0\r\n", then "key: value\r\n" each, then "\r\n".
        size += 12 + sum(len(key) + len(value) + 4 for key, value in message.headers.items())
    return size
