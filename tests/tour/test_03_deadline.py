"""A deadline always decides. With enough answers the deliberation completes, without them it times out.

`min_responses` says how many are enough. The agents that have not answered are told to stop.
"""

import pytest

from parley.broker.core.events_and_effects import DeadlineReached, Reported, Requested, StopAgents
from parley.broker.core.reactions import react


@pytest.mark.parametrize(("needed", "state"), [(1, "completed"), (2, "timeout")])
def test_at_the_deadline_the_answers_so_far_decide(needed: int, state: str) -> None:
    request = Requested("t-1", seq=1, at=0.0, deadline=60.0, role="DEV", num_agents=3, min_responses=needed)
    tally = react(None, request, now=0.0).tally
    tally = react(tally, Reported("agent-dev-001", 1, 1), now=5.0).tally

    reaction = react(tally, DeadlineReached(), now=60.0)
    assert reaction.tally is not None
    assert reaction.tally.state == state
    assert any(isinstance(effect, StopAgents) for effect in reaction.effects)
