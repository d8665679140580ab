"""One delivered JetStream message: its metadata, its payload, and the three ways in which a handler may settle it."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from nats.aio.msg import Msg

from parley.broker.core.headers_and_ids import find_header
from parley.broker.core.messages import Message, decode
from parley.broker.core.traceparent import parse_traceparent
from parley.broker.jetstream.acks_and_pulls import parse_reply

# A union of messages counts as one: outcomes come in two kinds.
Payload = TypeVar("Payload")
Kind = TypeVar("Kind", bound=Message)


@dataclass(frozen=True, slots=True)
class Delivery(Generic[Payload]):
    """`seq`: its place in the stream. `at`: when the server stored it, in seconds since the epoch by the server's
    clock. `count`: which delivery this is, from 1."""

    msg: Msg
    seq: int
    at: float
    count: int

    @classmethod
    def of(cls, msg: Msg) -> "Delivery[Payload]":
        return cls(msg, *parse_reply(msg.reply))

    @property
    def data(self) -> bytes:
        return self.msg.data

    @property
    def headers(self) -> dict[str, str]:
        return self.msg.headers or {}

    @property
    def traceparent(self) -> str | None:
        return parse_traceparent(find_header(self.headers, "traceparent"))

    def payload(self, kind: type[Kind]) -> Kind:
        """The payload. Raises InvalidMessage."""
        return decode(kind, self.msg.data)

    def without_payload(self) -> "Delivery[Payload]":
        """The same delivery for what must not read its payload."""
        msg = Msg(self.msg._client, self.msg.subject, self.msg.reply, b"", self.msg.headers)
        return Delivery(msg, self.seq, self.at, self.count)

    async def ack(self) -> None:
        await self.msg.ack()

    async def nak(self, delay_seconds: float = 0.0) -> None:
        await self.msg.nak(delay=delay_seconds or None)


@dataclass(frozen=True, slots=True)
class Ack:
    """The message is done with."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Deliver the message again after `seconds`."""

    seconds: float


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Keep the message whole in DEAD_LETTERS, with the `reason`."""

    reason: str


Settlement = Ack | Retry | DeadLetter
ACK = Ack()
