"""`agent.requested`: takes jobs from the work queue into the free slots of the pool.

The worker acknowledges a job once its outcome is stored. A message is settled here only if no worker gets it: what is
not wanted any more is acknowledged, what cannot be used is dead-lettered.
"""

from parley.broker.asyncio_helpers import gather
from parley.broker.core.headers_and_ids import outcome_msg_id
from parley.broker.core.messages import AgentFailed, AgentRequested, ErrorType
from parley.broker.core.tally import Tally
from parley.broker.core.timestamps import format_timestamp
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.tally_store import TallyStore
from parley.handlers.delivery import ACK, DeadLetter, Delivery, Settlement
from parley.handlers.settle import MAX_DELIVERIES, AnyDelivery, Settler
from parley.workers.job_message import AgentJob
from parley.workers.pool.pool import Pool
from parley.workers.recent_cancels import Cancels

# A job that was delivered this often and never finished kills its worker each time: it is dead-lettered, and its
# agent has failed. Above MAX_DELIVERIES of `settle`: a drain or a killed actor costs a delivery too and is no fault
# of the job.
MAX_JOB_DELIVERIES = 20
# The tally of a job that waited longer is read before it starts: at most one read, against a model call whose answer
# nothing needs.
STALE_SECONDS = 1.0


class Dispatch:
    def __init__(self, jetstream: JetStream, tallies: TallyStore, pool: Pool, settler: Settler) -> None:
        self._jetstream = jetstream
        self._tallies = tallies
        self._pool = pool
        self._settler = settler
        # Deliberations that were cancelled lately.
        self._cancels = Cancels()

    async def __call__(self, deliveries: list[AnyDelivery]) -> None:
        """Submit the jobs that came together at once. Raises nothing but CancelledError and what the pool raises."""
        jobs = [job for job in await gather(map(self._job, deliveries)) if job is not None]
        if jobs:
            await self._pool.submit(jobs)

    def cancel(self, body: bytes) -> None:
        """An `agent.cancel` was broadcast. Workers stop running calls; this drops what is still queued."""
        self._cancels.hear(body)

    async def _job(self, delivery: AnyDelivery) -> AgentJob | None:
        """The job for a worker, or None for a message that was settled here."""
        try:
            decision = await self.decide(delivery)
            if isinstance(decision, AgentJob):
                return decision
            await self._settler.carry_out(delivery, decision)
        except Exception as error:
            await self._settler.failed(delivery, error)
        return None

    async def decide(self, delivery: Delivery[AgentRequested]) -> AgentJob | Settlement:
        """The job for a worker, or how to settle a message that no worker gets. Raises InvalidMessage."""
        if delivery.count > MAX_JOB_DELIVERIES + MAX_DELIVERIES:
            # To read it, or to say that its agent failed, ended each dispatcher. The deadline says that it is missing.
            return DeadLetter(f"handed out {delivery.count - 1} times and never finished")
        request = delivery.payload(AgentRequested)
        if delivery.count > MAX_JOB_DELIVERIES:
            await self._fail_agent(request, delivery.count)
            return DeadLetter(f"handed out {delivery.count - 1} times and never finished")
        if self._cancels.reason(request) is not None or not await self._awaited(delivery, request):
            return ACK
        return AgentJob(key=delivery.msg.reply, body=delivery.data, traceparent=delivery.traceparent)

    async def _awaited(self, delivery: Delivery[AgentRequested], request: AgentRequested) -> bool:
        """Whether the deliberation still waits for this agent, as far as that is worth a read."""
        if delivery.count == 1:
            if self._jetstream.clock.now() - delivery.at <= STALE_SECONDS:
                return True
            # A cached tally is enough for a yes: if it is stale, one call is wasted. It is not enough for a no: it
            # may be that of an earlier deliberation with the same task_id.
            cached = self._tallies.cached(request.task_id)
            if cached is not None and _wants(cached, request):
                return True
        tally = await self._tallies.read(request.task_id)
        return tally is not None and _wants(tally, request)

    async def _fail_agent(self, request: AgentRequested, deliveries: int) -> None:
        outcome = AgentFailed(
            task_id=request.task_id,
            agent_id=request.agent_id,
            round=request.round,
            phase=request.phase,
            role=request.role,
            error=f"handed out {deliveries - 1} times and never finished; the work is in {topology.DEAD_LETTERS}",
            error_type=ErrorType.INTERNAL_ERROR,
            attempt=0,
            duration_ms=0,
            timestamp=format_timestamp(self._jetstream.clock.now()),
            num_agents=request.num_agents,
            metadata=request.metadata,
        )
        msg_id = outcome_msg_id(request.task_id, request.agent_id, request.round, request.phase)
        await self._jetstream.publish(topology.AGENT_FAILED, outcome.encode(), msg_id=msg_id)


def _wants(tally: Tally, request: AgentRequested) -> bool:
    phase = tally.phase
    is_current = (phase.number, phase.kind) == (request.round, request.phase)
    return is_current and not tally.ended and request.agent_id in phase.missing
