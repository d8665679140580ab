"""Whether the stream of outcomes has room. Workers publish there, so no process of the service is refused when it is full:
it is told from how much the stream holds.

REQUESTS and AGENT_REQUESTS may be full: that is a queue at its limit, and the next message waits with its sender.
"""

from parley.broker.jetstream import topology
from parley.broker.jetstream.provision import Findings

# Bytes. An outcome with a short answer.
SMALL_MESSAGE = 2_048


def is_full(stored_bytes: int, messages: int, max_bytes: int | None) -> bool:
    """Whether another message of the usual size does not fit."""
    if max_bytes is None or max_bytes <= 0:
        return False
    usual = max(SMALL_MESSAGE, stored_bytes // messages if messages else 0)
    return stored_bytes + usual > max_bytes


class FullStreams:
    def __init__(self) -> None:
        # What is full, as of the last look; None: nothing.
        self.problem: str | None = None

    async def on_look(self, found: Findings) -> None:
        name = topology.AGENT_RESPONSES
        info = found.streams.get(name)
        limit = info.config.max_bytes if info is not None else None
        full = info is not None and is_full(info.state.bytes, info.state.messages, limit)
        told = f"{name} is full ({limit} bytes): no outcome of an agent can be stored; raise its limit (max_bytes)"
        self.problem = told if full else None
