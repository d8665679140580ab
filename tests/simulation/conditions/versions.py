"""Two versions side by side: some processes drop the fields of a tally that they do not know."""

from dataclasses import replace

from tests.simulation.conditions.condition import Condition
from tests.simulation.plan import Plan


class Versions(Condition):
    name = "versions"

    def adapt(self, plan: Plan) -> Plan:
        roles = plan.roles if len(plan.roles) > 1 else plan.roles * 2
        return replace(
            plan, roles=tuple(replace(role, old=place % 2 == 0) for place, role in enumerate(roles))
        )
