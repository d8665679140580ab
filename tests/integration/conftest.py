"""A test that leaves something behind in NATS fails: a consumer, a timer, a message that is not acknowledged. So does one
in whose process a handler raised, although the next delivery may have mended it."""

from collections.abc import AsyncIterator, Iterator

import pytest

from parley.broker.jetstream import topology
from parley.broker.jetstream.store_probe import PROBED
from tests.harness import Running, until

# What a test has started ends within this. A redelivery takes ACK_WAIT_SECONDS.
SETTLE_SECONDS = 15.0
# In what `parley.handlers.settle` logs then.
RAISED = "failed on delivery"
DURABLES = {durable.name for durable in topology.DURABLES}


async def left_behind(on: Running) -> list[str]:
    """What no deliberation needs any more, in words."""
    jetstream, found = on.nats.jetstream(), []
    for stream in {durable.stream for durable in topology.DURABLES}:
        for consumer in await jetstream.consumers_info(stream):
            if consumer.name not in DURABLES:
                found.append(f"consumer {consumer.name} on {stream}")
            elif consumer.name == topology.CANCELLER.name:
                continue  # a cancel of an unknown name waits a minute for its request
            elif consumer.num_ack_pending or consumer.num_pending:
                counts = f"{consumer.num_ack_pending} unacknowledged, {consumer.num_pending} waiting"
                found.append(f"{consumer.name}: {counts}")
    timers = await jetstream.stream_info(topology.DELIBERATIONS, subjects_filter=topology.timer_subject("*"))
    # The probe of the store is there for some seconds, again and again.
    probe = PROBED[topology.DELIBERATIONS]
    return found + [f"timer {subject}" for subject in timers.state.subjects or {} if subject != probe]


@pytest.fixture(autouse=True)
def no_handler_raises(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    raised = [record.getMessage() for record in caplog.get_records("call") if RAISED in record.msg]
    assert not raised, raised


@pytest.fixture(autouse=True)
async def nothing_left_behind(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """Checks each `Running` that the test has as an argument."""
    yield
    for value in list(request.node.funcargs.values()):
        if isinstance(value, Running):
            left: list[str] = []

            async def clean(on: Running = value, left: list[str] = left) -> bool:
                left[:] = await left_behind(on)
                return not left

            try:
                await until(clean, "NATS is as before the test", SETTLE_SECONDS)
            except AssertionError:
                pytest.fail(f"left behind: {', '.join(left)}")
