"""One delivered JetStream message: what it says about itself, and how to settle it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from nats.aio.msg import Msg
from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema

from parley.broker.core.messages import Message, decode
from parley.broker.core.traceparent import traceparent

# A union of messages counts as one: outcomes come in two kinds.
Payload = TypeVar("Payload")
Kind = TypeVar("Kind", bound=Message)


@dataclass(frozen=True, slots=True)
class Delivery(Generic[Payload]):
    """`seq`: its place in the stream. `at`: when it was stored, on the server's clock. `count`: which delivery this is, from 1."""

    msg: Msg
    seq: int
    at: float
    count: int

    @classmethod
    def of(cls, msg: Msg) -> "Delivery[Payload]":
        # "$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<timestamp ns>.<pending>", with a domain and an
        # account hash in front of the stream on some servers. Read here because nats-py's metadata builds datetimes that cost
        # more than the rest of a delivery; it stays the fallback for anything unexpected.
        parts = msg.reply.split(".")
        if len(parts) == 9:
            return cls(msg, int(parts[5]), int(parts[7]) / 1e9, int(parts[4]))
        metadata = msg.metadata
        stored: datetime = metadata.timestamp
        return cls(msg, metadata.sequence.stream, stored.timestamp(), metadata.num_delivered)

    @property
    def data(self) -> bytes:
        return self.msg.data

    @property
    def headers(self) -> dict[str, str]:
        return self.msg.headers or {}

    @property
    def traceparent(self) -> str | None:
        return traceparent(self.headers.get("traceparent"))

    def payload(self, kind: type[Kind]) -> Kind:
        """The payload. Raises InvalidMessage."""
        return decode(kind, self.msg.data)

    async def ack(self) -> None:
        await self.msg.ack()

    async def nak(self, delay_seconds: float = 0.0) -> None:
        await self.msg.nak(delay=delay_seconds or None)


class Batch(list[Delivery[Payload]], Generic[Payload]):
    """What one fetch brought. In the AsyncAPI document it is shown as the payload of one message."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        (payload,) = source.__args__
        return handler(payload)
