"""A modelled JetStream stream: duplicates by Msg-Id, compare-and-set, one message a subject, TTLs.

It obeys and refuses the headers that command a stream (roll-up, schedules, TTL) as nats-server 2.15.1 does
(`test_model` compares). Configured by the `StreamConfig` of `parley.broker.jetstream.topology`, so that a window declared there is the window
here.
"""

import re
from dataclasses import dataclass

from nats.js.api import RetentionPolicy, StreamConfig

_DEFAULT_WINDOW_SECONDS = 120.0


class Refused(Exception):
    """The server does not store a message. `status`: HTTP's. `code`: JetStream's own."""

    def __init__(self, status: int, code: int, description: str) -> None:
        super().__init__(status, code, description)
        self.status = status
        self.code = code
        self.description = description

    def __str__(self) -> str:
        return f"{self.status} {self.code} {self.description}"


class WrongLastSequence(Refused):
    """The subject has a newer message than the writer expects."""

    def __init__(self) -> None:
        super().__init__(400, 10071, "wrong last sequence")


class NoRoom(Refused):
    """A stream with `discard: new` is full."""


class RefusedInSilence(Refused):
    """No answer comes: the server could not write to its disk."""

    def __init__(self) -> None:
        super().__init__(0, 0, "no answer")


@dataclass(frozen=True, slots=True)
class Kept:
    """A stored message. `at`: when it was stored, on the server's clock. `expires` None: it has no TTL."""

    stream: str
    seq: int
    subject: str
    data: bytes
    headers: dict[str, str]
    at: float
    expires: float | None = None


class Stream:
    def __init__(self, config: StreamConfig) -> None:
        self.name = str(config.name)
        forms = [re.escape(one).replace(r"\*", "[^.]+").replace(">", ".+") for one in config.subjects or ()]
        self._pattern = re.compile("|".join(forms))
        self.work_queue = config.retention is RetentionPolicy.WORK_QUEUE
        self.window = config.duplicate_window or _DEFAULT_WINDOW_SECONDS
        self.one_a_subject = config.max_msgs_per_subject == 1
        self._rolls_up = bool(config.allow_rollup_hdrs)
        self._schedules = bool(config.allow_msg_schedules)
        self._expires = bool(config.allow_msg_ttl)
        self.last_seq = 0
        self.messages: dict[int, Kept] = {}
        # The newest sequence of each subject.
        self._newest: dict[str, int] = {}
        # Sequence and time of each Msg-Id.
        self._ids: dict[str, tuple[int, float]] = {}

    def store(self, subject: str, data: bytes, headers: dict[str, str], now: float) -> tuple[int, bool]:
        """The message's sequence, and whether it is a duplicate. Checks in the server's order. Raises Refused."""
        self._check_commands(subject, headers)
        msg_id = headers.get("Nats-Msg-Id")
        if msg_id is not None:
            seq, at = self._ids.get(msg_id, (0, 0.0))
            if seq and now - at < self.window:
                return seq, True
        expected = headers.get("Nats-Expected-Last-Subject-Sequence")
        before = self.newest(subject, now)
        if expected is not None and int(expected) != (before.seq if before is not None else 0):
            raise WrongLastSequence
        rolled_up = headers.get("Nats-Rollup")
        for seq, kept in list(self.messages.items()) if rolled_up else ():
            if rolled_up == "all" or kept.subject == subject:
                del self.messages[seq]
                before = None
        self.last_seq += 1
        ttl = headers.get("Nats-TTL")
        expires = now + float(ttl.rstrip("s")) if ttl else None
        if before is not None and (self.one_a_subject or "Nats-Schedule" in headers):
            del self.messages[before.seq]
        self.messages[self.last_seq] = Kept(self.name, self.last_seq, subject, data, headers, now, expires)
        self._newest[subject] = self.last_seq
        if msg_id is not None:
            self._ids[msg_id] = (self.last_seq, now)
        return self.last_seq, False

    def takes(self, subject: str) -> bool:
        return self._pattern.fullmatch(subject) is not None

    def _check_commands(self, subject: str, headers: dict[str, str]) -> None:
        if "Nats-TTL" in headers and not self._expires:
            raise Refused(400, 10166, "per-message TTL is disabled")
        if ("Nats-Scheduler" in headers) != ("Nats-Schedule-Next" in headers):
            raise Refused(400, 10212, "message schedules invalid scheduler")
        if {"Nats-Schedule", "Nats-Scheduler"} & headers.keys() and not self._schedules:
            raise Refused(400, 10188, "message schedules is disabled")
        target = headers.get("Nats-Schedule-Target")
        if target is not None and (target == subject or not self.takes(target)):
            raise Refused(400, 10190, "message schedules target is invalid")
        if "Nats-Rollup" in headers and not self._rolls_up:
            raise Refused(500, 10111, "rollup not permitted")

    def newest(self, subject: str, now: float) -> Kept | None:
        return self.at(self._newest.get(subject, 0), now)

    def at(self, seq: int, now: float) -> Kept | None:
        kept = self.messages.get(seq)
        if kept is not None and kept.expires is not None and kept.expires <= now:
            del self.messages[seq]
            return None
        return kept

    def remove(self, seq: int) -> None:
        self.messages.pop(seq, None)
