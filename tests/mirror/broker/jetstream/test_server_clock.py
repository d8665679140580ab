"""The server's time: measured over the connection, whatever this machine's own clock says."""

import asyncio
import json
import logging
import time as real
from dataclasses import dataclass, field
from typing import Any

import nats.errors
import pytest
from nats.aio.msg import Msg

from parley.broker.asyncio_helpers import BackgroundLoop
from parley.broker.core.timestamps import format_timestamp
from parley.broker.jetstream import server_clock
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.nats_client import NatsClient as Nats
from parley.broker.jetstream.server_clock import MEASURE_SECONDS, ServerClock
from tests.harness import until

# The server's clock at the start; this machine's monotonic clock begins at 0.
EPOCH = 1_800_000_000.0


@dataclass
class Machine:
    """Stands in for the module `time`: this machine's clock is `skew` seconds ahead of the server's."""

    skew: float = 0.0
    passed: float = 0.0

    def time(self) -> float:
        return EPOCH + self.skew + self.passed

    def monotonic(self) -> float:
        return self.passed


@dataclass
class Connection:
    """Answers as the server does, after the round trips given (there and back, in seconds)."""

    machine: Machine
    trips: list[tuple[float, float]] = field(default_factory=list)
    # The server's own clock was set by this much.
    step: float = 0.0
    answer: dict[str, Any] | None = None

    async def request(self, _: str, __: bytes, timeout: float) -> Msg:
        there, back = self.trips.pop(0) if self.trips else (0.001, 0.001)
        if there + back > timeout:
            raise nats.errors.TimeoutError
        self.machine.passed += there
        at = format_timestamp(EPOCH + self.machine.passed + self.step)
        self.machine.passed += back
        body = self.answer if self.answer is not None else {"ts": at}
        return Msg(_client=None, data=json.dumps(body).encode())  # type: ignore[arg-type]  # only the data is read


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr(server_clock, "time", made)
    return made


def clock_of(machine: Machine, **connection: Any) -> tuple[ServerClock, Connection]:
    made: Any = Connection(machine, **connection)
    return ServerClock(made), made


def error(clock: ServerClock, machine: Machine, step: float = 0.0) -> float:
    return abs(clock.now() - (EPOCH + machine.passed + step))


@pytest.mark.parametrize("skew", [0.0, 20.0, -20.0, 600.0, 3_600.0, -3_600.0])
async def test_the_offset_of_this_machines_clock_is_found(machine: Machine, skew: float) -> None:
    machine.skew = skew
    clock, _ = clock_of(machine)
    assert error(clock, machine) == pytest.approx(abs(skew))
    assert await clock.measure()
    assert error(clock, machine) < 0.003
    assert clock.offset == pytest.approx(skew, abs=0.003)


async def test_the_quickest_of_a_few_answers_counts(machine: Machine) -> None:
    clock, _ = clock_of(machine, trips=[(0.0, 0.4), (0.001, 0.001), (0.9, 0.0)])
    assert await clock.measure()
    assert error(clock, machine) < 0.003


async def test_a_step_of_this_machines_clock_changes_nothing(machine: Machine) -> None:
    clock, _ = clock_of(machine)
    await clock.measure()
    machine.skew = 3_600.0
    assert error(clock, machine) < 0.003
    assert clock.offset == pytest.approx(3_600, abs=0.003)


async def test_a_step_of_the_servers_clock_is_found_at_the_next_measurement(machine: Machine) -> None:
    clock, connection = clock_of(machine)
    await clock.measure()
    for step in (30.0, -30.0, 0.05):
        connection.step = step
        machine.passed += MEASURE_SECONDS
        await clock.measure()
        assert error(clock, machine, step) < 0.003


async def test_a_slow_answer_later_does_not_spoil_what_is_known(machine: Machine) -> None:
    clock, connection = clock_of(machine)
    await clock.measure()
    machine.passed += MEASURE_SECONDS
    connection.trips = [(0.0, 1.5)] * 3
    await clock.measure()
    assert error(clock, machine) < 0.005


@pytest.mark.parametrize(
    "connection", [{"trips": [(5.0, 5.0)]}, {"answer": {"error": {"code": 404}}}, {"answer": {"ts": "now"}}]
)
async def test_without_an_answer_the_time_goes_on_and_the_log_says_so_once(
    machine: Machine, connection: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    clock, _ = clock_of(machine, **connection)
    assert not await clock.measure()
    connection = {**connection}
    assert error(clock, machine) < 0.001
    assert caplog.text.count("the time of the NATS server is not known") == 1


async def test_a_refusal_is_told_in_the_words_of_the_server(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    clock, _ = clock_of(machine, answer={"error": {"code": 404, "description": "stream not found"}})
    assert not await clock.measure()
    assert caplog.messages == ["the time of the NATS server is not known: stream not found"]


async def test_more_than_a_second_is_told_once_a_change(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    clock, _ = clock_of(machine)
    said: list[int] = []
    for skew in (0.9, 600.0, 600.5, 0.0, 0.0):
        machine.skew = skew
        with caplog.at_level(logging.WARNING):
            await clock.measure()
        said.append(len(caplog.records))
        assert (clock.note is not None) is (skew > 1)
    assert said == [0, 1, 1, 2, 2]
    assert caplog.messages[0].startswith("this machine's clock is 600.0 s ahead of the NATS server's")
    assert caplog.messages[1] == "this machine's clock agrees with the NATS server's again"


async def test_a_real_server_says_its_time(wire: JetStream) -> None:
    assert await wire.clock.measure()
    assert abs(wire.clock.now() - real.time()) < 0.05


async def test_it_is_measured_again_after_a_reconnect(nc: Nats, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = 0

    class Counting(ServerClock):
        async def measure(self) -> bool:
            nonlocal measured
            measured += 1
            return await super().measure()

    loop = BackgroundLoop(Counting(nc).run, "the clock")
    try:
        await until(lambda: measured == 1, "measured at the start")
        assert nc._transport is not None
        nc._transport.close()  # type: ignore[no-untyped-call]  # as a network does that fails
        await until(lambda: nc.reconnects == 1 and measured == 2, "measured again")
    finally:
        loop.cancel()
        await asyncio.sleep(0)


async def test_nothing_begins_before_the_server_has_said_its_time(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_clock, "RETRY_SECONDS", 0.0)
    machine.skew = 180.0
    clock, _ = clock_of(machine, trips=[(5.0, 5.0), (5.0, 5.0)])
    await clock.wait_measured()
    assert abs(error(clock, machine)) < 0.01
