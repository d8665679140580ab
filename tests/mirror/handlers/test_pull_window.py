"""How many messages may be requested: never more than there is room for, and never fewer for long."""

from hypothesis import given
from hypothesis import strategies as st

from parley.handlers.pull_window import EXPIRED, LOST_SECONDS, NO_MESSAGES, REQUEST_SECONDS, PullWindow

OVERDUE = REQUEST_SECONDS + LOST_SECONDS


def window(limit: int = 8, batch: int = 8) -> PullWindow[int]:
    return PullWindow(limit, batch)


def asking(limit: int = 8, batch: int = 8, now: float = 0.0) -> PullWindow[int]:
    """One that has asked for as much as it may."""
    made = window(limit, batch)
    made.requested(made.to_request(), now)
    return made


def test_it_asks_for_all_its_room_up_to_a_batch() -> None:
    assert (window(8, 64).to_request(), window(64, 8).to_request()) == (8, 8)


def test_it_asks_for_no_more_than_the_room_outside() -> None:
    assert (window().to_request(3), window().to_request(0), window().to_request(-1)) == (3, 0, 0)


def test_what_is_asked_for_has_arrived_or_is_held_takes_room() -> None:
    one = asking(16, 16)
    for message in range(10):
        one.arrive(message)
    assert one.take() == list(range(10))
    one.arrive(10)
    assert (one.held, len(one.arrived), one.asked, one.to_request()) == (10, 1, 5, 0)
    one.settle(10)
    assert one.to_request() == 10


def test_it_tops_up_from_a_quarter_of_a_batch_on() -> None:
    one = asking()
    one.arrive(1)
    one.take()
    one.settle(1)
    assert one.to_request() == 0
    one.arrive(2)
    one.take()
    one.settle(1)
    assert one.to_request() == 2


def test_a_request_that_ended_frees_what_it_did_not_bring() -> None:
    for status in (NO_MESSAGES, EXPIRED):
        one = asking()
        one.arrive(1)
        one.end_request(status, 7)
        assert (one.asked, one.refused) == (0, False)


def test_a_request_that_is_refused_makes_it_wait() -> None:
    one = asking()
    one.end_request("409", None)
    assert (one.asked, one.refused) == (0, True)


def test_what_was_asked_for_is_gone_with_the_connection() -> None:
    one = asking()
    one.lose_connection()
    assert one.to_request() == 8


def test_what_is_overdue_is_asked_for_again() -> None:
    one = asking()
    one.expire(OVERDUE - 0.1)
    assert one.to_request() == 0
    one.expire(OVERDUE)
    assert one.to_request() == 8


def test_a_later_request_keeps_no_lost_one_alive() -> None:
    one = asking()
    one.arrive(1)  # and six of the other seven are lost
    one.end_request(EXPIRED, 1)
    one.requested(2, now=1.5)
    one.expire(OVERDUE)
    assert one.asked == 2


def test_it_remembers_only_the_requests_of_the_last_seconds() -> None:
    one = asking()
    for second in range(1, 100):
        one.arrive(second)  # it is never idle, and no request of it expires
        one.take()
        one.settle(1)
        one.requested(1, now=float(second))
    assert len(one._requests) <= 3


def test_a_process_that_stood_still_still_waits_for_what_was_sent_to_it() -> None:
    """The wait for what was asked for begins after the request, so it never ends before the request is overdue."""
    one = asking()
    one.expire(OVERDUE + 5.0, late=5.0)
    assert one.to_request() == 0
    one.expire(OVERDUE + 5.0 + REQUEST_SECONDS + LOST_SECONDS)
    assert one.to_request() > 0


def test_one_that_closes_asks_for_nothing_and_gives_back_what_arrived() -> None:
    one = asking()
    one.arrive(1)
    one.close()
    assert (one.to_request(), one.take(), one.give_back(), one.held) == (0, [], [1], 0)


@given(
    st.integers(1, 20), st.integers(1, 20), st.lists(st.tuples(st.sampled_from("asntc"), st.integers(0, 5)))
)
def test_it_never_asks_beyond_its_room(limit: int, batch: int, steps: list[tuple[str, int]]) -> None:
    one, now, owed, held = window(limit, batch), 0.0, 0, 0
    for step, count in steps:
        wanted = one.to_request()
        one.requested(wanted, now) if wanted else None
        owed += wanted
        assert owed + len(one.arrived) + held <= limit
        assert wanted <= batch
        match step:
            case "a" if owed:
                one.arrive(count)
                owed -= 1
            case "s" if held:
                one.settle(1)
                held -= 1
            case "n":
                held += len(one.take())
            case "t":
                one.end_request(EXPIRED, owed)
                owed = 0
            case "c":
                one.lose_connection()
                owed = 0
            case _:
                now += count
