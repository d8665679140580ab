"""So many at a time, in the order in which they came, whoever leaves meanwhile."""

import asyncio

import pytest

from parley.workers.turns import Turns


class Guests:
    """Tasks that want a slot, by number. `inside`: who has had one, in order."""

    def __init__(self, turns: Turns, count: int) -> None:
        self._turns = turns
        self._stay = asyncio.Event()
        self.inside: list[int] = []
        self.tasks = [asyncio.create_task(self._one(number)) for number in range(count)]

    async def _one(self, number: int) -> None:
        async with self._turns.mine():
            self.inside.append(number)
            await self._stay.wait()

    async def cancelled(self, *numbers: int) -> None:
        for number in numbers:
            self.tasks[number].cancel()
        await asyncio.gather(*(self.tasks[number] for number in numbers), return_exceptions=True)
        await asyncio.sleep(0)

    async def leave(self) -> None:
        self._stay.set()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def test_first_come_first_served() -> None:
    turns = Turns(2)
    guests = Guests(turns, 6)
    await asyncio.sleep(0)
    assert (turns.waiting, guests.inside) == (4, [0, 1])
    await guests.cancelled(1)
    await guests.cancelled(0)
    assert (turns.waiting, guests.inside) == (2, [0, 1, 2, 3])
    turns.resize(0)
    await asyncio.sleep(0)
    assert (turns.waiting, guests.inside) == (0, [0, 1, 2, 3, 4, 5])
    await guests.leave()


async def test_who_is_cancelled_while_waiting_leaves_the_queue() -> None:
    turns = Turns(1)
    guests = Guests(turns, 3)
    await asyncio.sleep(0)
    assert turns.waiting == 2
    await guests.cancelled(1)
    assert (turns.waiting, guests.inside) == (1, [0])
    await guests.cancelled(0)
    assert (turns.waiting, guests.inside) == (0, [0, 2])
    await guests.leave()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_who_is_cancelled_as_its_turn_comes_keeps_nobody_waiting(order: tuple[int, int]) -> None:
    turns = Turns(1)
    guests = Guests(turns, 3)
    await asyncio.sleep(0)
    await guests.cancelled(*order)
    assert (turns.waiting, guests.inside) == (0, [0, 2])
    await guests.leave()


async def test_who_is_cancelled_between_its_turn_and_knowing_of_it_gives_the_slot_on() -> None:
    turns = Turns(1)
    guests = Guests(turns, 3)
    await asyncio.sleep(0)
    turns.resize(2)
    await guests.cancelled(1)
    assert (turns.waiting, guests.inside) == (0, [0, 2])
    await guests.leave()
