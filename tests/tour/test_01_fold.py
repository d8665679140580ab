"""A deliberation is a fold: events go in, and a tally and a list of effects come out. No clock, no network.

`react` is the whole logic. The service stores the tally, carries out the effects, and only then acknowledges the
message.
"""

from parley.broker.core.events_and_effects import (
    ArmDeadline,
    PublishEnding,
    Reported,
    RequestAgents,
    Requested,
)
from parley.broker.core.reactions import react


def test_three_agents_are_asked_and_the_third_answer_ends_the_deliberation() -> None:
    request = Requested("t-1", seq=1, at=0.0, deadline=60.0, role="DEV", num_agents=3)
    first = react(None, request, now=0.0)
    assert first.tally is not None
    assert first.tally.state == "pending"
    assert [type(effect) for effect in first.effects] == [ArmDeadline, RequestAgents]

    tally = first.tally
    for seq, agent in enumerate(("agent-dev-001", "agent-dev-002"), 1):
        reaction = react(tally, Reported(agent, 1, seq), now=5.0)
        assert reaction.tally is not None
        assert reaction.tally.state == "in_progress"
        assert reaction.effects == ()
        tally = reaction.tally

    last = react(tally, Reported("agent-dev-003", 1, 3), now=6.0)
    assert last.tally is not None
    assert last.tally.state == "completed"
    assert last.effects == (PublishEnding(),)
