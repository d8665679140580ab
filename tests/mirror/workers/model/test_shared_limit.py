"""The limit that workers share: never exceeded, given fairly, put right. By histories of many workers."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.workers.model.shared_limit import (
    LEASE_SECONDS,
    WINDOW_SECONDS,
    PutRight,
    Taken,
    Turn,
    decoded,
    encoded,
    take_turn,
)

NOW = 1_700_000_000.0


def turn(
    taken: Taken,
    worker: str = "a",
    *,
    running: int = 0,
    waiting: Sequence[int] = (),
    put_right: Sequence[PutRight] = (),
    concurrency: int | None = None,
    tokens: int | None = None,
    now: float = NOW,
) -> Turn:
    return take_turn(
        taken, worker, running=running, waiting=waiting, put_right=put_right, concurrency=concurrency,
        tokens_per_minute=tokens, now=now,
    )  # fmt: skip


# ── calls at once ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_one_worker_alone_has_all_that_it_wants_and_no_more_than_there_is() -> None:
    assert turn(Taken(), waiting=[1] * 3, concurrency=5).begin == 3
    found = turn(Taken(), waiting=[1] * 9, concurrency=5)
    assert (found.share, found.begin, found.taken.shares["a"].calls) == (5, 5, 5)


def test_another_worker_gets_room_only_as_the_first_lets_go() -> None:
    taken = turn(Taken(), "a", waiting=[1] * 9, concurrency=4).taken
    found = turn(taken, "b", waiting=[1] * 9, concurrency=4)
    assert (found.share, found.begin) == (0, 0)
    # Of its four calls none has ended, but it may begin no more than two.
    first = turn(found.taken, "a", running=4, waiting=[1] * 5, concurrency=4)
    assert (first.share, first.begin, first.taken.shares["a"].calls) == (2, 0, 4)
    first = turn(first.taken, "a", running=2, waiting=[1] * 5, concurrency=4)
    assert first.taken.shares["a"].calls == 2
    assert turn(first.taken, "b", waiting=[1] * 9, concurrency=4).begin == 2


def test_who_wants_nothing_holds_nothing() -> None:
    taken = turn(Taken(), "a", waiting=[1], concurrency=4).taken
    assert turn(taken, "a", concurrency=4).taken.shares == {}


def test_a_worker_that_died_loses_its_share_with_its_lease() -> None:
    taken = turn(Taken(), "dead", waiting=[1] * 4, concurrency=4).taken
    just_before = turn(taken, waiting=[1], concurrency=4, now=NOW + LEASE_SECONDS - 0.1)
    assert just_before.begin == 0
    assert turn(taken, waiting=[1] * 4, concurrency=4, now=NOW + LEASE_SECONDS).begin == 4


def test_with_more_workers_than_calls_each_has_its_turn() -> None:
    served, taken = set(), Taken()
    for step in range(200):
        now = NOW + step
        for worker in "abcde":
            # Each call ends within its second.
            found = turn(taken, worker, waiting=[1], concurrency=2, now=now)
            if found.begin:
                served.add(worker)
            taken = found.taken
    assert served == set("abcde")


Step = st.tuples(
    st.sampled_from("abc"), st.integers(0, 6), st.integers(0, 4), st.integers(0, 3), st.booleans()
)


@given(st.lists(Step, max_size=60), st.integers(1, 5))
def test_the_calls_of_all_workers_are_never_more_than_the_limit(
    steps: list[tuple[str, int, int, int, bool]], concurrency: int
) -> None:
    taken, now = Taken(), NOW
    running = dict.fromkeys("abc", 0)
    for worker, arrive, end, seconds, lost in steps:
        now += seconds / 2
        running[worker] = max(0, running[worker] - end)
        found = turn(
            taken, worker, running=running[worker], waiting=[1] * arrive, concurrency=concurrency, now=now
        )
        if lost:
            continue  # another was stored first: nothing of it counts
        taken = found.taken
        running[worker] += found.begin
        alive = {name for name, share in taken.shares.items() if share.until > now}
        assert sum(running[name] for name in alive) <= concurrency
        assert all(running[name] <= taken.shares[name].calls for name in alive)


# ── tokens ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_calls_begin_in_their_order_while_there_are_tokens() -> None:
    found = turn(Taken(), waiting=[400, 500, 200], tokens=1_000)
    assert (found.begin, sum(found.taken.tokens.values())) == (2, 900)
    # The first tokens come back after the window.
    assert found.wait_seconds == WINDOW_SECONDS + 1


def test_what_was_not_used_comes_back_at_once_and_what_was_used_more_counts() -> None:
    taken = turn(Taken(), waiting=[900], tokens=1_000).taken
    back = turn(taken, waiting=[500], put_right=[PutRight(int(NOW), -600)], tokens=1_000, now=NOW + 9)
    assert back.begin == 1
    more = turn(taken, waiting=[50], put_right=[PutRight(int(NOW), 90)], tokens=1_000, now=NOW + 9)
    assert more.begin == 0
    old = turn(taken, put_right=[PutRight(int(NOW) - 300, -600)], tokens=1_000, now=NOW + 9)
    assert sum(old.taken.tokens.values()) == 900


def test_a_call_larger_than_a_minute_has_the_minute_to_itself() -> None:
    found = turn(Taken(), waiting=[5_000, 1], tokens=1_000)
    assert (found.begin, sum(found.taken.tokens.values())) == (1, 1_000)


@given(st.lists(st.tuples(st.integers(1, 700), st.integers(0, 12_000)), max_size=80), st.integers(500, 2_000))
def test_in_no_sixty_seconds_more_tokens_are_taken_than_the_limit(
    calls: list[tuple[int, int]], limit: int
) -> None:
    taken, now = Taken(), NOW
    began: list[tuple[float, int]] = []
    for wanted, milliseconds in calls:
        now += milliseconds / 1_000
        found = turn(taken, waiting=[wanted], tokens=limit, now=now)
        taken = found.taken
        if found.begin:
            began.append((now, min(wanted, limit)))
        else:
            assert found.wait_seconds is not None
            assert turn(taken, waiting=[wanted], tokens=limit, now=now + found.wait_seconds).begin == 1
        within = [tokens for at, tokens in began if at > now - WINDOW_SECONDS]
        assert sum(within) <= limit


def test_a_large_call_is_served_among_small_ones_of_another_worker() -> None:
    taken, small = Taken(), 0
    for second in range(200):
        now = NOW + second
        large = turn(taken, "large", waiting=[900, 10], tokens=1_000, now=now)
        taken = large.taken
        if large.begin:
            break
        other = turn(taken, "small", waiting=[100] * 3, tokens=1_000, now=now)
        small, taken = small + other.begin, other.taken
        if second == 0:  # it is there first, and full
            taken = Taken({}, {int(NOW): 900}, taken.claims)
    else:
        pytest.fail("it never began")
    assert second <= WINDOW_SECONDS + 2
    assert turn(taken, "small", waiting=[10], tokens=1_000, now=now).taken.claims.keys() <= {"large", "small"}


def test_who_has_no_limit_of_tokens_leaves_the_window_as_it_is() -> None:
    taken = turn(Taken(), "a", waiting=[900], tokens=1_000).taken
    taken = turn(taken, "b", waiting=[1], concurrency=5).taken
    assert turn(taken, "a", waiting=[900], tokens=1_000).begin == 0


# ── what is stored ────────────────────────────────────────────────────────────────────────────────────────────────


def test_it_is_stored_as_json_and_read_again() -> None:
    taken = turn(Taken(), waiting=[7], concurrency=3, tokens=100).taken
    assert decoded(encoded(taken)) == taken
    assert decoded(None) == Taken()
    for body in (b"", b"{", b"[]", b'{"shares": 3}'):
        with pytest.raises(ValueError, match=r"."):
            decoded(body)
