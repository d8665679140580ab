"""How many messages may be requested: never more than there is room for, and never fewer for long."""

from hypothesis import given
from hypothesis import strategies as st

from parley.handlers.pull_window import (
    COMPLETED,
    EXPIRED,
    LOST_SECONDS,
    NO_MESSAGES,
    REQUEST_SECONDS,
    TOO_LARGE,
    PullWindow,
)

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


# ── bytes ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Server:
    """A server with messages of these sizes: it serves requests in turn, as nats-server 2.15 does."""

    def __init__(self, window: PullWindow[int], sizes: list[int]) -> None:
        self.window = window
        self.sizes = sizes
        self.requests: list[list[int]] = []
        self.now = 0.0

    def ask(self) -> bool:
        count = self.window.to_request()
        if not count:
            return False
        size = self.window.bytes_to_request()
        self.window.requested(count, self.now, size)
        self.requests.append([count, size if size is not None else 2**40])
        return True

    def send(self) -> bool:
        """One message or one status. Whether there was any."""
        if not self.requests or not self.sizes:
            return False
        request = self.requests.pop(0)
        if request[1] < self.sizes[0]:
            self.window.end_request("409", request[0], request[1], TOO_LARGE)
            return True
        size = self.sizes.pop(0)
        request[0] -= 1
        request[1] -= size
        self.window.arrive(size, size)
        if not request[0] or not request[1]:
            self.window.end_request("409", request[0], request[1], COMPLETED)
        else:
            self.requests.append(request)
        return True

    @property
    def promised(self) -> int:
        return sum(min(left, sum(self.sizes)) for _, left in self.requests)


def test_it_asks_for_half_of_its_room_in_bytes() -> None:
    one = PullWindow[int](64, 32, 1_000)
    assert (one.to_request(), one.bytes_to_request()) == (32, 500)
    one.requested(32, 0.0, 500)
    for _ in range(8):
        one.arrive(0, 10)
    one.take()
    assert (one.to_request(), one.bytes_to_request()) == (8, (1_000 - 500) // 2)


def test_without_a_limit_in_bytes_it_names_none() -> None:
    assert window().bytes_to_request() is None


def test_the_bytes_that_a_request_did_not_need_are_free_again() -> None:
    for status, description in (("409", COMPLETED), (EXPIRED, "Request Timeout")):
        one = PullWindow[int](64, 32, 1_000)
        one.requested(2, 0.0, 500)
        one.requested(30, 0.0, 250)
        one.arrive(0, 100)
        one.end_request(status, 1, 400, description)
        assert (one.asked_bytes, one.refused) == (250, False)


def test_a_message_larger_than_the_room_left_waits_until_there_is_room() -> None:
    one = PullWindow[int](64, 32, 1_000)
    one.requested(32, 0.0, 500)
    one.arrive(0, 400)
    one.take()
    one.end_request("409", 31, 100, TOO_LARGE)
    assert (one.to_request(), one.bytes_to_request(), one.refused) == (32, 600, False)
    one.requested(32, 0.0, 600)
    one.end_request("409", 32, 600, TOO_LARGE)
    assert (one.to_request(), one.has_room, one.idle) == (0, False, True)
    one.settle(1, 400)
    assert (one.to_request(), one.bytes_to_request()) == (32, 1_000)


def test_a_message_larger_than_the_whole_limit_comes_alone() -> None:
    one, others = PullWindow[int](8, 8, 1_000), [10, 10]
    server = Server(one, [5_000, *others])
    for _ in range(20):
        server.ask()
        server.send()
        if one.arrived == [5_000]:
            break
    assert (one.take(), one.to_request()) == ([5_000], 0)
    one.settle(1, 5_000)
    while server.ask() or server.send():
        pass
    assert one.arrived == others


@given(st.integers(1, 8), st.lists(st.integers(1, 3_000), max_size=40), st.lists(st.booleans(), min_size=30))
def test_every_message_comes_and_never_more_bytes_than_there_is_room_for(
    batch: int, sizes: list[int], turns: list[bool]
) -> None:
    one: PullWindow[int] = PullWindow(16, batch, 1_000)
    server, held, came, at = Server(one, list(sizes)), list[int](), list[int](), 0
    while len(came) < len(sizes):
        at += 1
        server.now += 0.001
        moved = server.ask()
        moved |= turns[at % len(turns)] and server.send()
        here = [*held, *one.arrived]
        assert sum(here) <= 1_000 or len(here) == 1
        if len(here) > 1:
            assert sum(here) + server.promised <= 1_000
        if not moved and (taken := one.take()):
            held += taken
            came += taken
        elif not moved and held:
            one.settle(1, held.pop(0))
        elif not moved:
            assert server.send() or server.ask(), "it waits for nothing"
    assert came == sizes


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
