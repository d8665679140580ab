"""Which fields a server gets: as the operator says, or as the server's refusal does."""

from typing import Any

import pytest

from parley.workers.model.request_fields import ENOUGH_TOKENS, PLAIN, FieldRules, parse_omit, parse_rename

BODY = {
    "model": "m", "messages": [], "temperature": 0.7, "max_tokens": 1, "seed": 5, "stop": "x",
    "stream_options": {"include_usage": True},
}  # fmt: skip
OURS = frozenset({"temperature", "seed", "stream_options", "max_tokens"})


def test_without_rules_the_body_goes_as_it_is() -> None:
    assert PLAIN.applied(BODY, OURS) == BODY


def test_fields_are_left_out_and_renamed() -> None:
    rules = FieldRules(parse_omit("seed, stream_options"), parse_rename("max_tokens=max_completion_tokens"))
    sent = rules.applied(BODY)
    assert "seed" not in sent
    assert "stream_options" not in sent
    assert "max_tokens" not in sent
    assert sent["max_completion_tokens"] == 1


# What servers say of a field that they do not take.
REFUSALS = [
    ("seed", "Unrecognized request argument supplied: seed"),
    (
        "seed",
        '{"detail":[{"type":"extra_forbidden","loc":["body","seed"],"msg":"Extra inputs are not permitted"}]}',
    ),
    ("seed", "property 'seed' is unsupported, did you mean 'speed'?"),
    ("seed", 'Invalid JSON payload received. Unknown name "seed": Cannot find field.'),
    ("seed", "openai does not support parameters: {'seed': 5}"),
    ("stream_options", "unknown field `stream_options`"),
    ("stream_options", '{"error":{"message":"bad","param":"stream_options","code":"unsupported_parameter"}}'),
    ("stream_options", "The 'stream_options' parameter is only allowed when 'stream' is enabled."),
    ("stream_options", "Unrecognized request arguments supplied: include_usage"),
    ("stream_options", "body.stream_options.include_usage: extra fields not permitted"),
    ("temperature", "Unsupported value: 'temperature' does not support 0.7 with this model."),
]


@pytest.mark.parametrize(("field", "text"), REFUSALS)
def test_a_field_of_ours_that_a_refusal_names_is_left_out(field: str, text: str) -> None:
    changed = PLAIN.after_refusal(BODY, OURS, text)
    assert changed == (f"`{field}` is left out", FieldRules(omit_chosen=frozenset({field})))
    assert field not in changed[1].applied(BODY, OURS)
    # Another caller who asks for it reads the refusal.
    assert changed[1].applied(BODY, OURS - {field})[field] == BODY[field]


@pytest.mark.parametrize(("field", "text"), REFUSALS)
def test_a_field_that_the_caller_asked_for_is_not(field: str, text: str) -> None:
    assert PLAIN.after_refusal(BODY, OURS - {field}, text) is None


@pytest.mark.parametrize(
    "text", ["the prompt is too long", "seeds are not sold here", "my_temperature", "stop is wrong", ""]
)
def test_a_refusal_that_names_no_field_of_ours_changes_nothing(text: str) -> None:
    assert PLAIN.after_refusal(BODY, OURS, text) is None


def test_a_field_that_was_not_sent_is_not_left_out() -> None:
    assert PLAIN.after_refusal({"model": "m"}, OURS, "seed is not supported") is None
    assert FieldRules(frozenset({"seed"})).after_refusal(BODY, OURS, "seed is not supported") is None


SYSTEM = {"role": "system", "content": "Be short."}
USER = {"role": "user", "content": "Say something"}


@pytest.mark.parametrize(
    ("text", "about_it"),
    [
        ("System role not supported", True),
        ("Developer instruction is not enabled for models/gemma-3-27b-it", True),
        ("Unsupported value: 'messages[0].role' does not support 'system' with this model.", True),
        ("Conversation roles must alternate user/assistant/user/assistant/...", True),
        ("Only user and assistant roles are supported!", True),
        ("The 'system' role is not supported", True),
        ("Only user and assistant roles are supported, with the exception of an initial optional system message!", False),
        ("the system is overloaded", False),
        ("system error: not supported", False),
    ],
)  # fmt: skip
def test_a_server_without_a_system_message_gets_its_words_in_the_users(text: str, about_it: bool) -> None:
    body = {"model": "m", "messages": [SYSTEM, USER]}
    changed = PLAIN.after_refusal(body, (), text)
    assert (changed is not None) == about_it
    if changed is not None:
        joined = {"role": "user", "content": "Be short.\n\nSay something"}
        assert changed[1].applied(body) == {"model": "m", "messages": [joined]}
        assert changed[1].after_refusal(body, (), text) is None
    assert PLAIN.after_refusal({"model": "m", "messages": [USER]}, (), text) is None


ANSWER = {"role": "assistant", "content": "42"}
PARTS = {"role": "user", "content": [{"type": "text", "text": "Look"}]}


@pytest.mark.parametrize(
    ("sent", "contents"),
    [
        ([SYSTEM, USER], ["Be short.\n\nSay something"]),
        ([{**SYSTEM, "role": "developer"}, USER], ["Be short.\n\nSay something"]),
        ([SYSTEM, SYSTEM, USER], ["Be short.\n\nBe short.\n\nSay something"]),
        ([USER, SYSTEM, USER], ["Say something", "Be short.\n\nSay something"]),
        ([USER, ANSWER, SYSTEM], ["Say something", "42", "Be short."]),
        ([USER, SYSTEM], ["Say something\n\nBe short."]),
        ([SYSTEM, ANSWER, USER], ["42", "Be short.\n\nSay something"]),
        ([SYSTEM], ["Be short."]),
        ([SYSTEM, PARTS], [[{"type": "text", "text": "Be short."}, {"type": "text", "text": "Look"}]]),
        ([USER, ANSWER], ["Say something", "42"]),
    ],
)
def test_wherever_a_system_message_stands_a_user_says_its_words(sent: list[Any], contents: list[Any]) -> None:
    found = FieldRules(system_message=False).applied({"messages": sent})["messages"]
    assert [message["content"] for message in found] == contents
    assert {message["role"] for message in found} <= {"user", "assistant"}


@pytest.mark.parametrize("name", ["max_output_tokens", "maxOutputTokens", "max_new_tokens"])
def test_the_limit_is_known_by_the_names_of_other_apis(name: str) -> None:
    text = f"Invalid '{name}': integer below minimum value. Expected a value >= 16"
    _, more = PLAIN.after_refusal(BODY, OURS, text) or ("", PLAIN)
    assert more.applied(BODY, OURS)["max_tokens"] == ENOUGH_TOKENS
    assert PLAIN.after_refusal(BODY, frozenset(), text) is None


@pytest.mark.parametrize(
    "text",
    [
        "The number of tokens to generate must be larger than 1",
        "Invalid value for maxTokens",
        "max_completion_tokens too small",
        "max_length must be > 1",
        "Requested output tokens are too few",
        "Ask for at least 16 tokens",
        "Maximum tokens must be at least 2",
        "minimum tokens: 16",
    ],
)
def test_the_limit_is_known_by_the_words_for_it(text: str) -> None:
    _, more = PLAIN.after_refusal(BODY, OURS, text) or ("", PLAIN)
    assert more.applied(BODY, OURS)["max_tokens"] == ENOUGH_TOKENS
    assert PLAIN.after_refusal(BODY, frozenset(), text) is None


def test_a_field_that_is_named_comes_before_one_that_is_spoken_of() -> None:
    changed = PLAIN.after_refusal(BODY, OURS, "seed is not supported; the number of tokens is not limited")
    assert changed is not None
    assert changed[0] == "`seed` is left out"


@pytest.mark.parametrize(
    ("text", "most"),
    [
        ("max_tokens is too large: 4096. This model supports at most 2048 completion tokens", 2_048),
        ("`max_tokens` must be less than or equal to `1024`", 1_024),
        ("max_tokens: 4096 > 1000, which is the maximum allowed", 1_000),
    ],
)
def test_a_limit_that_is_too_large_is_made_smaller_where_parley_chose_it(text: str, most: int) -> None:
    body = {**BODY, "max_tokens": 4_096}
    _, less = PLAIN.after_refusal(body, OURS, text) or ("", PLAIN)
    assert less.applied(body, OURS)["max_tokens"] == most
    assert less.applied({**BODY, "max_tokens": 100}, OURS)["max_tokens"] == 100
    assert less.applied(body, ())["max_tokens"] == 4_096  # a caller's own
    _, none = less.after_refusal(body, OURS, "max_tokens: try again") or ("", PLAIN)
    assert "max_tokens" not in none.applied(body, OURS)


def test_one_token_becomes_sixteen_and_then_as_many_as_the_server_likes() -> None:
    _, more = PLAIN.after_refusal(BODY, OURS, "max_tokens must be at least 16") or ("", PLAIN)
    assert more.applied(BODY, OURS)["max_tokens"] == ENOUGH_TOKENS
    # A caller's own limit is not raised.
    assert more.applied({"max_tokens": 1})["max_tokens"] == 1
    _, none = more.after_refusal(BODY, OURS, "max_tokens was reached") or ("", PLAIN)
    assert "max_tokens" not in none.applied(BODY, OURS)


@pytest.mark.parametrize("chosen", [frozenset({"max_tokens"}), frozenset[str]()])
def test_a_server_that_wants_the_newer_name_gets_the_callers_limit_under_it(chosen: frozenset[str]) -> None:
    text = "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."
    what, rules = PLAIN.after_refusal(BODY, chosen, text) or ("", PLAIN)
    assert what == "`max_tokens` is sent as `max_completion_tokens`"
    assert rules.applied(BODY)["max_completion_tokens"] == 1
    assert rules.after_refusal(BODY, frozenset(), "max_completion_tokens is wrong") is None


@pytest.mark.parametrize("text", ["", " , "])
def test_nothing_is_left_out_or_renamed_by_default(text: str) -> None:
    assert (parse_omit(text), parse_rename(text)) == (frozenset(), ())


@pytest.mark.parametrize("text", ["sed", "model", "messages", "stream", "seed;stop"])
def test_what_cannot_be_left_out_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=text):
        parse_omit(text)


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens", "max_tokens=", "=x", "model=x", "max_tokens=model", "seed=stop", "seed=a,seed=b",
        "seed=a,stop=a", "seed=a b",
    ],
)  # fmt: skip
def test_a_wrong_rename_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_rename(text)
