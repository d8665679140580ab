"""`parley serve` in a process of its own, with real NATS and Ray, in front of vLLM; a client; access to the streams."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from parley.broker.core.messages import AgentCompleted, AgentFailed, AgentOutcome, Ending, decode
from parley.broker.jetstream import topology
from parley.broker.jetstream.connection import close, connect
from parley.broker.jetstream.embedded import embedded_nats
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.nats_client import NatsClient as Nats
from parley.broker.jetstream.scan import scan
from parley.client import Client
from parley.client import connect as connect_client
from tests.rig.service import Serving, served
from tests.rig.vllm.server import MODEL

# Short waits, so that tests are quick. All other settings have their defaults.
SETTINGS = {
    "VLLM_MODEL": MODEL, "PARLEY_POOL_ACTORS": "1", "PARLEY_RETRY_BASE_SECONDS": "0.1",
    "PARLEY_RETRY_CAP_SECONDS": "1", "PARLEY_DRAIN_SECONDS": "2",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Front:
    """The service in front of vLLM."""

    serving: Serving
    client: Client
    nats: Nats

    async def outcomes(self, task_id: str) -> list[AgentOutcome]:
        """The outcomes of a task, sorted by agent."""
        found: list[AgentOutcome] = []
        async for message in scan(JetStream(self.nats), topology.AGENT_RESPONSES, "agent.response.*"):
            done = message.subject == topology.AGENT_COMPLETED
            found.append(decode(AgentCompleted, message.data) if done else decode(AgentFailed, message.data))
        return sorted((each for each in found if each.task_id == task_id), key=lambda each: each.agent_id)

    async def completed(self, ending: Ending) -> list[AgentCompleted]:
        """The outcomes of a deliberation. Fails unless all agents answered."""
        outcomes = await self.outcomes(ending.task_id)
        assert len(outcomes) == ending.total_agents
        answered = [outcome for outcome in outcomes if isinstance(outcome, AgentCompleted)]
        assert answered == outcomes, ending
        return answered

    async def failed(self, ending: Ending) -> list[AgentFailed]:
        """The outcomes of a deliberation. Fails unless all agents failed."""
        outcomes = await self.outcomes(ending.task_id)
        assert len(outcomes) == ending.total_agents
        failed = [outcome for outcome in outcomes if isinstance(outcome, AgentFailed)]
        assert failed == outcomes, ending
        return failed


@asynccontextmanager
async def front(
    folder: Path, urls: Sequence[str], awaited: str = "/readyz", **settings: str
) -> AsyncIterator[Front]:
    """All is up until the block ends. `urls`: of the model servers. `settings`: more settings, by their variables'
    names.

    `awaited`: as for `served`.
    """
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(embedded_nats(folder / "nats"))
        service = served(server, urls, folder, environment={**SETTINGS, **settings}, awaited=awaited)
        serving = await stack.enter_async_context(service)
        nats = await connect(server.url, "live")
        stack.push_async_callback(close, nats)
        client = await stack.enter_async_context(connect_client(server.url))
        yield Front(serving, client, nats)
