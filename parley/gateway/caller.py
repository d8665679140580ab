"""Who sends a request: its tenant, its bounds, and the client that asks for it."""

import asyncio
import time
from dataclasses import dataclass
from http import HTTPStatus

from parley.broker.core.errors import InvalidMessage, ParleyError
from parley.broker.core.messages import DeliberationRequested, DeliberationStatus, Ending
from parley.broker.core.states_and_moves import ENDED_STATUSES, STATUS_WORDS, State
from parley.client import Client
from parley.client_errors import NoEnding, UnknownDeliberation
from parley.gateway.problems import Problem, invalid, not_found, try_again
from parley.gateway.tenants import Tenant, TenantUsage
from parley.job import Job
from parley.job_events import Told

# One that is told to come again because too many of its deliberations run.
IN_FLIGHT_SECONDS = 1.0
# A request waits so long for an ending at most: proxies give up after a minute or two.
MAX_WAIT_SECONDS = 60.0


class Accounts:
    """What each tenant has used of its bounds in this gateway."""

    def __init__(self) -> None:
        self._usage: dict[str, TenantUsage] = {}
        # One task for each deliberation that is counted as in flight.
        self._waiting: set[asyncio.Task[None]] = set()

    def usage(self, tenant: Tenant) -> TenantUsage:
        if tenant.name not in self._usage:
            self._usage[tenant.name] = TenantUsage(tenant, time.monotonic())
        return self._usage[tenant.name]

    def count(self, usage: TenantUsage, job: Job) -> None:
        """Count this deliberation as in flight until it has ended."""
        if usage.begin(job.task_id):
            task = asyncio.create_task(_count_to_end(usage, job), name="tenant's deliberation")
            self._waiting.add(task)
            task.add_done_callback(self._waiting.discard)

    async def close(self) -> None:
        for task in self._waiting:
            task.cancel()
        await asyncio.gather(*self._waiting, return_exceptions=True)


async def _count_to_end(usage: TenantUsage, job: Job) -> None:
    ending: Ending | None = None
    try:
        ending = await job.ending()
    except ParleyError:
        pass  # closed, or no ending in time: it counts no longer
    finally:
        cost = ending.cost if ending is not None else None
        usage.end(
            job.task_id, cost.prompt_tokens + cost.completion_tokens if cost is not None else _plain(ending)
        )


def _plain(ending: Ending | None) -> int:
    """What an ending without phases has cost, as far as its answers tell."""
    return sum(result.usage.total_tokens for result in ending.results) if ending is not None else 0


@dataclass(frozen=True, slots=True)
class Caller:
    tenant: Tenant
    client: Client
    accounts: Accounts
    traceparent: str | None = None

    def job(self, task_id: str) -> Job:
        """A deliberation of this tenant. Raises Problem, the same for another's and for none."""
        try:
            job = self.client.job(task_id)
        except InvalidMessage:
            raise not_found(task_id[:64]) from None
        if not self.tenant.owns(task_id):
            raise not_found(task_id)
        return job

    async def submit(self, asked: DeliberationRequested) -> Job:
        """Store a question within the tenant's bounds. Raises Problem beyond them, Unavailable."""
        if not self.tenant.name:
            return await self.client.submit_request(asked, traceparent=self.traceparent)
        usage, now = self.accounts.usage(self.tenant), time.monotonic()
        if usage.in_flight >= self.tenant.in_flight:
            words = f"{usage.in_flight} of your deliberations run, as many as may; wait for one to end"
            raise try_again(HTTPStatus.TOO_MANY_REQUESTS, words, IN_FLIGHT_SECONDS)
        if wait := usage.wait_for_tokens(self.tenant, now):
            words = f"your {self.tenant.tokens_per_day} tokens of this day are used"
            raise try_again(HTTPStatus.TOO_MANY_REQUESTS, words, wait)
        job = await self.client.submit_request(asked, traceparent=self.traceparent)
        self.accounts.count(usage, job)
        return job

    def check_rate(self) -> None:
        """Count one request. Raises Problem beyond the tenant's rate."""
        if not self.tenant.name:
            return
        wait = self.accounts.usage(self.tenant).wait_for_request(self.tenant, time.monotonic())
        if wait:
            rate = f"more than {self.tenant.requests_per_second:g} requests a second"
            raise try_again(HTTPStatus.TOO_MANY_REQUESTS, rate, wait)


async def known(job: Job) -> DeliberationStatus:
    """Its status. Raises Problem for one that is not known."""
    try:
        return await job.status()
    except UnknownDeliberation:
        raise not_found(job.task_id) from None


def told_of(event_id: str, field: str) -> Told:
    """What was told up to the event of this id, which the caller sends as `field`. Raises Problem."""
    try:
        return Told.read(event_id)
    except ValueError:
        raise invalid([f"{field}: not the id of an event"]) from None


async def ending_within(job: Job, seconds: float) -> Ending | None:
    """Its ending, None if there is none in this time. Raises Problem for one that is not known."""
    try:
        return await job.ending(timeout=seconds)
    except NoEnding:
        return None
    except UnknownDeliberation:
        raise not_found(job.task_id) from None


async def stop(job: Job, reason: str | None) -> DeliberationStatus:
    """Ask for it to be stopped; how it was doing until then. Raises Problem for one that has ended, or is not known."""
    status = await known(job)
    if status.status in ENDED_STATUSES:
        raise Problem(HTTPStatus.CONFLICT, f"{job.task_id} has ended: {status.status}")
    try:
        await job.cancel(reason)
    except InvalidMessage as error:
        raise invalid(error.problems) from None
    return status


def status_word(ending: Ending) -> str:
    """COMPLETED, FAILED or TIMEOUT."""
    return STATUS_WORDS[State(ending.status)]
