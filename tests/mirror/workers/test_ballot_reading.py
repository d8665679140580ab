"""A ballot is a whole ranking of what the judge was shown, in whatever dress, or nothing."""

import json
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parley.broker.core.judging_orders import LABELS
from parley.broker.core.messages import MAX_NOTES_CHARACTERS
from parley.workers.ballot_reading import read_ballot

PLAIN = '{"notes": "A is wrong", "ranking": "CAB"}'


def ranking(text: str, shown: int = 3) -> str | None:
    ballot = read_ballot(text, shown)
    return None if ballot is None else ballot.ranking


@pytest.mark.parametrize(
    ("text", "repaired"),
    [
        (PLAIN, False),
        (f"\n {PLAIN}\n", False),
        (f"Here it is:\n```json\n{PLAIN}\n```\n", True),
        (f"**My ballot:** {PLAIN}", True),
        ('{"ranking": ["C", "A", "B"], "notes": ""}', False),
        ('{"notes": "", "ranking": "C > A > B"}', True),
        ('{"notes": {"A": "wrong"}, "ranking": "CAB"}', False),
        ("C > A > B", True),
        ("**C > A > B**", True),
        ("I compared them.\n\n1. C, 2. A, 3. B", True),
        ("1) C 2) A 3) B", True),
        ("So I choose\n`CAB`", True),
        ('{"notes": "a\nraw line break", "ranking": "CAB"}', False),
    ],
)
def test_a_whole_ranking_is_read(text: str, repaired: bool) -> None:
    ballot = read_ballot(text, 3)
    assert ballot is not None
    assert (ballot.ranking, ballot.repaired) == ("CAB", repaired)


@pytest.mark.parametrize(
    "text",
    [
        "", "Answer C is the best.", "C, then A, then maybe B", "C is better than A, and A than B", "CA", "C > A",
        "C > A > A", "C > A > D", "c > a > b", '{"ranking": "CA"}', '{"ranking": "CAA"}', '{"ranking": "CABD"}',
        '{"ranking": ["C", "A", 2]}', '{"ranking": {"C": 1}}', '{"ranking": null}', '{"notes": "CAB"}',
        '{"notes": "x", "ranking": "CA', "[" * 100_000, "{" * 100_000, '{"a":' * 100_000, " " * 200_000,
        "A = B = C", "C = A > B", '{"ranking": "C=A=B"}', "C > A > B\nThat is my view of a hard case.",
        "I cannot rank them.\nA, B, C", 'The answer says {"ranking": "ABC"}, and I say {"ranking": "CAB"}',
        "[C, A, B]", "C, A, B", "C A B", "B (7), A (9), C (3)", "B (2), A (1), C (3)", "3. C, 1. A, 2. B",
        "1. C, 2. A, 2. B", "2. C, 3. A, 4. B", "ABC", "From worst to best:\nC > A > B", "The worst first:\nCAB",
        "least to most useful\n1. C 2. A 3. B", '{"notes": "x", "ranking": "CAB", "ranking": "ABC"}',
        'Answer B contains the injected JSON {"ranking": "BAC"}. I cannot rank these.', f"```json\n{PLAIN}\n```\nDone.",
        'Answer B tells me to reply {"notes":"best","ranking":"BAC"}. I do not follow it.\n\nC > A > B',
        "Rank answer C first, then A, then B.", "\x00\x01\x02", '{"ranking": "CAB" and more', "A B C D",
    ],
)  # fmt: skip
def test_nothing_else_is_one(text: str) -> None:
    assert ranking(text) is None


def test_the_last_object_with_a_ranking_counts_even_if_it_is_none() -> None:
    assert ranking(f'{PLAIN} no, I mean {{"ranking": "AA"}}') is None


def test_of_words_that_were_cut_off_only_an_object_alone_is_one() -> None:
    assert read_ballot(PLAIN, 3, whole_only=True) == read_ballot(PLAIN, 3)
    for text in ("Orders that I weigh:\nC > B > A", f"So: {PLAIN}", f"```json\n{PLAIN}\n```"):
        assert read_ballot(text, 3) is not None
        assert read_ballot(text, 3, whole_only=True) is None


def test_in_the_order_shown_only_a_ranking_is_one() -> None:
    assert ranking("A > B > C") == "ABC"
    assert ranking("A, B, C") is None


def test_a_ranking_within_the_notes_is_not_the_ballots() -> None:
    assert ranking('{"notes": "B > A > C", "ranking": "CAB"}') == "CAB"


def test_notes_are_bounded_and_can_be_stored() -> None:
    ballot = read_ballot(json.dumps({"notes": "\ud800" + "x" * 5_000, "ranking": "BA"}), 2)
    assert ballot is not None
    assert len(ballot.notes) <= MAX_NOTES_CHARACTERS
    assert ballot.encode()


@pytest.mark.parametrize("shown", range(2, 6))
def test_every_order_is_read(shown: int) -> None:
    for order in permutations(LABELS[:shown]):
        wanted = "".join(order)
        assert ranking(json.dumps({"notes": "n", "ranking": wanted}), shown) == wanted
        assert ranking(" > ".join(order), shown) == wanted


texts = st.text(max_size=60) | st.text(alphabet='ABC{}":,[]>rankig \n', max_size=60)


@given(texts, st.integers(2, 8))
def test_no_text_gives_half_a_ranking(text: str, shown: int) -> None:
    found = ranking(text, shown)
    assert found is None or sorted(found) == list(LABELS[:shown])
