"""A model server as it is configured: its address, how it is reached, what it has and how much it may be asked."""

from dataclasses import dataclass, field

from parley.workers.model.endpoint_address import Endpoint
from parley.workers.model.server_access import ServerAccess


@dataclass(frozen=True, slots=True)
class ModelServer:
    """`models`: the only ones that it is asked for; None: what it lists. Plain values: it crosses to an actor.

    `concurrency`: calls at once, and `tokens_per_minute`, of prompts and answers in any 60 seconds, each of all workers
    together; None: no limit. `weight`: how many tasks prefer it, beside those of the other servers.
    """

    url: str = field(repr=False)  # it may hold a password
    api_key: str | None = field(default=None, repr=False)
    access: ServerAccess = field(default_factory=ServerAccess)
    models: tuple[str, ...] | None = None
    concurrency: int | None = None
    tokens_per_minute: int | None = None
    weight: float = 1.0

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.url)

    @property
    def limited(self) -> bool:
        return self.concurrency is not None or self.tokens_per_minute is not None
