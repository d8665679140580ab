"""The Python client: ask, wait, look, cancel. Everything it does another language can do with a NATS client and docs/contract.md.

    async with parley.connect("nats://127.0.0.1:4222") as client:
        ending = await client.deliberate("Write a factorial function", agents=3)

An ending reaches the client through an inbox of its own (`Parley-Reply-To`, core NATS: at most once), so that it need not
read everyone's. In case that one message was lost, it also asks `deliberation.get` now and then.
"""

import asyncio
import difflib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

import nats.errors
import nats.js.errors
from nats.aio.msg import Msg
from nats.js.kv import KeyValue
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from parley import local_service
from parley.broker.core.errors import (
    BrokerUnavailable,
    InvalidMessage,
    ParleyError,
    StreamNotFound,
    Unavailable,
)
from parley.broker.core.messages import (
    OWN_NAME,
    AgentResult,
    DeliberationCancel,
    DeliberationGet,
    DeliberationRequested,
    DeliberationStatus,
    Ending,
    decode,
    decode_ending,
    describe,
)
from parley.broker.core.tally import Tally
from parley.broker.jetstream import topology
from parley.broker.jetstream.connection import close
from parley.broker.jetstream.connection import connect as open_connection
from parley.broker.jetstream.deadletters import DeadLetters
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.scan import scan
from parley.settings import load

# Without an ending this long after the deadline, something is wrong that waiting does not mend: the promise is one second.
GRACE_SECONDS = 10.0
# The service's default deadline is not known to a client that names none; this is Parley's own.
ASSUMED_TIMEOUT_SECONDS = 300.0
# Between two questions whether an ending was missed: doubled from the first to the last.
FIRST_POLL_SECONDS, LAST_POLL_SECONDS = 2.0, 15.0
GET_TIMEOUT_SECONDS = 5.0
# Endings heard and not asked for yet.
KEPT_ENDINGS = 1_000
ENDED = frozenset({"COMPLETED", "FAILED", "TIMEOUT"})
_RESULTS = TypeAdapter(tuple[AgentResult, ...])


class NoService(Unavailable):
    """NATS answers, but no Parley service behind it does."""

    def __str__(self) -> str:
        return "no Parley service answers on this NATS; start one with `parley up` or `parley serve`"


class NoEnding(ParleyError):
    """No ending came within the time the client was told to wait. The deliberation may still end: `task_id` finds it."""

    def __init__(self, task_id: str, seconds: float) -> None:
        super().__init__(task_id, seconds)
        self.task_id = task_id
        self.seconds = seconds

    def __str__(self) -> str:
        return f"no ending for {self.task_id} within {self.seconds:g} s; `parley result {self.task_id}` asks again"


@dataclass(frozen=True, slots=True)
class Submitted:
    """A request that NATS has stored, and where its ending will come."""

    task_id: str
    ending: "asyncio.Future[Ending]"
    timeout_seconds: float | None


class Asking(TypedDict, total=False):
    """What may be asked for besides the task itself. Bounds and defaults are docs/contract.md's."""

    agents: int
    role: str
    rubric: str | Mapping[str, Any] | None
    requirements: Sequence[str]
    context: Mapping[str, Any]
    diversity: bool
    min_responses: int
    finish_early: bool
    timeout_seconds: float | None
    metadata: Mapping[str, str]
    task_id: str | None
    model: str | None
    temperature: float | None
    max_tokens: int | None
    seed: int | None
    stop: str | Sequence[str] | None


_CONSTRAINTS = {"rubric": "rubric", "requirements": "requirements", "context": "metadata"}


def compose(task_description: str, **asking: Unpack[Asking]) -> DeliberationRequested:
    """The request these words make. Raises InvalidMessage naming each bad field, TypeError for a word that means nothing."""
    for word in set(asking) - set(Asking.__annotations__):
        close_to = difflib.get_close_matches(word, Asking.__annotations__, n=1, cutoff=0.5)
        raise TypeError(f"no such argument: {word}" + (f"; did you mean {close_to[0]}?" if close_to else ""))
    given = {key: value for key, value in asking.items() if value is not None}
    if OWN_NAME.fullmatch(str(given.get("task_id"))):
        raise InvalidMessage(
            [f"task_id: {given['task_id']} is a name the service gives; choose another, or none"]
        )
    fields: dict[str, Any] = {
        ("num_agents" if key == "agents" else key): value
        for key, value in given.items()
        if key not in _CONSTRAINTS
    }
    constraints = {_CONSTRAINTS[key]: value for key, value in given.items() if key in _CONSTRAINTS}
    try:
        # Through JSON, so that a client is held to just what any other language's client is held to.
        return DeliberationRequested.model_validate_json(
            to_json({"task_description": task_description, "constraints": constraints, **fields})
        )
    except ValidationError as error:
        raise InvalidMessage(describe(error)) from None


@asynccontextmanager
async def connect(url: str | None = None) -> AsyncIterator["Client"]:
    """A client for as long as the block lasts. Without a URL: NATS_URL's, or the one of a `parley up` of this user.

    Raises BrokerUnavailable when NATS cannot be reached, Unavailable when no URL is to be found.
    """
    url = url or local_service.with_local_nats(load()).nats_url
    if url is None:
        raise Unavailable("NATS_URL is not set and no `parley up` runs here: start one, or set NATS_URL")
    nc = await open_connection(url, "parley-client")
    try:
        client = Client(JetStream(nc))
        await client.listen()
        yield client
    finally:
        await close(nc)


class Client:
    """Made by `connect`. Safe to use from many tasks of one event loop."""

    def __init__(self, wire: JetStream) -> None:
        self._wire = wire
        self._inbox = wire.nc.new_inbox()
        self._waiting: dict[str, asyncio.Future[Ending]] = {}

    async def listen(self) -> None:
        """Start hearing endings. `connect` has done it."""
        await self._wire.nc.subscribe(self._inbox, cb=self._hear)

    async def deliberate(self, task_description: str, **asking: Unpack[Asking]) -> Ending:
        """Ask and wait for the ending: `DeliberationCompleted` (read `degraded` first) or `DeliberationFailed`.

        Raises InvalidMessage for a request that cannot be valid, BrokerUnavailable, NoService (no streams), NoEnding.
        """
        return await self.ending(await self.submit(task_description, **asking))

    async def submit(self, task_description: str, **asking: Unpack[Asking]) -> Submitted:
        """Store the request and return at once. Raises InvalidMessage, BrokerUnavailable, NoService (no streams)."""
        request = compose(task_description, **asking)
        headers = {"Parley-Reply-To": self._inbox}
        body = request.model_dump_json(exclude_none=True).encode()
        seq = await self._store(topology.REQUESTED, body, headers)
        task_id = request.task_id or f"d-{seq}"
        return Submitted(task_id, self._future(task_id), request.timeout_seconds)

    async def ending(self, submitted: Submitted, *, wait_seconds: float | None = None) -> Ending:
        """Wait for it. `wait_seconds`: at most so long; by default until well past the deadline. Raises NoEnding."""
        usual = (submitted.timeout_seconds or ASSUMED_TIMEOUT_SECONDS) + GRACE_SECONDS
        limit = wait_seconds if wait_seconds is not None else usual
        self._waiting.setdefault(
            submitted.task_id, submitted.ending
        )  # patience may be renewed after a NoEnding
        try:
            async with asyncio.timeout(limit):
                return await self._heard_or_found(submitted)
        except TimeoutError:
            raise NoEnding(submitted.task_id, limit) from None
        finally:
            self._waiting.pop(submitted.task_id, None)

    async def _heard_or_found(self, submitted: Submitted) -> Ending:
        pause = FIRST_POLL_SECONDS
        while True:
            done, _ = await asyncio.wait([submitted.ending], timeout=pause)
            if done:
                return await self._whole(submitted.ending.result())
            pause = min(LAST_POLL_SECONDS, 2 * pause)
            try:
                found = await self.find(submitted.task_id)
            except (NoService, BrokerUnavailable):
                continue  # it may come back before the deadline; the limit above is the end of patience
            if found is not None:
                return found

    async def status(self, task_id: str) -> DeliberationStatus:
        """How it is doing. Raises NoService when nobody answers, InvalidMessage for an impossible `task_id`."""
        try:
            question = DeliberationGet(task_id=task_id)
        except ValidationError as error:
            raise InvalidMessage(describe(error)) from None
        try:
            answer = await self._wire.nc.request(topology.GET, question.encode(), timeout=GET_TIMEOUT_SECONDS)
        except nats.errors.NoRespondersError as error:
            raise NoService from error
        except (nats.errors.Error, TimeoutError) as error:
            raise BrokerUnavailable("the connected server", str(error) or type(error).__name__) from error
        status = decode(DeliberationStatus, answer.data)
        if status.results_ref is not None:
            results = await self._results(status.results_ref)
            return status.model_copy(update={"results": results})
        return status

    async def find(self, task_id: str) -> Ending | None:
        """The ending of an earlier deliberation, or None if it has none yet. Raises as `status` does."""
        seq = (await self.status(task_id)).ending_seq
        stored = await self._wire.get(topology.DELIBERATIONS, seq) if seq is not None else None
        return await self._whole(decode_ending(stored.data)) if stored is not None else None

    async def cancel(self, task_id: str, reason: str | None = None) -> None:
        """Ask for it to be stopped. Returns when NATS has stored that; the ending tells what came of it. Raises as `submit` does."""
        try:
            cancel = DeliberationCancel(task_id=task_id, reason=reason)
        except ValidationError as error:
            raise InvalidMessage(describe(error)) from None
        await self._store(topology.CANCEL, cancel.encode())

    async def watch(self, task_id: str) -> AsyncIterator[Tally]:
        """The tally whenever it changes, until it has ended. Raises BrokerUnavailable, NoService."""
        bucket = await self._tallies()
        watcher = await bucket.watch(task_id)
        try:
            async for entry in watcher:
                if entry is None or not entry.value:
                    continue
                tally = Tally.model_validate_json(entry.value)
                yield tally
                if tally.ended:
                    return
        finally:
            await watcher.stop()  # type: ignore[no-untyped-call]  # nats-py's own

    async def tallies(self) -> list[Tally]:
        """Every deliberation the service remembers, the newest first. Raises BrokerUnavailable, NoService."""
        found: dict[str, Tally] = {}
        try:
            async with aclosing(scan(self._wire, topology.TALLIES, topology.tally_subject(">"))) as messages:
                async for message in messages:
                    if message.data:
                        found[message.subject] = Tally.model_validate_json(message.data)
                    else:
                        found.pop(message.subject, None)  # forgotten while we read
        except StreamNotFound as error:
            raise NoService from error
        return sorted(found.values(), key=lambda tally: tally.accepted_at, reverse=True)

    @property
    def deadletters(self) -> DeadLetters:
        """The messages nobody could use: to look at, put back or remove."""
        return DeadLetters(self._wire)

    async def _store(self, subject: str, body: bytes, headers: Mapping[str, str] | None = None) -> int:
        try:
            return (await self._wire.publish(subject, body, headers=headers)).seq
        except BrokerUnavailable as error:
            if isinstance(error.__cause__, nats.js.errors.NoStreamResponseError):
                raise NoService from error
            raise

    async def _tallies(self) -> KeyValue:
        try:
            return await self._wire.js.key_value(topology.TALLIES_BUCKET)
        except nats.js.errors.NotFoundError as error:
            raise NoService from error
        except (nats.errors.Error, TimeoutError) as error:
            raise BrokerUnavailable("the connected server", str(error) or type(error).__name__) from error

    # ── endings ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _future(self, task_id: str) -> asyncio.Future[Ending]:
        # An ending may arrive before its PubAck is read: the future is made by whoever comes first.
        if task_id not in self._waiting:
            self._waiting[task_id] = asyncio.get_running_loop().create_future()
        return self._waiting[task_id]

    async def _hear(self, message: Msg) -> None:
        try:
            ending = decode_ending(message.data)
        except InvalidMessage:
            return  # not an ending: nobody of ours sent it
        future = self._future(ending.task_id)
        if not future.done():
            future.set_result(ending)
        if len(self._waiting) > KEPT_ENDINGS:
            # Whoever submits and never asks must not fill our memory; `find` still brings those endings.
            heard = (task_id for task_id, waiting in self._waiting.items() if waiting.done())
            self._waiting.pop(next(heard, ""), None)

    async def _whole(self, ending: Ending) -> Ending:
        """The ending with its results, wherever they are kept."""
        if ending.results_ref is None:
            return ending
        return ending.model_copy(update={"results": await self._results(ending.results_ref)})

    async def _results(self, ref: Any) -> tuple[AgentResult, ...]:
        return _RESULTS.validate_json(await self._wire.get_object(ref), strict=False)
