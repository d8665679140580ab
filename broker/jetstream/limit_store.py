"""What the workers have taken of a model server's limit: one small message a server, replaced by compare-and-set."""

from dataclasses import dataclass

from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream


@dataclass(frozen=True, slots=True)
class LimitStore:
    jetstream: JetStream

    async def read(self, name: str) -> tuple[bytes | None, int]:
        """What is stored under this name, and its revision. Raises BrokerUnavailable."""
        stored = await self.jetstream.get_last(topology.LIMITS, topology.limit_subject(name))
        return (None, 0) if stored is None else (stored.data, stored.seq)

    async def write(self, name: str, body: bytes, revision: int) -> int:
        """Replace what has this revision; return the new one. Raises Conflict if another was stored meanwhile, and
        BrokerUnavailable."""
        headers = {"Nats-Expected-Last-Subject-Sequence": str(revision)}
        ack = await self.jetstream.publish(topology.limit_subject(name), body, headers=headers)
        return ack.seq
