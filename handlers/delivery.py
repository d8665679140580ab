"""One delivered JetStream message: what it says about itself, and how to settle it."""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from nats.aio.msg import Msg
from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema

from parley.broker.core.messages import Message, decode
from parley.broker.core.traceparent import parse_traceparent
from parley.broker.jetstream.acks import parse_reply

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
        return cls(msg, *parse_reply(msg.reply))

    @property
    def data(self) -> bytes:
        return self.msg.data

    @property
    def headers(self) -> dict[str, str]:
        return self.msg.headers or {}

    @property
    def traceparent(self) -> str | None:
        return parse_traceparent(self.headers.get("traceparent"))

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
