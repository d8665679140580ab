"""The contract's status of the deliberations in a list: of most their tallies say it, of some only the service does."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from parley.broker.core.errors import ParleyError
from parley.broker.core.messages import DeliberationStatus
from parley.broker.core.states_and_moves import ENDED_STATUSES, STATUS_WORDS, State
from parley.broker.core.tally import Tally

# The contract's words; then those of endings that are FAILED in the contract's.
STATUSES = (*dict.fromkeys(STATUS_WORDS.values()), State.CANCELLED.name, State.REJECTED.name)
# The service is asked about so many: the newest.
MAX_ASKED = 50
# It asks its workers about at most 16 at a time, of all clients, and calls the rest PENDING unasked.
AT_A_TIME = 8
# For all the answers. One about which no worker says anything takes 0.15 s.
WAIT_SECONDS = 3.0


class StatusSource(Protocol):
    async def status(self, task_id: str) -> DeliberationStatus: ...


def status_of(tally: Tally) -> str:
    """The status as far as a tally has it: while it is PENDING, an agent may have begun already."""
    # For a client it is not over before its ending is published.
    return "IN_PROGRESS" if tally.ending_unpublished else STATUS_WORDS[tally.state]


def ending_of_tally(tally: Tally) -> str | None:
    """The ending's own word: completed, failed, timeout, cancelled or rejected. None before it is published."""
    return None if tally.ending_seq is None else tally.state.value


def may_become(tally: Tally, wanted: str) -> bool:
    """Whether the service may give one with this tally the status `wanted`, one of STATUSES."""
    status = status_of(tally)
    is_open = status not in ENDED_STATUSES and wanted in ("PENDING", "IN_PROGRESS")
    return is_open or has_status(tally, status, wanted)


def has_status(tally: Tally, status: str, wanted: str) -> bool:
    """Whether one with this tally and `status` is meant by `wanted`, one of STATUSES."""
    return wanted == status or wanted == (ending_of_tally(tally) or "").upper()


async def read_statuses(
    client: StatusSource, tallies: Sequence[Tally], *, wait_seconds: float = WAIT_SECONDS
) -> dict[str, str]:
    """The status of each, by `task_id`. `tallies`: the newest first.

    The service is asked about the newest that are pending by their tallies. What it does not say in time a tally says.
    """
    found = {tally.task_id: status_of(tally) for tally in tallies}
    pending = [tally.task_id for tally in tallies if tally.state is State.PENDING]
    places = asyncio.Semaphore(AT_A_TIME)

    async def ask(task_id: str) -> None:
        async with places:
            with suppress(ParleyError):
                status = (await client.status(task_id)).status
                if status != "UNKNOWN":  # it cannot tell now, or has forgotten it since
                    found[task_id] = status

    with suppress(TimeoutError):
        async with asyncio.timeout(wait_seconds), asyncio.TaskGroup() as group:
            for task_id in pending[:MAX_ASKED]:
                group.create_task(ask(task_id))
    return found
