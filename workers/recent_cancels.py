"""Which deliberations were cancelled lately, as `agent.cancel` told. Bounded: the oldest are forgotten.

A broadcast may come before the work it is about. Both who hands work out and who does it therefore remember, and ask before
they begin; between them no order of arrival lets a call start for nobody.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable

from parley.broker.core.errors import InvalidMessage
from parley.broker.core.messages import MAX_REASON_CHARACTERS, AgentCancel, decode

log = logging.getLogger("parley.workers")

# Task ids remembered, about 200 bytes each and the reason: 40 MiB at the very most.
REMEMBERED = 10_000
# A cancel's own reason and the words before it. Anybody may broadcast a longer one.
REASON_CHARACTERS = MAX_REASON_CHARACTERS + 24
# Far longer than a broadcast can be ahead of its work (work that waited over a second is looked up in its tally instead), and
# far shorter than a tally is kept: a task_id used again after it was forgotten must not meet its namesake's cancel.
REMEMBERED_SECONDS = 60.0


class Cancels:
    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._heard: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def hear(self, body: bytes) -> AgentCancel | None:
        """Take note of a broadcast; None for one that cannot be read."""
        try:
            cancel = decode(AgentCancel, body)
        except InvalidMessage as error:
            log.warning("agent.cancel ignored: %s", error)
            return None
        return self.note(cancel)

    def note(self, cancel: AgentCancel) -> AgentCancel:
        self._heard[cancel.task_id] = ((cancel.reason or "cancelled")[:REASON_CHARACTERS], self._now())
        self._heard.move_to_end(cancel.task_id)
        if len(self._heard) > REMEMBERED:
            self._heard.popitem(last=False)
        return cancel

    def reason(self, task_id: str) -> str | None:
        """Why this one was cancelled lately, or None."""
        reason, at = self._heard.get(task_id, (None, 0.0))
        return reason if self._now() - at < REMEMBERED_SECONDS else None
