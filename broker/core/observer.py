"""What happens, told to whoever wants to count it. The handlers call it; `parley.monitoring.metrics` listens.

Handlers and monitoring never import each other; this is the seam. Every method does nothing here.
"""

from parley.broker.core.messages import AgentOutcome, Ending


class Observer:
    def deliberation_accepted(self, role: str) -> None:
        """A request was recorded for the first time."""

    def deliberation_ended(self, ending: Ending) -> None:
        """An ending was stored in the stream for the first time, as far as this process knows."""

    def agent_reported(self, outcome: AgentOutcome) -> None:
        """An outcome was counted in a tally; late and doubled ones are not."""

    def outcome_ignored(self, outcome: AgentOutcome) -> None:
        """An outcome changed nothing: late, doubled, or for nobody."""

    def dead_lettered(self, subject: str) -> None:
        """A message nobody could use went to DEAD_LETTERS. `subject` is the consumer's filter, so that its values are few."""

    def handler_failed(self, consumer: str) -> None:
        """A handler raised; the message goes back to be delivered again."""
