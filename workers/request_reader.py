"""The requests that jobs refer to, read from the stream REQUESTS once for all agents of a deliberation.

Small requests travel in each job. A large one would be copied up to 256 times, so its jobs name its place instead.
"""

from parley.broker.core import errors
from parley.broker.core.errors import InvalidMessage
from parley.broker.core.headers_and_ids import own_name
from parley.broker.core.messages import AgentRequested, DeliberationRequested, decode
from parley.broker.core.phase_plan import OF_MEMBERS
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream
from parley.workers.shared_reads import SharedReads

# Requests kept, by the size of their messages. They are kept decoded, at about twice that.
KEPT_BYTES = 16 * 1024 * 1024
# What a job that names its request leaves out.
LEFT_OUT = (
    "task_description", "messages", "constraints", "diversity", "metadata", "model", "temperature", "max_tokens", "seed", "stop",
    "select", "rounds", "answer_key", "system", "top_p", "extra", "response_format",
    "logprobs", "top_logprobs", "judge_model", "judge_models",
)  # fmt: skip


class RequestGone(errors.ParleyError):
    """The request that a job refers to is not where it should be: a purge, or a stream made anew."""

    def __init__(self, task_id: str, seq: int) -> None:
        super().__init__(task_id, seq)
        self.task_id = task_id
        self.seq = seq

    def __str__(self) -> str:
        return f"the request of {self.task_id}, message {self.seq} of {topology.REQUESTS}, is not stored any more"


class RequestReader:
    def __init__(self, jetstream: JetStream) -> None:
        self._jetstream = jetstream
        # The deliberation's name and its request, by the request's sequence.
        self._requests: SharedReads[tuple[str, DeliberationRequested]] = SharedReads(self._read, KEPT_BYTES)

    async def complete(self, work: AgentRequested) -> AgentRequested:
        """The work with all that it left out. Raises RequestGone, BrokerUnavailable."""
        seq = work.request_seq
        if seq is None:
            return work
        found = await self._requests.get(seq, lambda read: read[0] == work.task_id)
        if found is None:
            raise RequestGone(work.task_id, seq)
        request = found[1]
        asked = {name: getattr(request, name) for name in LEFT_OUT}
        if work.phase in OF_MEMBERS:
            asked |= request.of_agent(work.agent_number)
        else:
            asked["model"] = request.model_of_judge(work.agent_number)
        return work.model_copy(update=asked)

    def forget(self) -> None:
        self._requests.forget()

    async def _read(self, seq: int) -> tuple[tuple[str, DeliberationRequested], int] | None:
        stored = await self._jetstream.get(topology.REQUESTS, seq)
        if (
            stored is None
        ):  # what 0.1.0 left is in the other stream; the sequences of REQUESTS begin where those end
            stored = await self._jetstream.get(topology.DELIBERATIONS, seq)
        if stored is None or stored.subject != topology.REQUESTED:
            return None
        try:
            request = decode(DeliberationRequested, stored.data)
        except InvalidMessage:
            return None
        return (request.task_id or own_name(seq), request), len(stored.data)
