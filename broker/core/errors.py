"""Every error that Parley raises on purpose, and who has to act on it.

    ParleyError
    ├── SettingsError        the operator: a setting is wrong                     (exit code 2)
    ├── Unavailable          the operator: something Parley needs is not there    (exit code 3)
    │   ├── BrokerUnavailable    NATS cannot be reached, or is gone
    │   │   ├── AccessRefused        NATS answers, and this connection's credentials or TLS do not fit
    │   │   ├── RightMissing         NATS answers, and refuses this user a right
    │   │   ├── LimitReached         NATS answers, and this connection is beyond one of its limits
    │   │   ├── NoQuorum             NATS answers, and too few servers of its cluster are up
    │   │   ├── Unanswered           NATS is connected, and did not answer in time
    │   │   ├── StoreFull            NATS answers, and stores nothing
    │   │   ├── Unacknowledged       NATS is connected, and says nothing of what was published
    │   │   ├── StreamSilent         NATS answers, and no stream takes the message
    │   │   ├── StoreInUse           another embedded server uses this folder
    │   │   ├── ObjectNotStored      the object store takes nothing: full, deleted, or not answering
    │   │   └── ObjectGone           an object is not kept (any more)
    │   ├── ServiceSilent        a service listens, and answers nothing
    │   ├── BrokerUnsuitable     NATS is too old, or has no JetStream
    │   ├── StreamNotFound       NATS has none of Parley's streams: no service has run on it
    │   └── TopologyMismatch     a live stream differs from the declared one
    │       └── TopologyRefused      NATS does not make or change a stream
    ├── InvalidMessage       the sender: the payload cannot be used
    ├── Conflict             no one: another process wrote first; read again and decide again
    ├── Forgotten            no one: this process stood still; handle the message from its beginning
    └── PayloadTooLarge      the caller: the payload exceeds what NATS accepts

Expected endings (failed, timeout, cancelled, rejected) are values, not exceptions: see `parley.broker.core.messages`.
"""

from collections.abc import Sequence

# What is said of a missing right, for who has to give it.
RIGHTS_ARE_IN = "docs/security.md has the rights of each role"


class ParleyError(Exception):
    """Root of the tree above."""


class SettingsError(ParleyError):
    """A setting is wrong. `problems` holds one line each, naming the setting and the remedy."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(*problems)
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "; ".join(self.problems)


class Unavailable(ParleyError):
    """Something that Parley needs is not there, or not as it must be."""


class BrokerUnavailable(Unavailable):
    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)
        self.url = url
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot reach NATS at {self.url}: {self.reason}. Is it running, and is NATS_URL right?"


class AccessRefused(BrokerUnavailable):
    """A server answers, and does not take this connection. `reason` says why and what to do."""

    def __str__(self) -> str:
        return f"connecting to NATS at {self.url} failed: {self.reason}"


class RightMissing(BrokerUnavailable):
    """NATS is there and refuses this user a right, which `reason` names."""

    def __str__(self) -> str:
        return f"NATS at {self.url}: {self.reason} ({RIGHTS_ARE_IN})"


class LimitReached(BrokerUnavailable):
    """NATS is there and refuses the connection for a limit, which `reason` names with the remedy."""

    def __str__(self) -> str:
        return f"NATS at {self.url} refuses this connection: {self.reason}"


class NoQuorum(BrokerUnavailable):
    """NATS is there, and its cluster can decide nothing. `reason`: what has no leader."""

    def __str__(self) -> str:
        remedy = "start the servers of the cluster that are down (`nats server report jetstream` lists them)"
        return f"NATS at {self.url} answers, but has no quorum: {self.reason}; {remedy}"


class StoreFull(BrokerUnavailable):
    """NATS is there and refuses to store. `stream`: where the message belongs. `reason`: in the server's words."""

    def __init__(self, url: str, stream: str, reason: str) -> None:
        super().__init__(url, reason)
        self.args = (url, stream, reason)
        self.stream = stream

    @property
    def is_streams_own(self) -> bool:
        """Whether this stream is at a limit of its own: others may have room."""
        return self.reason.startswith("maximum")  # "maximum bytes exceeded", "maximum messages exceeded"

    def __str__(self) -> str:
        if self.is_streams_own:
            remedy = "make room in it, or raise its limit"
            return f"JetStream stores nothing more in {self.stream}: {self.reason}. At {self.url}, {remedy}"
        remedy = "free space on its disk, or raise its limit (max_file_store, the account's)"
        restart = "nats-server 2.15 goes on refusing after its disk was full until it is restarted"
        return f"JetStream stores nothing: no space left ({self.reason}). At {self.url}, {remedy}; {restart}"


class Unanswered(BrokerUnavailable):
    """The connection stands, and an answer did not come in time."""

    def __str__(self) -> str:
        why = "it may be overloaded, or its cluster without a quorum; `parley doctor` knows more"
        return f"NATS at {self.url} is connected and did not answer ({self.reason}): {why}"


class Unacknowledged(BrokerUnavailable):
    """The connection stands, and no acknowledgement came. A client without further rights learns no more."""

    def __str__(self) -> str:
        why = "its store may be full or its stream without a leader; `parley doctor` knows more"
        return f"NATS at {self.url} is connected and acknowledged no write ({self.reason}): {why}"


class StreamSilent(BrokerUnavailable):
    """NATS is there, and no stream answers for `subject`."""

    def __init__(self, url: str, subject: str) -> None:
        super().__init__(url, "no response from stream")
        self.args = (url, subject)
        self.subject = subject

    def __str__(self) -> str:
        why = f"no stream at {self.url} takes {self.subject}: it is missing, or has no leader now"
        return f"{why}. A running service makes a missing one again, and so does `parley provision --apply`"


class StoreInUse(BrokerUnavailable):
    """Another embedded server uses this folder."""

    def __str__(self) -> str:
        return f"another one of ours runs on {self.url}; use that one, or set another PARLEY_HOME"


class ObjectNotStored(BrokerUnavailable):
    """The object store `bucket` takes nothing, for `reason`."""

    def __str__(self) -> str:
        return f"the object store {self.url} takes nothing: {self.reason}"


class ObjectGone(BrokerUnavailable):
    """The object store `bucket` has no object of this name (any more)."""

    def __str__(self) -> str:
        return f"the object store {self.url} has no object {self.reason} (any more)"


class ServiceSilent(Unavailable):
    """A service listens on the NATS at `url`, and answered nothing within `seconds`."""

    def __init__(self, url: str, seconds: float, inbox_prefix: str | None = None) -> None:
        """`inbox_prefix`: of this client, where it has one of its own."""
        super().__init__(url, seconds, inbox_prefix)
        self.url = url
        self.seconds = seconds
        self.inbox_prefix = inbox_prefix

    def __str__(self) -> str:
        why = (
            "it may be overloaded, or have no right to answer to this client's inbox; its /readyz and log say"
        )
        if self.inbox_prefix is not None:
            allowed = f"perhaps {self.inbox_prefix}. is not among its PARLEY_REPLY_PREFIXES"
            why = f"{allowed} (this client has PARLEY_NATS_INBOX_PREFIX={self.inbox_prefix}); or {why}"
        return f"a Parley service listens on NATS at {self.url} and answered nothing within {self.seconds:g} s: {why}"


class BrokerUnsuitable(Unavailable):
    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)
        self.url = url
        self.reason = reason

    def __str__(self) -> str:
        return f"NATS at {self.url} {self.reason}"


class StreamNotFound(Unavailable):
    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.stream = stream

    def __str__(self) -> str:
        return (
            f"this NATS has no stream {self.stream}: no Parley service has run on it; "
            "start one with `parley serve`, or set NATS_URL"
        )


class TopologyMismatch(Unavailable):
    """A live stream or consumer differs from the declared one in a way that does harm, or the server refuses one."""

    def __init__(self, differences: Sequence[str], *, changeable: bool = True) -> None:
        """`changeable`: `parley provision --apply` changes some of them."""
        super().__init__(*differences)
        self.differences = tuple(differences)
        self.changeable = changeable

    def __str__(self) -> str:
        listed = "; ".join(self.differences)
        said = f"live NATS configuration differs from Parley's and was left alone: {listed}."
        remedy = "`parley provision` says what can be changed, and `parley provision --apply` changes it."
        return f"{said} {remedy}" if self.changeable else said


class TopologyRefused(TopologyMismatch):
    """NATS does not make or change a stream or consumer: more replicas than servers, no storage, no right."""

    def __str__(self) -> str:
        return "; ".join(self.differences)


class InvalidMessage(ParleyError):
    """A payload that cannot be used. `problems` names each bad field and never quotes the payload."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(*problems)
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "; ".join(self.problems)


class Conflict(ParleyError):
    """Compare-and-set refused: the tally moved on since it was read."""


class Forgotten(ParleyError):
    """A tally that was there is not there any more: its deliberation ended, and was kept for as long as any."""


class PayloadTooLarge(ParleyError):
    def __init__(self, subject: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(subject, size_bytes, limit_bytes)
        self.subject = subject
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes

    def __str__(self) -> str:
        return f"{self.size_bytes} bytes for {self.subject} exceed the broker's max_payload of {self.limit_bytes}"
