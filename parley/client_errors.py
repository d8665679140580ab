"""The errors that only the client has: nobody serves, no ending came in time, there is no such deliberation."""

from parley.broker.core.errors import ParleyError, Unavailable
from parley.broker.core.messages import DeliberationStatus

# How an answer begins that says only that the service cannot tell at the moment.
CANNOT_TELL = "cannot tell now"


class NoService(Unavailable):
    """NATS answers, but no Parley service behind it does."""

    def __str__(self) -> str:
        return "no Parley service answers on this NATS; start one with `parley up` or `parley serve`"


class NoEnding(ParleyError):
    """No ending came in the time that the client was to wait. The deliberation may still end: `task_id` finds it."""

    def __init__(self, task_id: str, seconds: float) -> None:
        super().__init__(task_id, seconds)
        self.task_id = task_id
        self.seconds = seconds

    def __str__(self) -> str:
        again = f"`parley result {self.task_id}` asks again"
        return f"no ending for {self.task_id} within {self.seconds:g} s; {again}"


class UnknownDeliberation(ParleyError):
    """A deliberation of this name was never stored, or is forgotten."""

    def __init__(self, task_id: str) -> None:
        super().__init__(task_id)
        self.task_id = task_id

    def __str__(self) -> str:
        return f"{self.task_id}: never stored, or forgotten"


class ClientClosed(ParleyError):
    """The client was closed while somebody waited. The deliberation goes on."""

    def __str__(self) -> str:
        return "the client was closed; the deliberation goes on"


def never_stored(status: DeliberationStatus) -> bool:
    """Whether the service says that there is no such deliberation, and not only that it cannot tell."""
    return status.status == "UNKNOWN" and not status.error_message.startswith(CANNOT_TELL)
