"""The Python client: ask, wait, look, cancel. Any language can do the same with a NATS client and docs/contract.md.

    async with parley.connect("nats://127.0.0.1:4222") as client:
        ending = await client.deliberate("Write a factorial function", agents=3)

        job = await client.submit("Which of these two migrations is safer?", agents=5, select="judge")
        async for event in job.events():
            print(event.type)
        ending = await job.ending()

The client has an inbox of its own for its endings (`Parley-Reply-To`), so it need not read everyone's. Core NATS
delivers there at most once; in case a message is lost, the client also asks `deliberation.get` now and then.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from typing import Any, TypeVar, Unpack

import nats.errors
from pydantic import TypeAdapter
from pydantic_core import PydanticSerializationError, to_json

from parley.broker.asyncio_helpers import cancel_all
from parley.broker.core import errors, headers_and_ids, messages
from parley.broker.core.errors import InvalidMessage, Unavailable
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
from parley.broker.jetstream.direct_reads import read_all, read_changed, read_last
from parley.broker.jetstream.ending_of_stored_message import ending_of
from parley.broker.jetstream.jetstream import JetStream, StoredMessage
from parley.broker.jetstream.nats_access import OPTION_NAMES, NatsAccess, NatsOptions
from parley.broker.jetstream.object_store import get_object
from parley.broker.jetstream.tally_of_stored_message import tally_of
from parley.client_errors import ClientClosed, NoService, UnknownDeliberation, never_stored
from parley.current_trace import current_trace
from parley.ending_inbox import EndingInbox
from parley.find_nats import find_server
from parley.job import Job
from parley.request_arguments import Asking, body_of, compose, in_arguments
from parley.service_processes import running_processes
from parley.stored_questions import read_questions
from parley.tally_watch import TallyWatch

GET_TIMEOUT_SECONDS = 5.0
_RESULTS = TypeAdapter(tuple[messages.AgentResult, ...])


Result = TypeVar("Result")


def _encoded(kind: type[messages.Message], **fields: str | None) -> bytes:
    try:
        return decode(kind, to_json(fields)).encode()
    except InvalidMessage as error:
        problems = [in_arguments(problem) for problem in error.problems]
    except PydanticSerializationError:
        problems = [f"{', '.join(fields)}: not UTF-8 text"]
    raise InvalidMessage(problems)


@contextmanager
def _no_service_without_streams() -> Iterator[None]:
    """A NATS without Parley's streams has no service either."""
    try:
        yield
    except errors.StreamNotFound as error:
        raise NoService from error


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
        try:
            yield client
        finally:
            await client.close()
    finally:
        await close(nc)


class Client:
    """Made by `connect`. Safe to use from many tasks of one event loop."""

    def __init__(self, jetstream: JetStream) -> None:
        self._jetstream = jetstream
        # Where the service sends this client's endings.
        self._inbox = jetstream.nc.new_inbox()
        self._endings = EndingInbox()
        self._watch = TallyWatch(jetstream)
        # Set once the client is closed: all who wait are told.
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def listen(self) -> None:
        """Subscribe to this client's endings. `connect` has done it."""
        await self._jetstream.nc.subscribe(self._inbox, cb=self._endings.receive)

    async def close(self) -> None:
        """Wake all who wait: they get ClientClosed. The end of a `connect` block does it."""
        if not self._closed.done():
            self._closed.set_result(None)
        await self._watch.close()

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

    async def submit(self, task_description: str | None = None, **asking: Unpack[Asking]) -> Job:
        """Store the request and return at once; `Job.ending` waits for the ending. Takes the arguments of `deliberate`.

        Raises InvalidMessage, BrokerUnavailable, NoService (no streams).
        """
        return await self.submit_request(compose(task_description, **asking))

    async def submit_request(
        self, request: messages.DeliberationRequested, *, traceparent: str | None = None
    ) -> Job:
        """As `submit`, for a request as it is on the wire. `traceparent`: of who asks, instead of the current span."""
        trace = {"traceparent": traceparent} if traceparent else current_trace()
        headers = {headers_and_ids.REPLY_TO: self._inbox, **trace}
        seq = await self._publish(topology.REQUESTED, body_of(request), headers)
        own_name = headers_and_ids.own_name(seq)
        task_id = request.task_id or own_name
        again = task_id in self._endings and task_id != own_name
        rejection = self._endings.rejection(own_name, task_id)
        return Job(
            self, task_id, timeout_seconds=request.timeout_seconds, own_name=own_name,
            arrival=self._endings.arrival(task_id), rejection=rejection, again=again,
        )  # fmt: skip

    def job(self, task_id: str) -> Job:
        """A deliberation that another process has submitted. Raises InvalidMessage for an impossible `task_id`; whether
        there is one of that name is found out by its methods."""
        _encoded(messages.DeliberationGet, task_id=task_id)
        return Job(self, task_id)

    async def ending(self, job: Job, *, wait_seconds: float | None = None) -> Ending:
        """As `Job.ending`."""
        return await job.ending(timeout=wait_seconds)

    async def as_completed(self, jobs: Iterable[Job]) -> AsyncGenerator[Job, None]:
        """Each of these as soon as its ending is there, or cannot be waited for: `Job.ending` returns, or raises, at once
        then."""
        waiting = {asyncio.create_task(job.ending()): job for job in jobs}
        try:
            while waiting:
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    with suppress(errors.ParleyError):
                        task.result()  # a bug is raised
                    yield waiting.pop(task)
        finally:
            await cancel_all(waiting)

    async def map(
        self, questions: Iterable[str | Mapping[str, Any]], *, limit: int = 100, **asking: Unpack[Asking]
    ) -> AsyncGenerator[Ending, None]:
        """Ask each of these, at most `limit` at a time, and yield the endings in the order of the questions.

        A question is a text, or a mapping of the arguments of `deliberate` that are its own; `asking` holds for all. Raises
        as `deliberate`; then those that are under way are not cancelled.
        """
        if limit < 1:
            raise ValueError(f"limit: {limit} is less than 1")
        left = iter(questions)
        running: deque[asyncio.Task[Ending]] = deque()
        try:
            while True:
                while len(running) < limit and (question := next(left, None)) is not None:
                    own = {"task_description": question} if isinstance(question, str) else question
                    # Any: the arguments are checked when they are used.
                    arguments: Any = {**asking, **own}
                    running.append(asyncio.create_task(self.deliberate(**arguments)))
                if not running:
                    return
                yield await running[0]
                running.popleft()
        finally:
            await cancel_all(running)

    async def status(self, task_id: str) -> DeliberationStatus:
        """How the deliberation is doing.

        Raises NoService when no service answers, BrokerUnavailable, InvalidMessage for an impossible `task_id`.
        """
        return await self._asked(_encoded(messages.DeliberationGet, task_id=task_id))

    async def _asked(self, question: bytes) -> DeliberationStatus:
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
        """The ending of an earlier deliberation, None if it has none yet. Raises UnknownDeliberation for one that was never
        stored, or is forgotten; else as `status`."""
        status = await self.status(task_id)
        if never_stored(status):
            raise UnknownDeliberation(task_id)
        seq = status.ending_seq
        stored = await self._jetstream.get(topology.DELIBERATIONS, seq) if seq is not None else None
        ending = ending_of(stored, task_id) if stored is not None else None
        return await self.with_results(ending) if ending is not None else None

    async def cancel(self, task_id: str, reason: str | None = None) -> None:
        """Ask for the deliberation to be stopped. Returns when NATS has stored that; the ending says whether it was.

        `reason`: at most 1,000 characters, recorded in the ending. Raises as `submit` does.
        """
        body = _encoded(messages.DeliberationCancel, task_id=task_id, reason=reason)
        await self._publish(topology.CANCEL, body)

    async def watch(self, task_id: str) -> AsyncIterator[Tally]:
        """The tally whenever it has changed, until the deliberation has ended. Raises as `status` does."""
        async with aclosing(self.follow(task_id)) as tallies:
            async for tally in tallies:
                yield tally
                if tally.ended:
                    return

    async def tallies(self) -> list[Tally]:
        """Every deliberation that the service remembers, the newest first. Raises BrokerUnavailable, NoService."""
        found: dict[str, Tally] = {}
        async with aclosing(self.changes(1)) as changes:
            async for _, task_id, tally in changes:
                found.pop(task_id, None)  # it may be forgotten by the service while we read
                if tally is not None:
                    found[task_id] = tally
        return sorted(found.values(), key=lambda tally: tally.accepted_at, reverse=True)

    async def changes(self, since: int) -> AsyncGenerator[tuple[int, str, Tally | None], None]:
        """The tallies that were written at or after this place of their bucket, oldest first: (place, `task_id`, the tally;
        None: forgotten, or unreadable). Raises as `status` does."""
        prefix = topology.tally_subject("")
        stored = read_all(self._jetstream, topology.TALLIES, topology.tally_subject(">"), first=since)
        with _no_service_without_streams():
            async with aclosing(stored) as found:
                async for message in found:
                    yield message.seq, message.subject.removeprefix(prefix), tally_of(message)

    async def tallies_named(self, task_ids: Sequence[str]) -> tuple[dict[str, Tally], int]:
        """The tallies of these, at most 1,000, as they are now, by `task_id`; and up to which place of their bucket that
        holds. Raises as `status` does."""
        if not task_ids:
            return {}, 0
        subjects = [topology.tally_subject(task_id) for task_id in task_ids]
        with _no_service_without_streams():
            stored, place = await read_changed(self._jetstream, topology.TALLIES, subjects, 0)
        tallies = filter(None, map(tally_of, stored))
        return {tally.task_id: tally for tally in tallies}, place

    async def request_of(self, task_id: str) -> bytes | None:
        """The question of this deliberation as it was asked, JSON; None if it is no longer stored. Raises as `status`."""
        tally = await self.tally(task_id)
        stored = (
            await self._jetstream.get(topology.REQUESTS, tally.request_seq) if tally is not None else None
        )
        return stored.data if stored is not None and stored.subject == topology.REQUESTED else None

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
        with _no_service_without_streams():
            return await read_last(self._jetstream, topology.TALLIES, topology.tally_subject(task_id))

    # ── NATS ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _publish(self, subject: str, body: bytes, headers: Mapping[str, str] | None = None) -> int:
        try:
            return (await self._jetstream.publish(subject, body, headers=headers)).seq
        except errors.StreamSilent as error:
            if await self._jetstream.anybody_answers(topology.GET, b'{"task_id": "x"}', 1.0):
                raise  # there is a service: the stream has no leader
            raise NoService from error

    # ── for jobs ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def while_open(self, work: Coroutine[Any, Any, Result]) -> Result:
        """The result of `work`. Raises ClientClosed if the client is closed before."""
        task = asyncio.create_task(work)
        either: set[asyncio.Future[Any]] = {task, self._closed}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ClientClosed
            return task.result()
        finally:
            await cancel_all([task])

    @contextmanager
    def waiting_for(self, task_id: str, own_name: str, arrival: asyncio.Future[Ending]) -> Iterator[None]:
        """As long as the block lasts, `arrival` is resolved when an ending of this name arrives."""
        self._endings.wait_again(task_id, arrival)
        try:
            yield
        finally:
            self._endings.forget(task_id)
            self._endings.forget(own_name)

    async def follow(self, task_id: str) -> AsyncGenerator[Tally, None]:
        """The tally now and whenever it has changed, until it names its ending. Raises as `status` does."""
        _encoded(messages.DeliberationGet, task_id=task_id)  # the name becomes part of a subject
        with _no_service_without_streams():
            async with aclosing(self._watch.follow(task_id)) as tallies:
                async for tally in tallies:
                    yield tally

    async def answers_so_far(self, task_id: str, names: Sequence[str]) -> dict[str, messages.AgentResult]:
        """The answers of these, at most 8, as far as they are there; also while it runs. Raises as `status` does."""
        found: dict[str, messages.AgentResult] = {}
        for some in (names, *([name] for name in names)):  # those that do not fit together, each alone
            if left := [name for name in some if name not in found]:
                question = messages.DeliberationGet(task_id=task_id, answers_of=tuple(left)).encode()
                status = await self._asked(question)
                found |= {result.agent_id: result for result in status.results if result.agent_id in left}
        return found

    async def with_results(self, ending: Ending) -> Ending:
        if ending.results_ref is None:
            return ending
        return ending.model_copy(update={"results": await self._results(ending.results_ref)})

    async def _results(self, ref: messages.ResultsRef) -> tuple[messages.AgentResult, ...]:
        return _RESULTS.validate_json(await get_object(self._jetstream, ref), strict=False)
