"""What time it is at the NATS server. Deadlines and stored instants are the server's, so they are compared with this.

The server puts its time (`ts`) into each answer about a stream. It is between the instants at which the question was
sent and the answer came, so each answer bounds how far the server's clock is from `time.monotonic`, and a quick answer
bounds it closely. A step of this machine's own clock changes nothing. Every instant is that of the leader of
DELIBERATIONS, which fires the deadlines: in a cluster, keep the servers' clocks together (NTP).

What deliveries say is not taken for the time: a message that was stored before the server's clock was set back would
put ours ahead.
"""

import asyncio
import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

import nats.errors

from parley.broker.core.timestamps import parse_timestamp
from parley.broker.jetstream.nats_client import NatsClient
from parley.broker.jetstream.repeated_look import repeat_look
from parley.broker.jetstream.topology import DELIBERATIONS

log = logging.getLogger("parley.broker")

# Whoever compares instants needs the right to ask this.
TIME_SUBJECT = f"$JS.API.STREAM.INFO.{DELIBERATIONS}"
# Questions in one measurement, about 0.4 ms each on a quiet machine.
QUESTIONS = 3
ANSWER_SECONDS = 2.0
# Seconds between two measurements: how long a step of the server's own clock goes unnoticed.
MEASURE_SECONDS = 10.0
# Seconds before a first question that was not answered is asked again.
RETRY_SECONDS = 0.5
# How much two clocks may part in a second: what an earlier answer said becomes that much less certain.
DRIFT = 1e-4
# An offset of this machine's clock from here on is told to the operator.
NOTABLE_SECONDS = 1.0


class ServerClock:
    """This machine's own clock until `measure` has been answered once."""

    def __init__(self, nc: NatsClient) -> None:
        self._nc = nc
        # The server's time less `time.monotonic` is within these bounds.
        self._low = self._high = time.time() - time.monotonic()
        # When the bounds were made, by `time.monotonic`. None: nothing is measured yet.
        self._measured_at: float | None = None
        # The server's time less `time.monotonic`, as `now` uses it.
        self._base = self._low
        # Seconds that a test has let pass.
        self._turned = 0.0
        # The offset that the log said last.
        self._told = 0.0
        # The log has said that the server does not answer.
        self._told_unanswered = False

    def now(self) -> float:
        """Seconds since the epoch, by the server's clock."""
        return self._base + time.monotonic() + self._turned

    @contextmanager
    def turned(self, seconds: float) -> Iterator[None]:
        """As long as the block lasts, so much more time has passed. For tests (`parley.testing`)."""
        self._turned += seconds
        try:
            yield
        finally:
            self._turned -= seconds

    @property
    def offset(self) -> float:
        """Seconds by which this machine's clock is ahead of the server's; negative if it is behind."""
        return time.time() - self.now()

    def notes(self) -> dict[str, str]:
        """The note, for readiness; empty without one."""
        return {"clock": self.note} if self.note else {}

    @property
    def note(self) -> str | None:
        """What an operator should know, or None. Nothing is wrong: the offset is corrected for."""
        offset = self.offset
        if abs(offset) < NOTABLE_SECONDS:
            return None
        way = "ahead of" if offset > 0 else "behind"
        return f"this machine's clock is {abs(offset):.1f} s {way} the NATS server's; corrected for"

    async def measure(self) -> bool:
        """Ask the server for its time. False if it did not answer: then the time goes on as measured before."""
        try:
            for _ in range(QUESTIONS):
                sent = time.monotonic()
                answer = await self._nc.request(TIME_SUBJECT, b"", timeout=ANSWER_SECONDS)
                self._take(sent, time.monotonic(), _instant(answer.data))
        except (nats.errors.Error, TimeoutError, ValueError, LookupError, TypeError) as error:
            if not self._told_unanswered:
                log.warning(
                    "the time of the NATS server is not known: %s", str(error) or type(error).__name__
                )
            self._told_unanswered = True
            return False
        self._told_unanswered = False
        self._tell()
        return True

    async def wait_measured(self) -> None:
        """Return once the server has said what time it is: before that no instant is compared."""
        while not await self.measure():  # noqa: ASYNC110  # nobody else tells the time
            await asyncio.sleep(RETRY_SECONDS)

    async def run(self) -> None:
        """Measure every MEASURE_SECONDS and after each reconnect, until the connection is closed for good."""
        await repeat_look(self._nc, self.measure, lambda: MEASURE_SECONDS)

    def _take(self, sent: float, received: float, at: float) -> None:
        """The server's clock said `at` between `sent` and `received` of `time.monotonic`."""
        low, high = at - received, at - sent
        if self._measured_at is not None:
            drift = DRIFT * (received - self._measured_at)
            before, after = self._low - drift, self._high + drift
            if low <= after and high >= before:  # else the server's clock was set: only the new answer counts
                low, high = max(low, before), min(high, after)
        self._low, self._high, self._measured_at = low, high, received
        self._base = (low + high) / 2

    def _tell(self) -> None:
        offset = self.offset
        if abs(offset - self._told) >= NOTABLE_SECONDS:
            self._told = offset
            log.warning("%s", self.note or "this machine's clock agrees with the NATS server's again")


def _instant(answer: bytes) -> float:
    """What time an answer says it is. Raises ValueError, LookupError, TypeError."""
    read = json.loads(answer)
    if "error" in read:  # the stream is missing
        raise ValueError(read["error"].get("description"))
    return parse_timestamp(read["ts"])
