"""Replaces `parley.broker.jetstream.scan.scan`: the same messages, read in one step."""

from collections.abc import AsyncGenerator
from typing import Any

from nats.aio.msg import Msg

from parley.broker.jetstream.jetstream import JetStream
from tests.simulation.link import Link


async def scan(
    jetstream: JetStream, stream: str, subject: str, *, first: int = 1, since: float = 0.0, **how: Any
) -> AsyncGenerator[Msg, None]:
    link: Any = jetstream.nc
    assert isinstance(link, Link)
    with jetstream.translate_errors():
        messages = await link.jetstream().everything(stream)
    for message in messages:
        wanted = (
            message.subject.startswith(subject[:-1]) if subject.endswith(">") else message.subject == subject
        )
        recent = message.metadata.timestamp.timestamp() >= since
        if wanted and recent and message.metadata.sequence.stream >= first:
            yield message
