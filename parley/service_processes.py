"""Asks which processes of the service run: each answers for itself (`deliberation.service`). Part of the client."""

import asyncio
from contextlib import suppress

from nats.aio.msg import Msg

from parley.broker.core.errors import InvalidMessage
from parley.broker.core.messages import ServiceProcess, decode
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream

# A process's checks take up to 3 s.
ANSWERS_SECONDS = 4.0
# After an answer, the next comes within this time.
QUIET_SECONDS = 1.2
# Processes that are listed at most.
MAX_PROCESSES = 1_000
# NATS's answer where nobody listens.
NO_RESPONDERS = "503"


async def running_processes(jetstream: JetStream) -> tuple[ServiceProcess, ...]:
    """The processes that answer, the oldest first. Takes 1.2 to 4 s. Raises BrokerUnavailable."""
    answers: asyncio.Queue[Msg] = asyncio.Queue()
    found: dict[str, ServiceProcess] = {}
    nc = jetstream.nc
    with jetstream.translate_errors():
        inbox = nc.new_inbox()
        subscription = await nc.subscribe(inbox, cb=answers.put)
        try:
            await nc.ask(topology.SERVICE, b"{}", inbox)
            with suppress(TimeoutError):  # all who answer have answered
                async with asyncio.timeout(ANSWERS_SECONDS):
                    await _collect(answers, found)
        finally:
            await subscription.unsubscribe()
    return tuple(sorted(found.values(), key=lambda process: (process.started_at, process.process)))


async def _collect(answers: asyncio.Queue[Msg], found: dict[str, ServiceProcess]) -> None:
    """Take answers until it is quiet. Raises TimeoutError then."""
    while len(found) < MAX_PROCESSES:
        async with asyncio.timeout(QUIET_SECONDS if found else None):
            answer = await answers.get()
        if (answer.headers or {}).get("Status") == NO_RESPONDERS:
            return
        with suppress(InvalidMessage):  # not of the service
            process = decode(ServiceProcess, answer.data)
            found[process.process] = process
