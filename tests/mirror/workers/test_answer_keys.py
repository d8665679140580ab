"""What a vote counts: the same final answer, however it is written."""

import time
from typing import Any

import pytest

from parley.broker.core.messages import AnswerKey
from parley.workers.answer_keys import digest, final_answer, vote_of

NUMBER, LINE = AnswerKey(last="number"), AnswerKey(last="line")
AFTER, JSON = AnswerKey(after="ANSWER:"), AnswerKey(json="/answer")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("2 + 2 = 4", "4"), ("The total is **1,234.50**.", "1234.5"), ("it is -7", "-7"), ("5-3", "5-3"), ("\u22127", "-7"),
        ("about 4.0", "4"), ("0042", "42"), ("$1,000,000", "1000000"), ("6.02e23", "602000000000000000000000"), ("-0.0", "0"), ("12 kg.", "12"),
        ("from 10 to 12", "12"), ("1\u202f234", "1234"), ("x2 is the name", None), ("no number", None), ("", None),
        (".5", "0.5"), ("it is 1/2", "1/2"), ("1,5", "1,5"), ("10^5", "10^5"), ("at 12:30.", "12:30"),
        ("10.000.001", "10.000.001"), ("1.2.3", "1.2.3"), ("\u20135", "-5"), ("6 × 7 = **42**", "42"), ("- 42", "42"),
        (r"so $\boxed{42}$", "42"), (r"\(42\)", "42"), ("(42)", "42"), ("so 42.0 %", "42%"), ("It is 42%.", "42%"), ("10⁵ of them", "10⁵"), ("3π", "3π"), ("1) 42", "42"), ("the 2nd", "2"),
    ],
)  # fmt: skip
def test_the_last_number(text: str, answer: str | None) -> None:
    assert final_answer(text, NUMBER) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So:\n\n**Paris**\n\n", "paris"), ("PARIS.", "paris"), ("it is\n 1,000 \n", "1000"), ("\n\n", None),
        ("The  Capital\u00a0City", "the capital city"), ("４２", "42"), ('"Paris."', "paris"), ("- `main`", "main"),
        ("> Paris", "paris"), (".5", "0.5"), ("5!", "5!"), ("C#", "c#"), (".NET", ".net"), ("__init__", "__init__"),
        ("```\n42\n```", "42"), ("42\n---", "42"), ("$$\n42\n$$", "42"), ('```json\n{\n"a": 1\n}\n```', '"a": 1'), ("so:\n>=", ">="),
        ("[1,2)", "[1,2)"), ("$5", "$5"), ("and so on...", "and so on..."), ("**", "**"), ("1. Paris", "paris"),
    ],
)  # fmt: skip
def test_the_last_line(text: str, answer: str | None) -> None:
    assert final_answer(text, LINE) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("ANSWER: 7\nANSWER: 8 \nbye", "8"), ("Answer:\n\n  Paris", "paris"), ("ANSWER:", None), ("none", None),
        ("**ANSWER:** 8", "8"), ("**ANSWER: 8**", "8"), ("`ANSWER: 8`", "8"), ("__ANSWER: 8__", "8"), ("ANSWER: $8$", "8"),
        ("ANSWER: __init__", "__init__"),
    ],
)  # fmt: skip
def test_what_stands_after_words(text: str, answer: str | None) -> None:
    assert final_answer(text, AFTER) == answer


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1/2", "3/2"),
        ("1,5", "2,5"),
        ("10^5", "2^5"),
        ("10.000.000", "10.000.001"),
        ("1e5", "1e6"),
        ("-5", "5"),
        ("3·10^8", "5·10^8"),
        ("3 × 10^8", "5 × 10^8"),
        (r"3 \times 10^{8}", r"5 \times 10^{8}"),
        ("7 m/s^2", "9 m/s^2"),
        ("1 000", "7 000"),
        ("3 1/2", "7 1/2"),
        ("10⁵", "10⁶"),
        ("10⁵", "105"),
        ("3½", "3"),
        ("0x1F", "0x2A"),
        ("1e1000", "1e2000"),
        (r"\frac{1}{2}", r"\frac{3}{2}"),
        (r"3\sqrt{2}", r"5\sqrt{2}"),
        ("2024-01-05", "2023-12-05"),
        ("10 - 5", "20 - 5"),
        ("2 + 2", "3 + 2"),
        ("391 [1]", "392 [1]"),
        ("3π", "3"),
    ],
)
@pytest.mark.parametrize("key", [NUMBER, LINE])
def test_different_numbers_are_different(key: AnswerKey, one: str, other: str) -> None:
    assert final_answer(f"= {one}", key) != final_answer(f"= {other}", key)


def test_large_numbers_of_json_are_whole() -> None:
    one, other = (final_answer(f'{{"answer": {10**size}}}', JSON) for size in (70, 80))
    assert one != other
    assert final_answer('{"answer": 7}', JSON) == final_answer('{"answer": 7.0}', JSON)


@pytest.mark.parametrize(
    ("text", "pointer", "answer"),
    [
        ('{"answer": "Paris"}', "/answer", "paris"), ('so {"answer": 7.0} it is', "/answer", "7"),
        ('{"a": {"b": [1, "x"]}}', "/a/b/1", "x"), ('{"answer": true}', "/answer", "true"),
        ('{"answer": null}', "/answer", None), ('{"answer": {"b": 1, "a": 2}}', "/answer", '{"a": 2, "b": 1}'),
        ('{"a/b": 1}', "/a~1b", "1"), ('{"other": 1}', "/answer", None), ("{", "/answer", None),
        ('```\n{"answer":"A","alternatives":[{"answer":"B"}]}\n```', "/answer", "a"),
        ('[{"a": 1}, {"a": 2}]', "/0/a", "1"), ('[{"a": 1}, {"a": 2}]', "/a", None), ('[4, 5]', "/1", "5"),
        ('```json\n[{"a": 1}, {"a": 2}]\n```', "/0/a", "1"), ('so [{"a": 1}, {"a": 2}]', "/a", "2"),
        ('{"a": [1]}', "/a/99999999999999999999", None), ('{"answer": ""}', "/answer", None),
    ],
)  # fmt: skip
def test_a_value_of_json(text: str, pointer: str, answer: str | None) -> None:
    assert final_answer(text, AnswerKey(json=pointer)) == answer


@pytest.mark.parametrize("key", [NUMBER, LINE, AFTER, JSON])
@pytest.mark.parametrize(
    "text", ["9" * 200_000, "9," * 100_000, "ANSWER:" * 30_000, "{" * 200_000, "-" * 200_000]
)
def test_hostile_answers_cost_little(key: AnswerKey, text: str) -> None:
    began = time.process_time()
    final_answer(text, key)
    assert time.process_time() - began < 1.0


def test_a_vote_is_the_same_for_answers_that_are_the_same() -> None:
    assert vote_of("so 4.0", NUMBER) == vote_of("4", NUMBER) == "4"
    assert vote_of("no", NUMBER) is None
    assert vote_of("so 4 and", NUMBER, "length") is None
    assert vote_of("The answer is 4", NUMBER, "content_filter") is None
    assert vote_of("I can't help with those 4.", NUMBER, refused=True) is None
    assert digest("a  b\n") == digest(" a b") != digest("a c")
    assert digest("\ud800")


@pytest.mark.parametrize(
    "given", [{}, {"last": "number", "after": "x"}, {"last": "word"}, {"json": "answer"}, {"after": ""}]
)
def test_a_key_has_exactly_one_way(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"AnswerKey|exactly one"):
        AnswerKey(**given)


def test_it_travels_under_the_names_of_the_contract() -> None:
    assert AnswerKey.model_validate_json(b'{"json": "/answer"}') == JSON
    assert b'"json":"/answer"' in JSON.encode()
