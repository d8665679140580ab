"""The base of every condition, which is also the ordinary one: nothing is special."""

import random
from typing import TYPE_CHECKING

from nats.js.api import PubAck

from tests.simulation.plan import Plan
from tests.simulation.roles import Role

if TYPE_CHECKING:
    from tests.simulation.history import History
    from tests.simulation.link import Link
    from tests.simulation.record import Record


class Condition:
    """Made from dice of its own, so that a seed keeps the rest of its plan."""

    name = "ordinary"
    # It may do what only a fault does: repeat a step, or leave a request at the server.
    disturbs = False
    # Loops of a service that cost many steps, and matter in some histories only.
    clocks_are_measured = False
    stores_are_probed = False
    # When it is over.
    ends = 0.0

    def __init__(self, rng: random.Random, plan: Plan) -> None:
        self.rng = rng
        self.plan = self.adapt(plan)

    def adapt(self, plan: Plan) -> Plan:
        """The plan under this condition."""
        return plan

    def begin(self, history: "History") -> None:
        """Called once the server exists, before any process starts."""

    def back_at(self, role: Role) -> float:
        """A process of this role that was killed does not start again before this instant."""
        return 0.0

    def forged(self, link: "Link", subject: str) -> PubAck | None:
        """The acknowledgement that this publisher gets instead of the server's."""
        return None

    def late(self, record: "Record") -> float:
        """Seconds by which this condition may make an ending late."""
        return 0.0
