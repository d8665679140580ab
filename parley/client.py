"""The Python client: ask, wait, look, cancel. Any language can do the same with a NATS client and docs/contract.md.

    async with parley.connect("nats://127.0.0.1:4222") as client:
        ending = await client.deliberate("Write a factorial function", agents=3)

The client has an inbox of its own for its endings (`Parley-Reply-To`), so it need not read everyone's. Core NATS
delivers there at most once; in case a message is lost, the client also asks `deliberation.get` now and then.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Unpack
from weakref import WeakValueDictionary

import nats.errors
from nats.aio.msg import Msg
from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_json

from parley.broker.core import errors, headers_and_ids, messages
from parley.broker.core.backoff import backoff
from parley.broker.core.errors import BrokerUnavailable, InvalidMessage, Unavailable
from parley.broker.core.messages import (
    DeliberationStatus,
    Ending,
    ServiceProcess,
    decode,
)
from parley.broker.core.reply_subjects import CLIENT_INBOX
from parley.broker.core.tally import Tally
from parley.broker.jetstream import topology
from parley.broker.jetstream.connection import close
from parley.broker.jetstream.connection import connect as open_connection
from parley.broker.jetstream.deadletters import DeadLetters
from parley.broker.jetstream.direct_reads import read_all, read_last
from parley.broker.jetstream.ending_of_stored_message import ending_of
from parley.broker.jetstream.jetstream import JetStream, StoredMessage
from parley.broker.jetstream.nats_access import OPTION_NAMES, NatsAccess, NatsOptions
from parley.broker.jetstream.object_store import get_object
from parley.client_errors import NoEnding, NoService
from parley.find_nats import find_server
from parley.request_arguments import Asking, body_of, compose, in_arguments
from parley.service_processes import running_processes
from parley.stored_questions import read_questions

# The service ends a deliberation within one second of its deadline. After this long, waiting is in vain.
GRACE_SECONDS = 10.0
# Parley's default deadline, for a request that names none: a client does not know the service's settings.
ASSUMED_TIMEOUT_SECONDS = 300.0
# Between two questions whether an ending was missed: doubled from the first to the last.
FIRST_POLL_SECONDS, LAST_POLL_SECONDS = 2.0, 15.0
GET_TIMEOUT_SECONDS = 5.0
# Between two looks at a tally that is watched.
WATCH_SECONDS = 0.2
# Endings kept that arrived before the program waited for them.
KEPT_ENDINGS = 1_000
# Their size as JSON together; one takes up to 1 MiB.
KEPT_BYTES = 32 * 1024 * 1024
_RESULTS = TypeAdapter(tuple[messages.AgentResult, ...])


@dataclass(frozen=True, slots=True)
class Submitted:
    """A request that NATS has stored. `Client.ending` waits for its ending.

    `own_name`: the name after its place in the stream. Where `task_id` is another question's, the request is rejected
    under this name.
    """

    task_id: str
    timeout_seconds: float | None
    own_name: str
    # Resolved by the client when an ending of this name reaches its inbox.
    _arrival: "asyncio.Future[Ending]" = field(repr=False, compare=False)
    # The same for `own_name`.
    _rejection: "asyncio.Future[Ending]" = field(repr=False, compare=False)
    # This client asked under the same `task_id` before: the ending may be that of the other question.
    _again: bool = field(repr=False, compare=False)


def _encoded(kind: type[messages.Message], **fields: str | None) -> bytes:
    try:
        return decode(kind, to_json(fields)).encode()
    except InvalidMessage as error:
        problems = [in_arguments(problem) for problem in error.problems]
    except PydanticSerializationError:
        problems = [f"{', '.join(fields)}: not UTF-8 text"]
    raise InvalidMessage(problems)


@asynccontextmanager
async def connect(url: str | None = None, **options: Unpack[NatsOptions]) -> AsyncIterator["Client"]:
    """A client for as long as the block lasts.

    `url`: NATS servers, comma-separated. Without it the client takes PARLEY_NATS_URL, NATS_URL, or the URL of this
    user's running `parley up`, in this order.

    options: user and password, token (each may be in the URL too), creds_file, nkey_file: how the program proves
    itself. ca_file, cert_file, key_file, tls_first: TLS. inbox_prefix: of the subjects where answers come; the
    service's PARLEY_REPLY_PREFIXES must allow it. jetstream_domain: at a leaf node. What is left out is taken from
    PARLEY_NATS_USER, PARLEY_NATS_CREDS_FILE and so on (docs/nats.md).

    Raises SettingsError for an option that cannot be used, AccessRefused when NATS does not take the credentials or
    TLS fails, BrokerUnavailable when NATS cannot be reached, Unavailable without any URL.
    """
    if unknown := sorted(options.keys() - set(OPTION_NAMES)):
        raise TypeError(f"no such argument: {', '.join(unknown)}")
    async with connect_with(*find_server(url, options)) as client:
        yield client


@asynccontextmanager
async def connect_with(url: str | None, access: NatsAccess) -> AsyncIterator["Client"]:
    """As `connect`, for a program that has read its settings."""
    if url is None:
        raise Unavailable("NATS_URL is not set and no `parley up` runs here: start one, or set NATS_URL")
    nc = await open_connection(url, "parley-client", access.inbox_prefix or CLIENT_INBOX, access)
    try:
        client = Client(JetStream(nc))
        await client.listen()
        yield client
    finally:
        await close(nc)


class Client:
    """Made by `connect`. Safe to use from many tasks of one event loop."""

    def __init__(self, jetstream: JetStream) -> None:
        self._jetstream = jetstream
        # Where the service sends this client's endings.
        self._inbox = jetstream.nc.new_inbox()
        # By task_id: endings that are awaited, and at most KEPT_ENDINGS that arrived early.
        self._arrivals: dict[str, asyncio.Future[Ending]] = {}
        # By the name of its place: a request's rejection, for as long as the program keeps what it submitted.
        self._rejections: WeakValueDictionary[str, asyncio.Future[Ending]] = WeakValueDictionary()
        # By task_id: the bytes of each ending that arrived and was not taken, in the order of arrival; and their sum.
        self._arrived: dict[str, int] = {}
        self._arrived_bytes = 0

    async def listen(self) -> None:
        """Subscribe to this client's endings. `connect` has done it."""
        await self._jetstream.nc.subscribe(self._inbox, cb=self._on_ending)

    async def deliberate(self, task_description: str | None = None, **asking: Unpack[Asking]) -> Ending:
        """Ask several agents and wait for the ending.

        Returns `DeliberationCompleted` (read `degraded` first) or `DeliberationFailed`.

        task_description: what to deliberate on; at most 256 KiB.
        messages: instead of it, a conversation as in OpenAI's chat API, with texts and images; at most 256 KiB as JSON.
        agents: how many agents answer, 1 to 256. Default 3, or one for each of `panel` or `models`.
        role: DEV, QA, ARCHITECT, DEVOPS, DATA, or any other word. Default DEV. With NONE nothing stands around the question.
        system: the system message, instead of the role's; at most 64 KiB. `role` then only names the agents.
        rubric: how answers are judged; text, or named criteria. Reaches the agents' prompts.
        requirements: what must hold, one text each. Reaches the prompts.
        context: facts the agents need, any JSON. Reaches the prompts. Together with the two above at most 64 KiB.
        diversity: give each agent a persona, a temperature and a seed of its own. Default False.
        min_responses: answers that make the deliberation completed, 1 to `agents`. Default 1.
        finish_early: end as soon as `min_responses` agents have answered. Default False.
        timeout_seconds: the deadline, queueing included; 0.1 to 86,400. Default: the service's, 300 unless set.
        metadata: your own words, returned with the ending; at most 16 KiB. Not in the prompts.
        task_id: your own name for it, 1 to 64 of A-Z a-z 0-9 _ -. The same name twice is one deliberation. Default: the
            service gives one.
        model: the model to ask. Default: the service's.
        models: several that the agents take in turn.
        panel: who is asked, one mapping each of what is its own: {"model", "system", "persona", "temperature", "max_tokens",
            "seed"}; what it leaves out is as for all. The agents take them in turn. At most 256, and 128 KiB as JSON.
        temperature: 0 to 2. Default: the server's own. With `diversity` each agent's differs a little from it, or from 0.7.
        top_p: nucleus sampling, over 0 to 1. Default: the server's own.
        max_tokens: longest answer in tokens, 1 to 10,000,000. Default: the model server's.
        seed: makes sampling repeatable where the model server supports it. A signed 64-bit integer.
        stop: one text or up to four that end an answer, each of 1 to 256 characters.
        logprobs: ask for the log probabilities of each answer's tokens; `top_logprobs`, 0 to 20: of other tokens, too.
        response_format: the form of an answer, as in OpenAI's chat API: {"type": "json_object"}, or {"type": "json_schema",
            "json_schema": {"name", "schema"}}; at most 64 KiB. Another one is asked for once more, then fails.
        extra: more fields of each agent's call, passed on to the model server as they are; at most 16 KiB.
        rounds: how often the agents answer, 1 to 5. In each further round an agent reads two answers of others beside its
            own, none with a name, and writes a better one or keeps one of the three. With `select` "none" or "judge".
        select: how a winner is chosen: "none" (default), "judge" (judges rank the answers, without names), "rank" (those
            who answered rank the answers of the others; 4 to 9 agents) or "vote" (the answer that most agents gave).
        judges: with "judge" or `synthesize`, how many, 1 to 5. Default 3.
        judge_model, judge_models: the model that judges and the editor are asked of, or several that they take in turn.
        synthesize: an editor writes an answer from the best; it is the answer if judges prefer it to the winner's.
        answer_key: with "vote", how a final answer is read: {"last": "number"}, {"last": "line"}, {"after": "ANSWER:"} or
            {"json": "/answer"}.
        agree: with "vote", end as soon as so many answers are the same.
        max_calls: agents and judges to ask at most; a phase that would need more is left out.

        Raises InvalidMessage for a request that cannot be valid, BrokerUnavailable, NoService (no streams), NoEnding.
        """
        return await self.ending(await self.submit(task_description, **asking))

    async def submit(self, task_description: str | None = None, **asking: Unpack[Asking]) -> Submitted:
        """Store the request and return at once; `ending` waits for the ending. Takes the arguments of `deliberate`.

        Raises InvalidMessage, BrokerUnavailable, NoService (no streams).
        """
        request = compose(task_description, **asking)
        body = body_of(request)
        seq = await self._publish(topology.REQUESTED, body, {headers_and_ids.REPLY_TO: self._inbox})
        own_name = headers_and_ids.own_name(seq)
        task_id = request.task_id or own_name
        again = task_id in self._arrivals and task_id != own_name
        # It may have arrived before its PubAck.
        early = self._arrivals.pop(own_name, None) if task_id != own_name else self._arrival(own_name)
        rejection = early or asyncio.get_running_loop().create_future()
        self._rejections[own_name] = rejection
        arrival = self._arrival(task_id)
        return Submitted(task_id, request.timeout_seconds, own_name, arrival, rejection, again)

    async def ending(self, submitted: Submitted, *, wait_seconds: float | None = None) -> Ending:
        """Wait for the ending. Raises NoEnding after `wait_seconds`, by default 10 s after the deadline.

        The ending of a request whose `task_id` is another question's has the status `rejected` and its `own_name`.
        After a NoEnding it may be called again.
        """
        deadline = submitted.timeout_seconds or ASSUMED_TIMEOUT_SECONDS
        limit = deadline + GRACE_SECONDS if wait_seconds is None else wait_seconds
        # For a second call, after a NoEnding.
        self._arrivals.setdefault(submitted.task_id, submitted._arrival)
        try:
            async with asyncio.timeout(limit):
                return await self._received_or_found(submitted)
        except TimeoutError:
            raise NoEnding(submitted.task_id, limit) from None
        finally:
            self._forget(submitted.task_id)
            self._forget(submitted.own_name)

    async def status(self, task_id: str) -> DeliberationStatus:
        """How the deliberation is doing.

        Raises NoService when no service answers, BrokerUnavailable, InvalidMessage for an impossible `task_id`.
        """
        question = _encoded(messages.DeliberationGet, task_id=task_id)
        nc = self._jetstream.nc
        with self._jetstream.translate_errors():
            try:
                answer = await nc.request(topology.GET, question, timeout=GET_TIMEOUT_SECONDS)
            except nats.errors.NoRespondersError as error:
                raise NoService from error
            except nats.errors.TimeoutError as error:
                raise await self._jetstream.why_silent(topology.GET, GET_TIMEOUT_SECONDS) from error
        status = decode(DeliberationStatus, answer.data)
        if status.results_ref is not None:
            return status.model_copy(update={"results": await self._results(status.results_ref)})
        return status

    async def processes(self) -> tuple[ServiceProcess, ...]:
        """The processes of the service: what each serves, and why it is not ready. Takes 1.2 to 4 s.

        Empty when none answers. Raises BrokerUnavailable.
        """
        return await running_processes(self._jetstream)

    async def find(self, task_id: str) -> Ending | None:
        """The ending of an earlier deliberation, None if it has none yet. Raises as `status` does."""
        seq = (await self.status(task_id)).ending_seq
        stored = await self._jetstream.get(topology.DELIBERATIONS, seq) if seq is not None else None
        ending = ending_of(stored, task_id) if stored is not None else None
        return await self._with_results(ending) if ending is not None else None

    async def cancel(self, task_id: str, reason: str | None = None) -> None:
        """Ask for the deliberation to be stopped. Returns when NATS has stored that; the ending says whether it was.

        `reason`: at most 1,000 characters, recorded in the ending. Raises as `submit` does.
        """
        body = _encoded(messages.DeliberationCancel, task_id=task_id, reason=reason)
        await self._publish(topology.CANCEL, body)

    async def watch(self, task_id: str) -> AsyncIterator[Tally]:
        """The tally whenever it has changed, until the deliberation has ended. Raises as `status` does."""
        # Asked for again and again: a watch needs the right to make consumers, which is a right to write anywhere.
        seen = 0
        while True:
            stored = await self._stored_tally(task_id)
            if stored is not None and stored.seq > seen and stored.data:
                seen = stored.seq
                tally = Tally.model_validate_json(stored.data)
                yield tally
                if tally.ended:
                    return
            await asyncio.sleep(WATCH_SECONDS)

    async def tallies(self) -> list[Tally]:
        """Every deliberation that the service remembers, the newest first. Raises BrokerUnavailable, NoService."""
        found: dict[str, Tally] = {}
        stored = read_all(self._jetstream, topology.TALLIES, topology.tally_subject(">"))
        try:
            async with aclosing(stored) as messages:
                async for message in messages:
                    found.pop(message.subject, None)  # it may be forgotten by the service while we read
                    with suppress(
                        ValidationError
                    ):  # nor is there one that cannot be read: the service ends it
                        found[message.subject] = Tally.model_validate_json(message.data or b"null")
        except errors.StreamNotFound as error:
            raise NoService from error
        return sorted(found.values(), key=lambda tally: tally.accepted_at, reverse=True)

    async def tally(self, task_id: str) -> Tally | None:
        """The tally as it is now; None if the service has not taken the request in, or has forgotten it. Raises as
        `status` does."""
        stored = await self._stored_tally(task_id)
        return Tally.model_validate_json(stored.data) if stored is not None and stored.data else None

    async def questions(self, tallies: Iterable[Tally]) -> dict[str, str]:
        """What was asked, by `task_id`, of those that are still in the stream REQUESTS.

        Empty for a user without the right to read there, and when NATS does not answer within 3 s.
        """
        return await read_questions(self._jetstream, tallies)

    @property
    def connected(self) -> bool:
        """Whether there is a connection to NATS now. The client goes on reconnecting while there is none."""
        return self._jetstream.connected

    @property
    def deadletters(self) -> DeadLetters:
        """The messages that no consumer could use: to look at, put back or remove."""
        return DeadLetters(self._jetstream)

    async def _stored_tally(self, task_id: str) -> StoredMessage | None:
        _encoded(messages.DeliberationGet, task_id=task_id)  # the name becomes part of a subject
        try:
            return await read_last(self._jetstream, topology.TALLIES, topology.tally_subject(task_id))
        except errors.StreamNotFound as error:
            raise NoService from error

    # ── NATS ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _publish(self, subject: str, body: bytes, headers: Mapping[str, str] | None = None) -> int:
        try:
            return (await self._jetstream.publish(subject, body, headers=headers)).seq
        except errors.StreamSilent as error:
            if await self._jetstream.anybody_answers(topology.GET, b'{"task_id": "x"}', 1.0):
                raise  # there is a service: the stream has no leader
            raise NoService from error

    # ── endings ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _arrival(self, task_id: str) -> asyncio.Future[Ending]:
        # An ending may arrive before the PubAck of its request is read: whichever is first makes the future.
        if task_id not in self._arrivals:
            self._arrivals[task_id] = asyncio.get_running_loop().create_future()
        return self._arrivals[task_id]

    async def _on_ending(self, message: Msg) -> None:
        try:
            ending = messages.decode_ending(message.data)
        except InvalidMessage:
            return  # not from the service
        arrival = self._rejections.get(ending.task_id) or self._arrival(ending.task_id)
        if not arrival.done():
            arrival.set_result(ending)
        self._arrived_bytes += len(message.data) - self._arrived.pop(ending.task_id, 0)
        self._arrived[ending.task_id] = len(message.data)
        while self._arrived and (len(self._arrivals) > KEPT_ENDINGS or self._arrived_bytes > KEPT_BYTES):
            # Bounds the memory of a program that submits and never waits. `find` still returns the ending.
            self._forget(next(iter(self._arrived)))

    def _forget(self, task_id: str) -> None:
        self._arrivals.pop(task_id, None)
        self._arrived_bytes -= self._arrived.pop(task_id, 0)

    async def _received_or_found(self, submitted: Submitted) -> Ending:
        questions = 0
        awaited = {submitted._rejection, submitted._arrival}
        while True:
            questions += 1
            pause = backoff(questions, FIRST_POLL_SECONDS, LAST_POLL_SECONDS)
            done, _ = await asyncio.wait(awaited, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            if submitted._rejection in done:
                return await self._with_results(submitted._rejection.result())
            if done and not submitted._again:
                return await self._with_results(submitted._arrival.result())
            # A service that stands still answers late or never, and the ending may arrive meanwhile.
            question = asyncio.create_task(self._found(submitted))
            try:
                # Any: an answer or an ending.
                open_ones: set[asyncio.Future[Any]] = {
                    question,
                    *(each for each in awaited if not each.done()),
                }
                await asyncio.wait(open_ones, return_when=asyncio.FIRST_COMPLETED)
                if not question.done():
                    continue
                found = question.result()
            except (NoService, BrokerUnavailable):
                found = None  # either may be back before the deadline; `ending` limits the wait
            finally:
                question.cancel()
            if found is not None:
                return found
            if done:
                await asyncio.sleep(pause)

    async def _found(self, submitted: Submitted) -> Ending | None:
        """Its ending, as `deliberation.get` has it. Raises as `status` does."""
        if submitted.own_name != submitted.task_id:
            status = (await self.status(submitted.own_name)).status
            if (
                status != "UNKNOWN"
            ):  # rejected, or not taken in yet: then `task_id` may still be another question's
                return await self.find(submitted.own_name)
        return await self.find(submitted.task_id)

    async def _with_results(self, ending: Ending) -> Ending:
        if ending.results_ref is None:
            return ending
        return ending.model_copy(update={"results": await self._results(ending.results_ref)})

    async def _results(self, ref: messages.ResultsRef) -> tuple[messages.AgentResult, ...]:
        return _RESULTS.validate_json(await get_object(self._jetstream, ref), strict=False)
