"""Carries out what `react` decided, in the order that makes the promise: write the tally, run effects, acknowledge.

A crash between two steps repeats a step. It never skips one. Every effect is safe to repeat: a timer replaces itself,
agent requests and endings carry a Msg-Id, a broadcast that comes twice cancels nothing twice.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, assert_never

from parley.broker.asyncio_helpers import WeightedSemaphore, gather
from parley.broker.core.choice import shown, written
from parley.broker.core.errors import InvalidMessage
from parley.broker.core.events_and_effects import (
    ArmDeadline,
    DeadlineReached,
    Effect,
    Event,
    PublishEnding,
    RequestAgents,
    Requested,
    SendEnding,
    StopAgents,
)
from parley.broker.core.frozen_models import changed
from parley.broker.core.headers_and_ids import work_msg_id
from parley.broker.core.judging_orders import LABELS
from parley.broker.core.messages import (
    AgentCancel,
    AgentRequested,
    Candidate,
    DeliberationDeadline,
    DeliberationRequested,
)
from parley.broker.core.phase_plan import OF_MEMBERS, PhaseKind
from parley.broker.core.reactions import react
from parley.broker.core.tally import Tally
from parley.broker.core.tally_size import most_bytes
from parley.broker.core.timestamps import format_timestamp
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.tally_store import FoldResult, TallyStore
from parley.handlers.deadline_book import DeadlineBook
from parley.handlers.ending_publisher import EndingPublisher, trace_headers
from parley.workers.request_reader import LEFT_OUT

# Bytes of agent requests on their way to the server at one time, for the whole process: 64 prompts of 250 KiB for 64
# agents each would otherwise be in memory at once (2.5 GiB measured).
FAN_OUT_BYTES = 16 * 1024 * 1024
# A deliberation's request is copied into the work of its agents up to this many bytes in all. A larger one is named
# by its place in REQUESTS: 256 copies of one request filled 81 MiB of the store (measured), and 12 of these all of it.
# Copies cost no read, and a dispatcher of version 0.1.0 can use them.
COPIED_BYTES = 96 * 1024
# Of the reason that workers are told: it must fit into a small `max_payload`, and they only log it.
STOP_REASON_CHARACTERS = 200
# More than any tally has, without its agents and for each of them.
TALLY_BYTES, AGENT_BYTES = 24 * 1024, 200
# What the headers of one agent's work need, at most.
HEADER_BYTES = 512
# With the deadline so near no outcome waits for others.
NEAR_SECONDS = 1.0


class Past(NamedTuple):
    """What there is of a request that may have been handled before."""

    # Where its ending is in DELIBERATIONS, if it has ended and its tally is forgotten.
    ending_seq: int | None = None
    # There is a tally of its name, its own or that of an earlier request.
    is_recorded: bool = False


class EffectRunner:
    def __init__(self, jetstream: JetStream, tallies: TallyStore, endings: EndingPublisher) -> None:
        self._jetstream = jetstream
        self._tallies = tallies
        self._endings = endings
        # Outcomes counted here, for the endings that need them.
        self.outcomes = endings.outcomes
        # Deadlines of what this process recorded or counted for, until their endings are marked here.
        self.deadlines = DeadlineBook()
        # Bytes of agent requests on their way.
        self._fan_out = WeightedSemaphore(FAN_OUT_BYTES)

    def now(self) -> float:
        """Seconds since the epoch, by the NATS server's clock."""
        return self._jetstream.clock.now()

    async def read(self, task_id: str) -> Tally | None:
        """The tally as it is now. Raises BrokerUnavailable."""
        return await self._tallies.read(task_id)

    async def discard(self, task_id: str) -> bool:
        """Remove a tally that cannot be read, after its bytes are put aside. False if there is none. Raises
        BrokerUnavailable."""
        return await self._tallies.discard_unreadable(task_id)

    @property
    def keep_seconds(self) -> float:
        """How long a tally stays after its ending is published."""
        return self._tallies.keep_seconds

    async def past_of(self, task_id: str, seq: int, at: float, count: int) -> Past:
        """What has become of this request at an earlier delivery.

        `seq`, `at`, `count`: of the request's delivery. It costs nothing, unless the request was delivered before or
        is older than a tally is kept; then a read, and without a tally a look-up in the stream.
        """
        if count == 1 and self.now() - at < self._tallies.keep_seconds:
            return Past()
        tally = await self._tallies.read(task_id)
        if tally is not None and tally.request_seq <= seq:
            return Past(is_recorded=True)
        place = await self._endings.lookup.find(task_id, at)
        if place is None:
            return Past()
        # Another delivery of this request may have recorded it meanwhile, and be publishing that ending.
        tally = await self._tallies.read(task_id)
        is_recorded = tally is not None and tally.request_seq <= seq
        return Past(is_recorded=True) if is_recorded else Past(ending_seq=place)

    async def send_ending(self, task_id: str, seq: int, reply_to: str) -> None:
        """Send the ending that is stored at `seq` in DELIBERATIONS to one more asker."""
        await self._endings.send(task_id, seq, reply_to)

    async def read_ahead(self, task_ids: Sequence[str]) -> None:
        """As `TallyStore.read_ahead`."""
        await self._tallies.read_ahead(task_ids)

    def outcomes_needed(self, task_id: str) -> int:
        """How many outcomes together may end a deliberation, as far as this process knows. 1 if it does not know, or
        if the deadline is too near for any outcome to wait."""
        tally = self._tallies.cached(task_id)
        if tally is None or tally.limit - self.now() < NEAR_SECONDS:
            return 1
        return tally.outcomes_needed

    async def apply(
        self,
        task_id: str,
        events: Sequence[tuple[Event, float]],
        request: DeliberationRequested | None = None,
        *,
        is_recorded: bool = False,
    ) -> FoldResult:
        """Apply events, each with its instant, to a deliberation and run the effects. The caller acknowledges after.

        `request`: where the caller has it. Otherwise work that is requested names its place, and workers read it.
        `is_recorded`: as `TallyStore.apply` has it.
        """
        new = request is not None and not is_recorded
        result = await self._tallies.apply(task_id, events, new=new, is_recorded=is_recorded)
        tally = result.tally
        if tally is None:
            return result
        if tally.ending_seq is None:
            self._watch(tally)
        if result.effects:
            await self._run_all(result.effects, tally, request)
        if tally.ended and (result.effects or tally.ending_seq is not None):
            self.deadlines.remove(task_id)
        return result

    def _watch(self, tally: Tally) -> None:
        """Look after this deadline. Not if it is so far that the tally may be forgotten by then."""
        if tally.deadline - tally.accepted_at < self._tallies.keep_seconds:
            self.deadlines.add(tally.task_id, tally.limit, tally.request_seq)

    def check_room(self, event: Requested) -> None:
        """Raises InvalidMessage for a deliberation whose tally could come to be too large for the server."""
        limit = self._jetstream.max_payload
        if event.is_plain and TALLY_BYTES + AGENT_BYTES * event.num_agents <= limit:
            return
        tally = react(None, event, event.at).tally
        if tally is not None and most_bytes(tally) > limit:
            asked = f"the account of {event.num_agents} agents and the metadata does not fit into one message"
            remedy = "ask fewer agents, send less metadata, or have max_payload raised"
            raise InvalidMessage([f"num_agents: {asked} of this NATS (max_payload {limit}); {remedy}"])

    async def end_unread(self, task_id: str, at: float) -> None:
        """End a deliberation whose deadline came at `at`, without a look at its outcomes."""
        result = await self._tallies.apply(task_id, [(DeadlineReached(), at)])
        if result.tally is None:
            return
        for effect in result.effects:
            if isinstance(effect, PublishEnding):
                await self._endings.publish_unread(result.tally)
            else:
                await self._run(effect, result.tally, None)
        if result.tally.ended:
            self.deadlines.remove(task_id)

    async def _run_all(
        self, effects: Sequence[Effect], tally: Tally, request: DeliberationRequested | None
    ) -> None:
        # Effects of one decision do not depend on each other: none waits for another's PubAck. Only StopAgents comes
        # last: agents that are stopped report at once, and their outcomes are best folded after the ending is marked.
        first = [effect for effect in effects if not isinstance(effect, StopAgents)]
        await gather(self._run(effect, tally, request) for effect in first)
        for effect in effects[len(first) :]:
            await self._run(effect, tally, request)

    async def _run(self, effect: Effect, tally: Tally, request: DeliberationRequested | None) -> None:
        match effect:
            case ArmDeadline(at):
                await self.arm(tally, at)
            case RequestAgents() if effect.agents:
                await self._request_agents(tally, effect, request)
            case RequestAgents():
                pass  # all have reported meanwhile
            case PublishEnding():
                await self._endings.publish(tally)
            case StopAgents():
                cancel = AgentCancel(
                    task_id=tally.task_id, reason=effect.reason[:STOP_REASON_CHARACTERS],
                    round=effect.round, phase=effect.phase,
                )  # fmt: skip
                await self._jetstream.broadcast(topology.AGENT_CANCEL, cancel.encode(), trace_headers(tally))
            case SendEnding(seq, reply_to):
                await self.send_ending(tally.task_id, seq, reply_to)
            case _:
                assert_never(effect)

    async def arm(self, tally: Tally, at: float) -> None:
        """Have the deadline come at `at` (seconds since the epoch; at once if that is past), instead of an earlier
        one."""
        await self.arm_for(tally.task_id, tally.request_seq, at)

    async def arm_for(self, task_id: str, request_seq: int | None, at: float) -> None:
        """As `arm`, without a tally. `request_seq` None: it is not known."""
        body = DeliberationDeadline(task_id=task_id, request_seq=request_seq).encode()
        timer, target = topology.timer_subject(task_id), topology.deadline_subject(task_id)
        await self._jetstream.schedule(timer, target, at, body)

    async def _request_agents(
        self, tally: Tally, wanted: RequestAgents, request: DeliberationRequested | None
    ) -> None:
        agents = wanted.agents
        headers = trace_headers(tally)
        # Judges' work is seldom: they read the request, which knows their models.
        if wanted.phase is not PhaseKind.ANSWER:
            request = None
        own = _own_fields(tally, agents, request)
        first = _agent_request(tally, own[agents[0]], request)
        first_body = first.encode()
        together = len(first_body) * len(tally.phase.agents)
        if request is not None and (
            together > COPIED_BYTES or len(first_body) + HEADER_BYTES > self._jetstream.max_payload
        ):
            own = _own_fields(tally, agents, None)
            first = _agent_request(tally, own[agents[0]], None)
            first_body = first.encode()

        async def publish(agent: str) -> None:
            async with self._fan_out.holding(len(first_body)):
                is_first = agent == agents[0]
                body = first_body if is_first else changed(first, **own[agent]).encode()
                msg_id = work_msg_id(tally.task_id, agent, wanted.round, tally.request_seq, wanted.phase)
                await self._jetstream.publish(topology.AGENT_REQUESTED, body, msg_id=msg_id, headers=headers)

        rest = agents
        if self._jetstream.health.refusal((topology.AGENT_REQUESTS,)) is not None:
            await publish(agents[0])  # where one finds no room, 256 need not be tried
            rest = agents[1:]
        await gather(map(publish, rest))


def _agent_request(
    tally: Tally, own: Mapping[str, Any], request: DeliberationRequested | None
) -> AgentRequested:
    """One agent's work in the current phase. `own`: its own fields. `request` None: the worker reads it."""
    phase = tally.phase
    asked = {name: getattr(request, name) for name in LEFT_OUT} if request is not None else {}
    # Each field is given: pydantic would copy a default that is an object.
    return AgentRequested(
        **{**asked, **own},
        task_id=tally.task_id,
        round=phase.number,
        phase=phase.kind,
        role=tally.role,
        num_agents=len(phase.agents),
        request_seq=None if request is not None else tally.request_seq,
        requested_at=format_timestamp(tally.accepted_at if phase.opened_at is None else phase.opened_at),
        deadline=format_timestamp(tally.deadline),
    )


def _own_fields(
    tally: Tally, agents: Sequence[str], request: DeliberationRequested | None
) -> dict[str, dict[str, Any]]:
    """What is each agent's own in the work of its phase. `request` None: the worker reads what that says of it."""
    # Who answered has the same number later: its part of the panel is the same.
    among = (tally.answers if tally.phase.kind in OF_MEMBERS else tally.phase).agents
    places = {agent: place for place, agent in enumerate(among, 1)}
    own: dict[str, dict[str, Any]] = {
        agent: {"agent_id": agent, "agent_number": places[agent]} for agent in agents
    }
    if request is not None:
        for agent in agents:
            own[agent] |= request.of_agent(places[agent])
    orders = shown(tally, tally.phase)
    if orders:
        answers = written(tally)
        for agent in agents:
            own[agent]["candidates"] = tuple(
                Candidate(label=label, seq=answers[name].seq)
                for label, name in zip(LABELS, orders[agent], strict=False)
            )
    return own
