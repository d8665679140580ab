"""Two versions side by side: every second process is of an older one, which drops the fields that it does not know."""

from dataclasses import replace

from tests.simulation.conditions.condition import Condition
from tests.simulation.old_version import V0_1_0, V0_2_0
from tests.simulation.plan import Plan


class Versions(Condition):
    name = "versions"

    def adapt(self, plan: Plan) -> Plan:
        old = self.rng.choice((V0_1_0, V0_2_0))
        roles = plan.roles if len(plan.roles) > 1 else plan.roles * 2
        return replace(
            plan,
            roles=tuple(replace(role, old=None if place % 2 else old) for place, role in enumerate(roles)),
        )
