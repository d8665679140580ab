"""What a process remembers of tallies is bounded by memory, and what nobody uses any more goes."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.broker.core.states_and_moves import State
from parley.broker.core.tally import Outcome, Phase, Tally
from parley.broker.jetstream import tally_cache
from parley.broker.jetstream.tally_cache import Entry, TallyCache
from tests import present


def tally_of(number: int, *, agents: int = 3, reported: int = 0, entries: int = 0) -> Tally:
    names = tuple(f"agent-{number}-{place}" for place in range(agents))
    outcomes = {
        name: Outcome(succeeded=True, seq=1_000 * number + place)
        for place, name in enumerate(names[:reported])
    }
    return Tally(
        task_id=f"t-{number}", state=State.PENDING, request_seq=number, accepted_at=1e9 + number, deadline=2e9 + number,
        phases=(Phase(number=1, agents=names, outcomes=outcomes),),
        metadata={f"{number}-{place}": f"{number + place}" for place in range(entries)},
    )  # fmt: skip


def put(cache: TallyCache, tally: Tally) -> None:
    cache.put(tally.task_id, Entry(tally, 1), len(tally.model_dump_json(exclude_defaults=True)))


@pytest.mark.parametrize(
    ("agents", "reported", "entries"), [(3, 3, 0), (256, 0, 0), (256, 256, 0), (3, 0, 900)]
)
def test_its_bound_is_what_tallies_take_in_memory(agents: int, reported: int, entries: int) -> None:
    """4,000 requests of 16 KB with 1,250 entries of metadata each took 670 MiB."""
    cache = TallyCache(max_bytes=8 * 2**20)
    tracemalloc.start()
    try:
        for number in range(8 * 2**20 // 2_500 if entries + reported == 3 else 400):
            put(cache, tally_of(number, agents=agents, reported=reported, entries=entries))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 4 * 2**20 < cache.held_bytes <= 8 * 2**20
    assert taken < 8.5 * 2**20


def test_the_tally_used_longest_ago_goes_first() -> None:
    cache = TallyCache(max_bytes=9_000)
    for number in range(3):
        put(cache, tally_of(number))
    assert present(cache.get("t-0")).revision == 1
    put(cache, tally_of(3))
    assert [cache.get(f"t-{number}") is not None for number in range(4)] == [True, False, True, True]


def test_a_tally_that_nobody_uses_goes() -> None:
    now = [0.0]
    cache = TallyCache(now=lambda: now[0])
    put(cache, tally_of(1))
    now[0] = 0.6 * tally_cache.UNUSED_SECONDS
    put(cache, tally_of(2))
    now[0] = 1.2 * tally_cache.UNUSED_SECONDS
    put(cache, tally_of(3))
    assert [cache.get(f"t-{number}") is not None for number in (1, 2, 3)] == [False, True, True]


def test_a_tally_larger_than_the_cache_is_not_kept() -> None:
    cache = TallyCache(max_bytes=9_000)
    put(cache, tally_of(1))
    put(cache, tally_of(1, entries=1_000))
    assert (cache.get("t-1"), cache.held_bytes) == (None, 0)


@given(st.lists(st.tuples(st.sampled_from("pgd"), st.integers(0, 5), st.integers(0, 30)), max_size=40))
def test_its_count_of_bytes_is_that_of_what_it_holds(steps: list[tuple[str, int, int]]) -> None:
    cache = TallyCache(max_bytes=12_000)
    for step, number, entries in steps:
        match step:
            case "p":
                put(cache, tally_of(number, entries=entries))
            case "g":
                cache.get(f"t-{number}")
            case _:
                cache.drop(f"t-{number}")
        assert cache.held_bytes <= 12_000
        assert cache.held_bytes == sum(weight for _, weight, _ in cache._entries.values())
