"""Stands in for `broker.reading.walk`: the same messages, read in one step."""

from collections.abc import AsyncGenerator
from typing import Any

from nats.aio.msg import Msg

from broker.connection import Wire
from tests.simulation.link import Link


async def walk(wire: Wire, stream: str, subject: str, *, first: int = 1, **how: Any) -> AsyncGenerator[Msg, None]:
    link: Any = wire.nc
    assert isinstance(link, Link)
    with wire.translated():
        messages = await link.jetstream().everything(stream)
    for message in messages:
        wanted = message.subject.startswith(subject[:-1]) if subject.endswith(">") else message.subject == subject
        if wanted and message.metadata.sequence.stream >= first:
            yield message
