"""Clocks that are minutes or an hour wrong."""

from dataclasses import replace

from tests.simulation.conditions.condition import Condition
from tests.simulation.plan import Plan

_SKEWS = (600.0, -600.0, 3_600.0, -3_600.0, 180.0, 20.0, -20.0, 0.0)


class Skew(Condition):
    name = "skew"
    clocks_are_measured = True

    def adapt(self, plan: Plan) -> Plan:
        roles = tuple(replace(role, skew_seconds=self.rng.choice(_SKEWS)) for role in plan.roles)
        return replace(plan, roles=roles)
