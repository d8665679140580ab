"""What a tally may come to is known before it is recorded."""

import pytest

from parley.broker.core.events_and_effects import CancelRequested, EndingPublished, Reported, Requested
from parley.broker.core.messages import ErrorType
from parley.broker.core.reactions import react
from parley.broker.core.tally import Tally
from parley.broker.core.tally_size import most_bytes, smallest
from tests import present


def new(agents: int, **fields: object) -> Tally:
    request = Requested("t" * 64, 2**63, 1.0, 1e9 + 0.123456, "R" * 32, agents, **fields)  # type: ignore[arg-type]  # any of them
    return present(react(None, request, 1.0).tally)


def size(tally: Tally) -> int:
    return len(tally.model_dump_json(exclude_defaults=True).encode())


@pytest.mark.parametrize("agents", [1, 3, 256])
@pytest.mark.parametrize("letter", ["x", "\x00"])
def test_a_tally_that_is_full_and_has_ended_is_no_larger_than_was_foretold(agents: int, letter: str) -> None:
    tally = new(agents, metadata={"m": letter * 1_000}, reply_to="_INBOX." + "x" * 200)
    foretold = most_bytes(tally)
    for place, agent in enumerate(tally.phase.agents[:-1], 1):
        failed = Reported(agent, 1, 2**63 + place, ErrorType.SERVER_ERROR)
        tally = present(react(tally, failed, 2.0 + place / 7).tally)
    ended = present(react(tally, CancelRequested(letter * 1_000, 2**63), 1e9 + 1 / 7).tally)
    marked = present(react(smallest(ended), EndingPublished(2**63), 0.0).tally)
    assert size(marked) < foretold
    assert marked.state is ended.state
    assert marked.phases == ended.phases


def test_the_smallest_tally_lacks_only_what_can_be_done_without() -> None:
    tally = new(3).model_copy(update={"more_reply_to": ("_INBOX.a", "_INBOX.b")})
    ended = present(react(tally, CancelRequested("x" * 1_000), 2.0).tally)
    short = smallest(ended)
    assert (short.more_reply_to, len(present(short.verdict).error)) == ((), 80)
    assert smallest(short) == short
