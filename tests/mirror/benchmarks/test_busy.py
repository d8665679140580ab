"""Tokens a second through Parley over a plain client's: the verdict, and the load."""

import asyncio

import pytest

from benchmarks.busy import judge, offered


def test_the_median_of_the_pairs_decides() -> None:
    found = judge([(99.0, 100.0), (50.0, 100.0), (198.0, 200.0), (100.0, 100.0), (99.5, 100.0)])
    (target,) = found.targets
    assert target.value == pytest.approx(0.99)
    assert target.met
    assert (found.figures["lowest ratio"], found.figures["highest ratio"]) == (0.5, 1.0)
    assert not judge([(97.0, 100.0)]).met


async def test_every_lane_goes_on_until_the_end_and_ends_what_it_has_begun() -> None:
    begun = ended = most = 0

    async def one() -> None:
        nonlocal begun, ended, most
        begun += 1
        most = max(most, begun - ended)
        await asyncio.sleep(0.01)
        ended += 1

    async with offered(one, 3):
        await asyncio.sleep(0.05)
    assert most == 3
    assert begun == ended >= 6


async def test_a_lane_that_fails_ends_the_load() -> None:
    async def one() -> None:
        await asyncio.sleep(0)
        raise ValueError("no answer")

    with pytest.raises(ExceptionGroup, match="unhandled"):
        async with offered(one, 2):
            await asyncio.sleep(10)
