"""A modelled JetStream stream: duplicates by Msg-Id, compare-and-set, one message a subject, TTLs.

Configured by the `StreamConfig` of `parley.broker.jetstream.topology`, so that a window declared there is the window
here.
"""

from dataclasses import dataclass

from nats.js.api import RetentionPolicy, StreamConfig

_DEFAULT_WINDOW_SECONDS = 120.0


class WrongLastSequence(Exception):
    """The subject has a newer message than the writer expects (JetStream's error 10071)."""


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
        self.subjects = tuple(config.subjects or ())
        self.work_queue = config.retention is RetentionPolicy.WORK_QUEUE
        self.window = config.duplicate_window or _DEFAULT_WINDOW_SECONDS
        self.one_a_subject = config.max_msgs_per_subject == 1
        self.last_seq = 0
        self.messages: dict[int, Kept] = {}
        # The newest sequence of each subject.
        self._newest: dict[str, int] = {}
        # Sequence and time of each Msg-Id.
        self._ids: dict[str, tuple[int, float]] = {}

    def store(self, subject: str, data: bytes, headers: dict[str, str], now: float) -> tuple[int, bool]:
        """The message's sequence, and whether it is a duplicate. Checks in the server's order. Raises
        WrongLastSequence."""
        msg_id = headers.get("Nats-Msg-Id")
        if msg_id is not None:
            seq, at = self._ids.get(msg_id, (0, 0.0))
            if seq and now - at < self.window:
                return seq, True
        expected = headers.get("Nats-Expected-Last-Subject-Sequence")
        before = self.newest(subject, now)
        if expected is not None and int(expected) != (before.seq if before is not None else 0):
            raise WrongLastSequence(subject)
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
