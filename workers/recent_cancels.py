"""Deliberations cancelled in the last minute, as broadcasts of `agent.cancel` said. Bounded: the oldest are forgotten.

A cancel may arrive before the work that it cancels. The dispatcher and each worker remember it, so the call does not
start.
"""

import logging
import time
from collections.abc import Callable

from cachetools import TTLCache

from parley.broker.core.errors import InvalidMessage
from parley.broker.core.messages import MAX_REASON_CHARACTERS, AgentCancel, decode

log = logging.getLogger("parley.workers")

# Task ids remembered, about 200 bytes each and the reason: 40 MiB at most.
REMEMBERED = 10_000
# A cancel's own reason and the words before it. Anybody may broadcast a longer one.
REASON_CHARACTERS = MAX_REASON_CHARACTERS + 24
# Long enough for cancelled work to arrive after its cancel (work that waited over a second is looked up in its tally
# instead). Short enough that a task_id used again later is not cancelled by the old broadcast.
REMEMBERED_SECONDS = 60.0


class Cancels:
    """`now`: seconds on a clock that never goes back."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        # Reasons by task_id.
        self._reasons: TTLCache[str, str] = TTLCache(REMEMBERED, REMEMBERED_SECONDS, timer=now)

    def hear(self, body: bytes) -> AgentCancel | None:
        """Take note of a broadcast; None for one that cannot be read."""
        try:
            cancel = decode(AgentCancel, body)
        except InvalidMessage as error:
            log.warning("agent.cancel ignored: %s", error)
            return None
        return self.note(cancel)

    def note(self, cancel: AgentCancel) -> AgentCancel:
        self._reasons[cancel.task_id] = (cancel.reason or "cancelled")[:REASON_CHARACTERS]
        return cancel

    def reason(self, task_id: str) -> str | None:
        """Why this deliberation was cancelled lately, or None."""
        return self._reasons.get(task_id)
