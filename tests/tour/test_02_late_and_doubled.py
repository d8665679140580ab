"""Every message may come twice, and late. A second outcome of the same agent, or one after the ending, changes nothing.

This is why a handler may die at any moment: the message comes again, and the fold ignores what it already holds.
"""

from parley.broker.core.events_and_effects import CancelRequested, EndingPublished, Event, Reported, Requested
from parley.broker.core.reactions import react
from parley.broker.core.tally import Tally


def folded(*events: Event) -> Tally:
    tally = react(None, Requested("t-1", seq=1, at=0.0, deadline=60.0, role="DEV", num_agents=2), 0.0).tally
    for event in events:
        tally = react(tally, event, now=5.0).tally
    assert tally is not None
    return tally


def test_a_doubled_answer_counts_once() -> None:
    answer = Reported("agent-dev-001", 1, 1)
    assert folded(answer, answer) == folded(answer)


def test_after_the_ending_nothing_changes() -> None:
    answers = (Reported("agent-dev-001", 1, 1), Reported("agent-dev-002", 1, 2))
    ended = folded(*answers, EndingPublished(9))
    for late in (*answers, CancelRequested("too late")):
        reaction = react(ended, late, now=70.0)
        assert reaction.tally is ended
        assert reaction.effects == ()
        assert reaction.note  # says why it was ignored
