"""One connection to the modelled server: the methods of nats-py's client that Parley calls. The real `JetStream` uses
it.

Each call is a step: on its way, applied, answered. Between any two of these its owner may be killed, stopped or cut
off. Requests of one connection arrive in the order they were made, unless a fault delays one. The calls of a killed
owner never return.
"""

import asyncio
import contextvars
import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, Protocol

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js.api import PubAck, RawStreamMsg

from parley.broker.jetstream import topology
from parley.broker.jetstream.acks_and_pulls import IN_PROGRESS, nak
from parley.broker.jetstream.connection import PUBLISH_TIMEOUT_SECONDS
from parley.broker.jetstream.forgery_counts import Forgeries
from parley.broker.jetstream.nats_client import NatsClient
from tests.simulation.faults import Fault, Kind
from tests.simulation.old_version import OldVersion
from tests.simulation.server import Server
from tests.simulation.stream import Kept, Refused, RefusedInSilence, WrongLastSequence

# Seconds between two requests of one connection: a timer heap does not keep the order of equal instants.
_APART = 1e-7
_ENDINGS = (topology.COMPLETED, topology.FAILED)


class Owner(Protocol):
    """The process or worker that has the connection."""

    name: str

    def kill(self) -> None: ...

    def pause(self, seconds: float) -> None: ...


def label(subject: str, headers: Mapping[str, str], data: bytes) -> str:
    """The kind of a step, by what it publishes."""
    if subject.startswith("$KV."):
        return "mark" if "Nats-TTL" in headers else "tally"
    if subject.startswith("$JS.ACK"):
        return "progress" if data == IN_PROGRESS else "nak" if data.startswith(nak()) else "ack"
    if subject.startswith("$O."):
        return "object"
    if subject.startswith(topology.TIMER):
        return "timer"
    if subject.startswith("agent.response"):
        return "outcome"
    if subject.startswith(topology.DEAD_LETTER):
        return "dead letter"
    known = {
        topology.AGENT_REQUESTED: "work",
        topology.AGENT_CANCEL: "stop",
        **dict.fromkeys(_ENDINGS, "ending"),
    }
    return known.get(subject, "inbox" if subject.startswith("_INBOX") else "client")


class Link:
    is_closed = False
    connected_url = None
    # One server: there is no cluster to ask for a leader.
    cluster = None

    def __init__(self, server: Server, owner: Owner | None, name: str, old: OldVersion | None = None) -> None:
        self.name = name
        # The older version that its owner runs.
        self.old = old
        if old is not None:
            server.old_versions[name] = old
        self._server = server
        self._owner = owner
        self._dead = False
        # The history is over.
        self._closed = False
        # How often the server was away and came back.
        self.reconnects = 0
        # Set and replaced each time.
        self._reconnected = asyncio.Event()
        if owner is not None:
            server.links.append(self)
        # What a killed owner wrote arrives up to this instant.
        self._cut = float("inf")
        # A stopped owner goes on at this instant.
        self._resumes = 0.0
        # What came here under a false name.
        self.forgeries = Forgeries()
        # How often its owner has been stopped.
        self.stops = 0
        # When the latest request arrives.
        self._sent = 0.0
        # References to the futures of calls that have not returned: see `_never`.
        self._held: list[asyncio.Future[Any]] = []

    # ── faults of its owner ──────────────────────────────────────────────────────────────────────────────────────────

    @property
    def dead(self) -> bool:
        return self._dead

    @property
    def max_payload(self) -> int:
        return self._server.max_payload

    @property
    def losses(self) -> int:
        return self.reconnects

    @property
    def of_service(self) -> bool:
        """It is a service's or a worker's, not a client's."""
        return self._owner is not None

    @property
    def stopped(self) -> bool:
        return self._server.now < self._resumes

    def die(self) -> None:
        """Its owner is killed. What it wrote last may still arrive."""
        self._dead = True
        self._cut = self._server.arrival()

    def stop(self, seconds: float) -> None:
        self.stops += 1
        self._resumes = max(self._resumes, self._server.now + seconds)

    def close(self) -> None:
        """The history is over: calls fail at once, so that the remaining tasks end."""
        self._closed = True

    def when_awake(self, act: Callable[[], None]) -> None:
        """Call `act` now, or once the owner is resumed; never if it is dead by then."""
        if self._dead:
            return
        if self.stopped:
            self._server.loop.call_at(self._resumes, self.when_awake, act)
        else:
            act()

    async def _never(self) -> None:
        # A task that nothing refers to is collected, and Python would run its `finally` blocks. So a reference is kept.
        self._held.append(self._server.loop.create_future())
        await self._held[-1]

    # ── steps ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def step(self, what: str, about: str, apply: Callable[[], Any], *, answered: bool = True) -> Any:
        """Run `apply` at the server and return its answer. Raises nats-py's TimeoutError if no answer comes."""
        if self._closed:
            raise nats.errors.ConnectionClosedError
        server = self._server
        if self._dead or self.stopped:
            await self._ready()
        fault = server.faults.meets(what, self.name, server.now) if self._owner is not None else None
        if fault is not None:
            self._before(fault, what, about)
            if self._dead or self.stopped:
                await self._ready()
        done: asyncio.Future[Any] = server.loop.create_future()
        if not answered:
            done.set_result(None)
        self._held.append(done)
        gives_up = server.now + PUBLISH_TIMEOUT_SECONDS
        self._sent = arrives = max(self._sent + _APART, server.arrival())
        if fault is not None and fault.kind is Kind.DELAY:
            arrives += fault.seconds
        lost = fault is not None and fault.kind is Kind.LOSE_REQUEST
        if lost or arrives >= gives_up:
            server.loop.call_at(gives_up, self._answer, done, nats.errors.TimeoutError())
        if not lost:
            server.loop.call_at(arrives, self._arrive, done, gives_up, what, about, apply, fault)
        try:
            return await done
        finally:
            self._held.remove(done)

    async def _ready(self) -> None:
        if self._dead:
            await self._never()
        while self.stopped:
            await asyncio.sleep(self._resumes - self._server.now)
            if self._dead:
                await self._never()

    def _before(self, fault: Fault, what: str, about: str) -> None:
        self._server.trace.add(
            self._server.now, self.name, f"! {fault.kind}", f"({what} {about}, {fault.seconds:g} s)"
        )
        assert self._owner is not None
        match fault.kind:
            case Kind.KILL_BEFORE:
                self._owner.kill()
            case Kind.PAUSE_BEFORE:
                self._owner.pause(fault.seconds)
            case Kind.OUTAGE:
                self._server.leave(fault.seconds)
            case _:
                pass

    def _arrive(
        self,
        done: "asyncio.Future[Any]",
        gives_up: float,
        what: str,
        about: str,
        apply: Callable[[], Any],
        fault: Fault | None,
    ) -> None:
        server = self._server
        if server.now > self._cut:
            return
        answer: Any
        try:
            answer = apply()
            server.trace.add(server.now, self.name, what, about)
        except nats.errors.Error as error:
            answer = error
            server.trace.add(server.now, self.name, f"{what} refused", about)
        if fault is not None and self._owner is not None and not self._dead:
            if fault.kind is Kind.KILL_AFTER:
                self._owner.kill()
            elif fault.kind is Kind.PAUSE_AFTER:
                self._owner.pause(fault.seconds)
        if done.done() or server.now >= gives_up:
            return
        back = server.arrival()
        if (fault is not None and fault.kind is Kind.LOSE_ANSWER) or back >= gives_up:
            back, answer = gives_up, nats.errors.TimeoutError()
        if isinstance(answer, nats.errors.TimeoutError):
            back = gives_up
        server.loop.call_at(back, self._answer, done, answer)

    def _answer(self, done: "asyncio.Future[Any]", answer: Any) -> None:
        def tell() -> None:
            if done.done():
                return
            if isinstance(answer, Exception):
                done.set_exception(answer)
            else:
                done.set_result(answer)

        self.when_awake(tell)

    # ── NatsClient's events: while the server is away a modelled connection is not lost, only late ─────────────────

    @property
    def is_connected(self) -> bool:
        return not self._dead

    def reconnect(self) -> None:
        """The server is back."""
        self.reconnects += 1
        self._reconnected.set()
        self._reconnected = asyncio.Event()

    async def wait_connected(self) -> None:
        if self._dead:
            await self._never()

    async def wait_closed(self) -> None:
        await self._never()

    async def wait_reconnected(self, seen: int) -> int:
        while self.reconnects == seen:
            await self._reconnected.wait()
        return self.reconnects

    # ── nats-py's methods ─────────────────────────────────────────────────────────────────────────────────────────

    def jetstream(self, timeout: float = PUBLISH_TIMEOUT_SECONDS) -> "Jet":
        return Jet(self, self._server)

    async def publish(
        self, subject: str, payload: bytes = b"", reply: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        if payload == IN_PROGRESS and (self._dead or self.stopped):
            return  # its timers do not run
        if subject.startswith("$JS.ACK"):
            about = ".".join(subject.split(".")[3:6])
            await self._tell(
                label(subject, {}, payload),
                about,
                lambda: self._server.acknowledge(subject, payload, self.name),
            )
        else:
            await self._tell(
                label(subject, {}, payload), subject, lambda: self._server.broadcast(subject, payload)
            )
            self._server.watch.told(subject, payload)

    async def _tell(self, what: str, about: str, apply: Callable[[], None]) -> None:
        """Core NATS: no answer."""
        await self.step(what, about, apply, answered=False)

    async def request(self, subject: str, payload: bytes = b"", timeout: float = 1.0) -> Msg:
        """A question about a stream: of the answer only the server's time. Nobody answers the question what runs."""
        if subject == topology.AGENT_RUNNING:
            raise nats.errors.NoRespondersError
        assert subject.startswith("$JS.API.STREAM.INFO."), subject

        def apply() -> Msg:
            body = json.dumps({"ts": datetime.fromtimestamp(self._server.now, UTC).isoformat()})
            return Msg(_client=as_client(self), data=body.encode())

        answer: Msg = await self.step("time", "", apply)
        return answer

    async def flush(self, timeout: float = 10.0) -> None:
        """A PING."""
        await self.step("ping", "", lambda: None)

    async def subscribe(self, subject: str, cb: Callable[[Msg], Awaitable[None]]) -> None:
        context = contextvars.copy_context()

        def listener(subject: str, data: bytes) -> None:
            message = Msg(_client=as_client(self), subject=subject, data=self.known(subject, data))

            def hear() -> None:
                self._server.loop.create_task(_call(cb, message), context=context)

            self._server.loop.call_at(self._server.arrival(), self.when_awake, hear)

        self._server.listen(subject, listener)

    def delivered(self, kept: Kept, reply: str) -> Msg:
        return Msg(
            _client=as_client(self), subject=kept.subject, reply=reply, data=self.known(kept.subject, kept.data),
            headers=dict(kept.headers),
        )  # fmt: skip

    def known(self, subject: str, data: bytes) -> bytes:
        """What its owner sees of a message."""
        return data if self.old is None else self.old.reads(subject, data)


async def _call(cb: Callable[[Msg], Awaitable[None]], message: Msg) -> None:
    await cb(message)


class Jet:
    """The JetStream side of a connection."""

    def __init__(self, link: Link, server: Server) -> None:
        self._link = link
        self._server = server

    async def publish(self, subject: str, payload: bytes, timeout: float, headers: dict[str, str]) -> PubAck:
        def apply() -> PubAck:
            try:
                stream, seq, duplicate = self._server.store(subject, payload, headers, self._link.name)
            except Refused as refused:
                self._server.conflicts += isinstance(refused, WrongLastSequence)
                if isinstance(refused, RefusedInSilence):
                    raise nats.errors.TimeoutError from None
                raise _api_error(refused) from None
            condition = self._server.condition
            forged = condition.forged(self._link, subject) if condition is not None else None
            return forged or PubAck(stream=stream, seq=seq, duplicate=duplicate)

        if self._link.old is not None and subject.startswith(topology.tally_subject("")):
            payload = self._link.old.tally_as_known(payload)
        about = headers.get("Nats-Msg-Id") or subject
        ack: PubAck = await self._link.step(label(subject, headers, payload), about, apply)
        return ack

    async def get_msg(
        self, stream: str, seq: int | None = None, subject: str | None = None, direct: bool = False
    ) -> RawStreamMsg:
        def apply() -> RawStreamMsg:
            held, now = self._server.streams[stream], self._server.now
            kept = held.newest(subject, now) if subject is not None else held.at(seq or 0, now)
            if kept is None:
                raise nats.js.errors.NotFoundError
            return RawStreamMsg(
                subject=kept.subject, seq=kept.seq, data=self._link.known(kept.subject, kept.data),
                headers=dict(kept.headers),
                time=datetime.fromtimestamp(kept.at, UTC),
            )  # fmt: skip

        found: RawStreamMsg = await self._link.step("read", subject or f"{stream} {seq}", apply)
        return found

    async def purge_stream(self, stream: str, subject: str) -> None:
        def apply() -> None:
            held = self._server.streams[stream]
            for seq in [seq for seq, kept in held.messages.items() if kept.subject == subject]:
                held.remove(seq)

        await self._link.step("purge", subject, apply)

    async def everything(self, stream: str) -> list[Msg]:
        """All messages of a stream, which `parley.broker.jetstream.scan.scan` reads in batches."""

        def apply() -> list[Msg]:
            held, now = self._server.streams[stream], self._server.now
            kept = [held.at(seq, now) for seq in list(held.messages)]
            reply = "$JS.ACK.{0}.scan.1.{1}.1.{2}.0"
            return [
                self._link.delivered(m, reply.format(stream, m.seq, int(m.at * 1e9)))
                for m in kept
                if m is not None
            ]

        found: list[Msg] = await self._link.step("read", f"all of {stream}", apply)
        return found

    async def consumer_info(self, stream: str, name: str) -> SimpleNamespace:
        def apply() -> SimpleNamespace:
            consumer = self._server.consumers[name]
            return SimpleNamespace(
                ack_floor=SimpleNamespace(stream_seq=consumer.ack_floor),
                num_pending=consumer.pending,
                num_ack_pending=len(consumer.handed),
            )

        info: SimpleNamespace = await self._link.step("info", name, apply)
        return info


def _api_error(refused: Refused) -> nats.js.errors.APIError:
    kinds = {
        400: nats.js.errors.BadRequestError, 500: nats.js.errors.ServerError,
        503: nats.js.errors.ServiceUnavailableError,
    }  # fmt: skip
    return kinds[refused.status](code=refused.status, err_code=refused.code, description=refused.description)


def as_client(link: Link) -> NatsClient:
    """The link, typed as the client that it stands in for."""
    stand_in: Any = link
    client: NatsClient = stand_in
    return client
