"""How a worker is configured. Plain values: it crosses to an actor."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from parley.broker.jetstream.nats_access import PLAIN, NatsAccess
from parley.workers.model.breaker import BreakerPolicy
from parley.workers.model.call_policy import CallTimeouts, RetryPolicy
from parley.workers.model.model_server import ModelServer


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """Everything that a worker needs to know. `model`: asked for where a request names none."""

    nats_url: str
    servers: tuple[ModelServer, ...]
    model: str
    timeouts: CallTimeouts
    retry: RetryPolicy
    stream: bool
    slots: int
    ack_wait_seconds: float
    drain_seconds: float
    breaker_policy: BreakerPolicy = field(default_factory=BreakerPolicy)
    nats_access: NatsAccess = PLAIN
    roles: Mapping[str, str] = field(default_factory=dict)
