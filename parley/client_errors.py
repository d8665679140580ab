"""The errors that only the client has: nobody serves, or no ending came in time."""

from parley.broker.core.errors import ParleyError, Unavailable


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
