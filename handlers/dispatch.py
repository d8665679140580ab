"""`agent.requested` from the work queue into the pool's free slots; what nobody waits for any more is dropped.

The worker acknowledges the work once its outcome is stored. Here a message is settled only if no worker gets it.
"""

import time

from parley.broker.concurrency import gather
from parley.broker.core.errors import InvalidMessage
from parley.broker.core.messages import AgentFailed, AgentRequested, ErrorType
from parley.broker.core.tally import Tally
from parley.broker.core.timestamps import format_timestamp
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.tally_store import TallyStore
from parley.handlers.delivery import Batch, Delivery
from parley.handlers.settle import Settler
from parley.workers.job import Job
from parley.workers.pool.pool import Pool
from parley.workers.recent_cancels import Cancels

# Work handed out this often and never finished takes its worker down each time: it is put aside, and its agent has failed.
# Above settle's MAX_DELIVERIES, for a drain or a killed actor costs a delivery too and is no fault of the work.
MAX_JOB_DELIVERIES = 20
# Work that waited longer than this is worth a look at its tally before it starts: a read at most, against a model call for nobody.
STALE_SECONDS = 1.0


class Dispatch:
    def __init__(self, wire: JetStream, ledger: TallyStore, pool: Pool, settler: Settler) -> None:
        self._wire = wire
        self._ledger = ledger
        self._pool = pool
        self._settler = settler
        self._cancels = Cancels()

    async def __call__(self, deliveries: Batch[AgentRequested]) -> None:
        jobs = [job for job in await gather(map(self._job, deliveries)) if job is not None]
        if jobs:
            await self._pool.submit(jobs)

    def cancel(self, body: bytes) -> None:
        """An `agent.cancel` was heard. Running calls are the workers' to stop; this is for what is still queued."""
        self._cancels.hear(body)

    async def _job(self, delivery: Delivery[AgentRequested]) -> Job | None:
        """The job a worker should get, or None for a message that was settled here."""
        try:
            wanted = await self._wanted(delivery)
        except Exception as error:
            await self._settler.failed(delivery, error)
            return None
        return (
            Job(key=delivery.msg.reply, body=delivery.data, traceparent=delivery.traceparent)
            if wanted
            else None
        )

    async def _wanted(self, delivery: Delivery[AgentRequested]) -> bool:
        """Whether a worker should get this; if not, it is settled. Raises InvalidMessage."""
        request = delivery.payload(AgentRequested)
        if delivery.count > MAX_JOB_DELIVERIES:
            await self._give_up(request, delivery.count)
            raise InvalidMessage([f"handed out {delivery.count - 1} times and never finished"])
        if self._cancels.reason(request.task_id) is not None:
            await delivery.ack()
            return False
        if not await self._awaited(delivery, request):
            await delivery.ack()
            return False
        return True

    async def _awaited(self, delivery: Delivery[AgentRequested], request: AgentRequested) -> bool:
        """Whether the deliberation still wants this agent's answer, as far as it is worth asking."""
        if delivery.count == 1:
            if time.time() - delivery.at <= STALE_SECONDS:
                return True
            # What this process remembers will do for a yes: were it old, the call would be for nobody, as it is for those already
            # running. It will not do for a no: it may be of a namesake that is long forgotten.
            remembered = self._ledger.cached(request.task_id)
            if remembered is not None and _wants(remembered, request):
                return True
        tally = await self._ledger.read(request.task_id)
        return tally is not None and _wants(tally, request)

    async def _give_up(self, request: AgentRequested, deliveries: int) -> None:
        outcome = AgentFailed(
            task_id=request.task_id,
            agent_id=request.agent_id,
            round=request.round,
            role=request.role,
            error=f"handed out {deliveries - 1} times and never finished; the work is in {topology.DEAD_LETTERS}",
            error_type=ErrorType.INTERNAL_ERROR,
            attempt=0,
            duration_ms=0,
            timestamp=format_timestamp(time.time()),
            num_agents=request.num_agents,
            metadata=request.metadata,
        )
        msg_id = f"{request.task_id}:{request.agent_id}:{request.round}"
        await self._wire.publish(topology.AGENT_FAILED, outcome.encode(), msg_id=msg_id)


def _wants(tally: Tally, request: AgentRequested) -> bool:
    return not tally.ended and tally.phase.number == request.round and request.agent_id in tally.phase.missing
