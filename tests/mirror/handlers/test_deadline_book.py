"""Which deadlines a process looks after, and when."""

import random

from parley.handlers.deadline_book import SLACK, DeadlineBook


def test_what_is_due_comes_once_and_the_earliest_first() -> None:
    book = DeadlineBook()
    for name, due in (("c", 3.0), ("a", 1.0), ("b", 2.0), ("later", 9.0)):
        book.add(name, due, 7)
    assert not book.take_due(0.5, 10)
    assert [(name, watched.request_seq) for name, watched in book.take_due(3.0, 2)] == [("a", 7), ("b", 7)]
    assert [name for name, _ in book.take_due(3.0, 10)] == ["c"]
    assert not book.take_due(3.0, 10)
    assert len(book) == 1


def test_what_has_ended_does_not_come() -> None:
    book = DeadlineBook()
    book.add("a", 1.0, 1)
    book.remove("a")
    book.remove("a")
    assert not book.take_due(2.0, 10)


def test_an_earlier_entry_stays_until_it_is_removed() -> None:
    book = DeadlineBook()
    book.add("a", 1.0, 1)
    book.add("a", 5.0, 2)
    assert [watched.request_seq for _, watched in book.take_due(1.0, 10)] == [1]
    book.add("a", 5.0, 2)  # the name again
    book.remove("a")
    book.add("a", 8.0, 3)
    assert not book.take_due(7.0, 10)
    assert [watched.request_seq for _, watched in book.take_due(8.0, 10)] == [3]


def test_it_is_bounded_also_by_what_has_ended() -> None:
    book = DeadlineBook(limit=100)
    for number in range(50_000):
        book.add(f"t-{number}", 1e9 + number, number)
        if number % 2:
            book.remove(f"t-{number}")
    assert len(book) == 100
    assert len(book._heap) <= 3 * 100 + SLACK


def test_any_order_of_adding_and_removing_loses_none() -> None:
    for seed in range(50):
        rng, book = random.Random(seed), DeadlineBook()
        held: dict[str, float] = {}
        for _ in range(300):
            name, due = f"t-{rng.randrange(40)}", rng.random() * 100
            if rng.random() < 0.4:
                book.remove(name)
                held.pop(name, None)
            else:
                book.add(name, due, 0)
                held.setdefault(name, due)
        assert {name: watched.due for name, watched in book.take_due(200.0, 1_000)} == held, seed
