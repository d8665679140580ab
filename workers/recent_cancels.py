"""What was cancelled in the last minute, deliberations or phases of them, as broadcasts of `agent.cancel` said.
Bounded: the oldest are forgotten.

A cancel may arrive before the work that it cancels. The dispatcher and each worker remember it, so the call does not
start.
"""

import logging
import time
from collections.abc import Callable

from cachetools import TTLCache

from parley.broker.core.errors import InvalidMessage
from parley.broker.core.messages import MAX_REASON_CHARACTERS, AgentCancel, AgentRequested, decode
from parley.broker.core.phase_plan import PhaseKind

log = logging.getLogger("parley.workers")

# Task ids remembered, about 200 bytes each and the reason: 40 MiB at most.
REMEMBERED = 10_000
# A cancel's own reason and the words before it. Anybody may broadcast a longer one.
REASON_CHARACTERS = MAX_REASON_CHARACTERS + 24
# Long enough for cancelled work to arrive after its cancel (work that waited over a second is looked up in its tally
# instead). Short enough that a task_id used again later is not cancelled by the old broadcast.
REMEMBERED_SECONDS = 60.0

# A deliberation, or one phase of it.
Scope = tuple[str, int | None, PhaseKind | None]


class Cancels:
    """`now`: seconds on a clock that never goes back."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        # Reasons, by task_id, round and phase.
        self._reasons: TTLCache[Scope, str] = TTLCache(REMEMBERED, REMEMBERED_SECONDS, timer=now)
        self._now = now
        # Until when any is remembered. Each piece of work is looked for, and most of the time nothing was heard.
        self._until = float("-inf")

    def hear(self, body: bytes) -> AgentCancel | None:
        """Take note of a broadcast; None for one that cannot be read."""
        try:
            cancel = decode(AgentCancel, body)
        except InvalidMessage as error:
            log.warning("agent.cancel ignored: %s", error)
            return None
        return self.note(cancel)

    def note(self, cancel: AgentCancel) -> AgentCancel:
        self._until = self._now() + REMEMBERED_SECONDS
        self._reasons[cancel.task_id, cancel.round, cancel.phase] = (cancel.reason or "cancelled")[
            :REASON_CHARACTERS
        ]
        return cancel

    def reason(self, work: AgentRequested) -> str | None:
        """Why this work was cancelled lately, with its deliberation or its phase, or None."""
        if self._now() >= self._until:
            return None
        found = (self._reasons.get(scope) for scope in _scopes(work))
        return next((reason for reason in found if reason is not None), None)


def stops(cancel: AgentCancel, work: AgentRequested) -> bool:
    return (cancel.task_id, cancel.round, cancel.phase) in _scopes(work)


def _scopes(work: AgentRequested) -> tuple[Scope, Scope]:
    return (work.task_id, None, None), (work.task_id, work.round, work.phase)
