"""What the workers of a pool see of the endpoints, added up: those that are there, and what those that are gone had opened."""

from workers.breaker import State
from workers.lookout import Lookout, Standing
from workers.switchboard import Sight


def counts(closed: int = 0, half_open: int = 0, opened: int = 0) -> dict[State, int]:
    return {State.CLOSED: closed, State.HALF_OPEN: half_open, State.OPEN: opened}


def test_every_endpoint_and_every_state_is_there_before_anybody_has_joined() -> None:
    assert Lookout(["a:1", "b:1"]).standings == {"a:1": Standing(counts(), 0), "b:1": Standing(counts(), 0)}


def test_a_worker_that_told_nothing_yet_has_all_closed() -> None:
    lookout = Lookout(["a:1"])
    lookout.join(1)
    lookout.join(2)
    assert lookout.standings == {"a:1": Standing(counts(closed=2), 0)}


def test_the_latest_word_of_each_worker_counts() -> None:
    lookout = Lookout(["a:1"])
    lookout.join(1)
    lookout.join(2)
    lookout.hear(1, [Sight("a:1", State.OPEN, 1)])
    assert lookout.standings["a:1"] == Standing(counts(closed=1, opened=1), 1)
    lookout.hear(1, [Sight("a:1", State.HALF_OPEN, 3)])
    lookout.hear(2, [Sight("a:1", State.OPEN, 1)])
    assert lookout.standings["a:1"] == Standing(counts(half_open=1, opened=1), 4)


def test_a_worker_that_is_gone_sees_nothing_but_what_it_opened_stays_counted() -> None:
    lookout = Lookout(["a:1"])
    lookout.join(1)
    lookout.hear(1, [Sight("a:1", State.OPEN, 2)])
    lookout.lose(1)
    assert lookout.standings["a:1"] == Standing(counts(), 2)
    lookout.join(1)
    lookout.hear(1, [Sight("a:1", State.OPEN, 1)])
    assert lookout.standings["a:1"] == Standing(counts(opened=1), 3)


def test_two_endpoints_on_one_host_and_port_are_counted_together() -> None:
    lookout = Lookout(["a:1", "a:1"])
    lookout.join(1)
    lookout.hear(1, [Sight("a:1", State.OPEN, 1), Sight("a:1", State.CLOSED, 0)])
    assert lookout.standings == {"a:1": Standing(counts(closed=1, opened=1), 1)}
