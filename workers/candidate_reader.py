"""The answers that judges compare, read from the stream AGENT_RESPONSES once for all judges of a deliberation."""

from collections.abc import Sequence

from parley.broker.asyncio_helpers import gather
from parley.broker.core import errors
from parley.broker.core.errors import RIGHTS_ARE_IN, InvalidMessage, RightMissing
from parley.broker.core.messages import AgentCompleted, AgentRequested, decode
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream
from parley.workers.shared_reads import SharedReads

# Answers kept, by the size of their messages.
KEPT_BYTES = 16 * 1024 * 1024


class AnswersUnreadable(errors.ParleyError):
    """Answers that a judge was to compare cannot be read, now or later."""

    def __init__(self, task_id: str, why: str) -> None:
        super().__init__(task_id, why)
        self.task_id = task_id
        self.why = why

    def __str__(self) -> str:
        return f"the answers of {self.task_id} cannot be compared: {self.why}"


class CandidateReader:
    def __init__(self, jetstream: JetStream) -> None:
        self._jetstream = jetstream
        self._answers: SharedReads[AgentCompleted] = SharedReads(self._read, KEPT_BYTES)

    async def read(self, work: AgentRequested) -> Sequence[AgentCompleted]:
        """The candidates of this work, in order. Raises AnswersUnreadable, BrokerUnavailable."""
        seqs = [candidate.seq for candidate in work.candidates]

        def is_right(answer: AgentCompleted) -> bool:
            return answer.task_id == work.task_id

        kept = [answer for seq in seqs if (answer := self._answers.kept(seq, is_right)) is not None]
        if len(kept) == len(seqs):
            return kept
        try:
            found = await gather(self._answers.get(seq, is_right) for seq in seqs)
        except RightMissing as error:
            raise AnswersUnreadable(work.task_id, f"{error.reason} ({RIGHTS_ARE_IN})") from error
        answers = [answer for answer in found if answer is not None]
        if len(answers) < len(found):
            places = zip(work.candidates, found, strict=True)
            gone = ", ".join(candidate.label for candidate, answer in places if answer is None)
            raise AnswersUnreadable(
                work.task_id, f"{gone} no longer in the stream {topology.AGENT_RESPONSES}"
            )
        return answers

    def keep(self, seq: int, answer: AgentCompleted, size: int) -> None:
        """Keep an answer of this worker that was stored at `seq`: its judges may be here too."""
        self._answers.keep(seq, answer, size)

    def forget(self) -> None:
        self._answers.forget()

    async def _read(self, seq: int) -> tuple[AgentCompleted, int] | None:
        stored = await self._jetstream.get(topology.AGENT_RESPONSES, seq)
        if stored is None or stored.subject != topology.AGENT_COMPLETED:
            return None
        try:
            return decode(AgentCompleted, stored.data), len(stored.data)
        except InvalidMessage:
            return None
