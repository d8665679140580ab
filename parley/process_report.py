"""What this process says of itself to who asks who serves: its parts, its agents, and why it is not ready."""

import os
import socket
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from parley.asked_servers import AskedServers
from parley.broker.core.messages import MAX_LISTED_ENDPOINTS, MAX_PROBLEM_CHARACTERS, ServiceProcess
from parley.monitoring.check_runner import Check, problems
from parley.workers.pool.pool import Pool


def process_name() -> str:
    """This process among all of a deployment: `host-pid`."""
    return f"{socket.gethostname()}-{os.getpid()}"


@dataclass(frozen=True, slots=True)
class ProcessReport:
    """`checks`: as behind /readyz. `started_at`: RFC 3339. `model`, `asked`: what its agents ask."""

    parts: Collection[str]
    version: str
    started_at: str
    model: str
    asked: AskedServers | None
    pool: Pool | None
    checks: Mapping[str, Check]
    notes: Callable[[], Mapping[str, str]]

    async def __call__(self) -> ServiceProcess:
        """Look now. Takes as long as the slowest check, 3 s at most."""
        found = await problems(self.checks)
        pool, asked = self.pool, self.asked
        return ServiceProcess(
            process=process_name(),
            parts=tuple(sorted(self.parts)),
            version=self.version,
            started_at=self.started_at,
            model=self.model if pool else "",
            endpoints=tuple(map(str, asked.endpoints))[:MAX_LISTED_ENDPOINTS] if asked else (),
            slots=pool.slots if pool else 0,
            busy=pool.busy if pool else 0,
            problems={name: problem[:MAX_PROBLEM_CHARACTERS] for name, problem in found.items()},
            notes={name: note[:MAX_PROBLEM_CHARACTERS] for name, note in self.notes().items()},
        )
