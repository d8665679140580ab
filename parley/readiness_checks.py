"""What /readyz checks: NATS, its streams, its store, the rights of its users, the agents, the model servers."""

from collections.abc import Callable
from dataclasses import replace

from parley.asked_servers import AskedServers
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.provision import Extent, provision
from parley.monitoring.check_runner import Check
from parley.rights_check import RightsCheck
from parley.settings import Settings
from parley.workers.pool.pool import Pool

# Why JetStream stores nothing, or None.
Refusal = Callable[[], str | None]


def readiness_checks(
    settings: Settings,
    jetstream: JetStream,
    *,
    pool: Pool | None,
    models: AskedServers | None,
    rights: RightsCheck,
    refusal: Refusal,
) -> dict[str, Check]:
    """Why this process cannot do its work, by what is at fault."""
    wanted = settings.wanted

    async def connected() -> str | None:
        return None if jetstream.connected else "not connected"

    async def streams() -> str | None:
        if not jetstream.connected:
            return "cannot be asked for"
        limits = models.limited if models is not None else wanted.limits
        missing = await provision(jetstream.js, replace(wanted, limits=limits), extent=Extent.LOOK)
        return f"missing: {', '.join(missing)}" if missing else None

    async def store() -> str | None:
        return refusal()

    async def slots() -> str | None:
        return pool.unready_reason if pool is not None else None

    checks: dict[str, Check] = {
        "nats": connected, "rights": rights.problem, "streams": streams, "store": store, "pool": slots,
    }  # fmt: skip
    if models is not None:
        checks["models"] = models.unready_reason
    return checks
