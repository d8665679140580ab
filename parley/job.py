"""One deliberation in a program's hands: wait for it, look at it, stop it. Part of the client."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any

from parley.broker.core.backoff import backoff
from parley.broker.core.errors import BrokerUnavailable
from parley.broker.core.messages import AgentResult, DeliberationStatus, Ending
from parley.broker.core.messages.requests import MAX_ANSWERS_OF
from parley.broker.core.tally import Tally
from parley.client_errors import NoEnding, NoService, UnknownDeliberation, never_stored
from parley.job_events import AgentAnswered, JobEvent, Told, ended, name_of_answer, news

if TYPE_CHECKING:
    from parley.client import Client

# The service ends a deliberation within one second of its deadline. After this long, waiting is in vain.
GRACE_SECONDS = 10.0
# Parley's default deadline, for a request that names none: a client does not know the service's settings.
ASSUMED_TIMEOUT_SECONDS = 300.0
# Between two questions whether an ending was missed: doubled from the first to the last.
FIRST_POLL_SECONDS, LAST_POLL_SECONDS = 2.0, 15.0
# Between two looks after something is away.
AWAY_SECONDS = 1.0


class Job:
    """A deliberation. Made by `Client.submit`, and by `Client.job` for one that another process has submitted.

    `timeout_seconds`: its deadline as it was asked for; None where the service's is taken, or another process asked.
    `own_name`: the name after its place in the stream, None if another process asked. Where `task_id` is another
    question's, the request is rejected under this name.
    """

    def __init__(
        self,
        client: "Client",
        task_id: str,
        *,
        timeout_seconds: float | None = None,
        own_name: str | None = None,
        arrival: "asyncio.Future[Ending] | None" = None,
        rejection: "asyncio.Future[Ending] | None" = None,
        again: bool = False,
    ) -> None:
        self.task_id = task_id
        self.timeout_seconds = timeout_seconds
        self.own_name = own_name
        self._client = client
        # Resolved by the client when an ending of this name reaches its inbox; and the same for `own_name`.
        self._arrival = arrival
        self._rejection = rejection
        # This client asked under the same `task_id` before: the ending may be that of the other question.
        self._again = again
        # Once it is known.
        self._ending: Ending | None = None

    def __repr__(self) -> str:
        return f"Job({self.task_id!r})"

    async def ending(self, *, timeout: float | None = None) -> Ending:
        """Wait for the ending. Raises NoEnding after `timeout` seconds, by default 10 s after the deadline;
        UnknownDeliberation; ClientClosed once the client is closed.

        The ending of a request whose `task_id` is another question's has the status `rejected` and its `own_name`. After
        a NoEnding it may be called again. Several may wait at a time.
        """
        if self._ending is None:
            self._ending = await self._client.while_open(self._wait(timeout))
        return self._ending

    async def status(self) -> DeliberationStatus:
        """How it is doing. Raises UnknownDeliberation for one that was never stored, or is forgotten; else as
        `Client.status`."""
        status = await self._client.status(self.task_id)
        if never_stored(status):
            raise UnknownDeliberation(self.task_id)
        return status

    async def cancel(self, reason: str | None = None) -> None:
        """Ask for it to be stopped. As `Client.cancel`."""
        await self._client.cancel(self.task_id, reason)

    async def events(self, *, after: str | None = None) -> AsyncGenerator[JobEvent, None]:
        """What happens in it, from its beginning or behind the event whose `id` is `after`; its ending is the last.

        Each agent's report comes once. A reader that is slow misses none. Raises UnknownDeliberation, ValueError for an
        `after` that is no id; ClientClosed; as `status` when NATS or the service is away.
        """
        told = Told.read(after) if after else Told()
        if told.ended:
            return
        async with aclosing(self._tallies()) as tallies:
            while (tally := await self._client.while_open(_next(tallies))) is not None:
                for event in await self._with_words(list(news(tally, told))):
                    yield event
        yield ended(await self.ending(), told)

    # ── waiting ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _wait(self, timeout: float | None) -> Ending:
        limit = await self._patience() if timeout is None else timeout
        try:
            async with asyncio.timeout(limit):
                return await self._received_or_found()
        except TimeoutError:
            raise NoEnding(self.task_id, limit) from None

    async def _patience(self) -> float:
        if self.own_name is not None:
            return (self.timeout_seconds or ASSUMED_TIMEOUT_SECONDS) + GRACE_SECONDS
        tally = None
        with suppress(BrokerUnavailable, NoService):
            tally = await self._client.tally(self.task_id)
        seconds = tally.deadline - tally.accepted_at if tally is not None else ASSUMED_TIMEOUT_SECONDS
        return seconds + GRACE_SECONDS

    async def _received_or_found(self) -> Ending:
        """Its ending: from the inbox, or where it is stored. The inbox has that of an own request, and may miss it."""
        if self.own_name is None or self._arrival is None or self._rejection is None:
            return await self._found_at_last()
        with self._client.waiting_for(self.task_id, self.own_name, self._arrival):
            return await self._received(self._arrival, self._rejection)

    async def _received(
        self, arrival: "asyncio.Future[Ending]", rejection: "asyncio.Future[Ending]"
    ) -> Ending:
        questions = 0
        awaited = {rejection, arrival}
        while True:
            questions += 1
            pause = backoff(questions, FIRST_POLL_SECONDS, LAST_POLL_SECONDS)
            done, _ = await asyncio.wait(awaited, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            if rejection in done:
                return await self._client.with_results(rejection.result())
            if done and not self._again:
                return await self._client.with_results(arrival.result())
            # A service that stands still answers late or never, and the ending may arrive meanwhile.
            question = asyncio.create_task(self._find())
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
            except (NoService, BrokerUnavailable, UnknownDeliberation):
                found = None  # it may be back before the deadline; `ending` limits the wait
            finally:
                question.cancel()
            if found is not None:
                return found
            if done:
                await asyncio.sleep(pause)

    async def _find(self) -> Ending | None:
        """Its ending, as `deliberation.get` has it. Raises as `Client.find` does."""
        if self.own_name is not None and self.own_name != self.task_id:
            status = (await self._client.status(self.own_name)).status
            if (
                status != "UNKNOWN"
            ):  # rejected, or not taken in yet: then `task_id` may still be another question's
                return await self._client.find(self.own_name)
        return await self._client.find(self.task_id)

    async def _found_at_last(self) -> Ending:
        """Its ending, once its tally names one. Raises UnknownDeliberation."""
        while True:
            with suppress(NoService, BrokerUnavailable):  # either may be back
                if (found := await self._client.find(self.task_id)) is not None:
                    return found
                async with aclosing(self._tallies()) as tallies:
                    async for _ in tallies:
                        pass
                if (found := await self._client.find(self.task_id)) is not None:
                    return found
            await asyncio.sleep(AWAY_SECONDS)

    async def _tallies(self) -> AsyncGenerator[Tally, None]:
        """Its tally whenever it has changed, until it names its ending; none where it has ended and the tally is
        forgotten. Raises UnknownDeliberation; as `status`."""
        if await self._client.tally(self.task_id) is None:
            await self.status()  # raises where it does not exist
        async with aclosing(self._client.follow(self.task_id)) as tallies:
            async for tally in tallies:
                yield tally

    # ── words ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _with_words(self, events: list[Any]) -> list[JobEvent]:
        """These events, with the answers' words. Any: the events of `news`."""
        named = {
            event: name
            for event in events
            if isinstance(event, AgentAnswered) and (name := name_of_answer(event))
        }
        words: dict[str, AgentResult] = {}
        for some in _in_parts(list(named.values())):
            with suppress(NoService, BrokerUnavailable):
                words |= await self._client.answers_so_far(self.task_id, some)
        return [
            event.model_copy(update={"result": words.get(named[event])}) if event in named else event
            for event in events
        ]


async def _next(tallies: AsyncGenerator[Tally, None]) -> Tally | None:
    return await anext(tallies, None)


# Its name in 0.2.
Submitted = Job


def _in_parts(names: list[str]) -> Iterator[list[str]]:
    for at in range(0, len(names), MAX_ANSWERS_OF):
        yield names[at : at + MAX_ANSWERS_OF]
