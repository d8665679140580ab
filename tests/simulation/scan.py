"""Replaces `parley.broker.jetstream.scan.scan`: the same messages, read in one step."""

from collections.abc import AsyncGenerator
from typing import Any

from nats.aio.msg import Msg

from parley.broker.jetstream.jetstream import JetStream
from tests.simulation.link import Link


async def scan(
    jetstream: JetStream, stream: str, subject: str, *, first: int = 1, since: float | None = None, **how: Any
) -> AsyncGenerator[Msg, None]:
    link: Any = jetstream.nc
    assert isinstance(link, Link)
    with jetstream.translate_errors():
        messages = await link.jetstream().everything(stream)
    for message in messages:
        wanted = _matches(message.subject, subject)
        recent = message.metadata.timestamp.timestamp() >= (since or 0.0)
        if wanted and recent and message.metadata.sequence.stream >= first:
            yield message


def _matches(subject: str, wanted: str) -> bool:
    """`wanted`: a subject, or one that ends with a wildcard."""
    prefix, wildcard = wanted[:-1], wanted[-1]
    if wildcard == "*":
        return subject.startswith(prefix) and "." not in subject.removeprefix(prefix)
    return subject.startswith(prefix) if wildcard == ">" else subject == wanted
