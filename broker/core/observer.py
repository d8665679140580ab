"""The seam between handlers and monitoring, which never import each other: handlers call an `Observer`, metrics
subclass it.

Every method does nothing here.
"""

from parley.broker.core.messages import AgentOutcome, Ending


class Observer:
    def deliberation_accepted(self, role: str) -> None:
        """A request was recorded for the first time."""

    def deliberation_ended(self, ending: Ending) -> None:
        """An ending was published, and this process was the first to mark it."""

    def agent_reported(self, outcome: AgentOutcome) -> None:
        """An outcome was counted in a tally."""

    def outcome_ignored(self, outcome: AgentOutcome) -> None:
        """An outcome was not counted: late, a duplicate, or of an unknown deliberation."""

    def dead_lettered(self, subject: str) -> None:
        """A message went to DEAD_LETTERS. `subject`: the consumer's filter, which has few values."""

    def handler_failed(self, consumer: str) -> None:
        """A handler raised; the message will be delivered again."""
