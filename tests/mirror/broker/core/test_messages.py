"""Payloads: every bound of the contract at its edge and one past it, strict reading, and the description of bad ones."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from parley.broker.core import messages
from parley.broker.core.errors import InvalidMessage
from parley.broker.core.messages import (
    MAX_REQUEST_BYTES,
    AgentCancel,
    AgentCompleted,
    AgentFailed,
    AgentRequested,
    AgentResult,
    Constraints,
    DeliberationCancel,
    DeliberationCompleted,
    DeliberationDeadline,
    DeliberationFailed,
    DeliberationGet,
    DeliberationRequested,
    DeliberationStatus,
    ErrorType,
    FailedAgent,
    Message,
    Proposal,
    ResultsRef,
    Usage,
    agent_id,
    decode,
    decode_ending,
)
from tests import present

KIB = 1024


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def request(**fields: Any) -> DeliberationRequested:
    return decode(DeliberationRequested, body(**{"task_description": "x", **fields}))


def problems_of(**fields: Any) -> str:
    """The problems of a request with these fields."""
    with pytest.raises(InvalidMessage) as caught:
        request(**fields)
    return str(caught.value)


def text_of(size: int) -> str:
    return "x" * size


def metadata_of(size: int) -> dict[str, str]:
    """An object that is `size` bytes as compact JSON."""
    return {"k": text_of(size - len('{"k":""}'))}


def constraints_of(size: int) -> dict[str, str]:
    return {"rubric": text_of(size - len('{"rubric":""}'))}


# ── bounds ────────────────────────────────────────────────────────────────────────────────────────────────────────

GOOD: dict[str, list[Any]] = {
    "task_id": ["a", "A-z_09" + "x" * 58],
    "task_description": ["x", text_of(256 * KIB), "é" * (128 * KIB)],
    "role": ["A", "R" * 32, "A_9"],
    "num_agents": [1, 256],
    "constraints": [{}, constraints_of(64 * KIB), {"timeout_seconds": 0.1}, {"timeout_seconds": 86_400}],
    "rounds": [1, 5],
    "timeout_seconds": [0.1, 86_400, 86_400.0],
    "model": ["m"],
    "temperature": [0, 2],
    "max_tokens": [1],
    "seed": [0, -(2**63), 2**63 - 1],
    "stop": [".", ["a", "b", "c", "d"]],
    "metadata": [{}, metadata_of(16 * KIB)],
}
AT_THE_EDGE: list[dict[str, Any]] = [
    *({field: value} for field, values in GOOD.items() for value in values),
    {"num_agents": 3, "min_responses": 3},
    {"num_agents": 256, "min_responses": 256},
]
BAD: dict[str, list[Any]] = {
    "task_id": ["", "x" * 65, "a.b", "a b", "a\n", "naïve", ">"],
    "task_description": ["", text_of(256 * KIB + 1), "é" * (128 * KIB) + "x"],
    "role": ["", "R" * 33, "9A", "_A", "A-B", "DEV\n"],
    "num_agents": [0, 257],
    "constraints": [constraints_of(64 * KIB + 1)],
    "rounds": [0, 6],
    "min_responses": [0],
    "timeout_seconds": [0.099, 86_400.001, 0],
    "model": [""],
    "temperature": [-0.001, 2.001],
    "max_tokens": [0],
    "seed": [-(2**63) - 1, 2**63],
    "stop": ["", ["a", ""], ["a", "b", "c", "d", "e"]],
    "metadata": [metadata_of(16 * KIB + 1)],
}
ONE_PAST: list[tuple[dict[str, Any], str]] = [
    *(({field: value}, field) for field, values in BAD.items() for value in values),
    ({"constraints": {"timeout_seconds": 0.099}}, "constraints.timeout_seconds"),
    ({"constraints": {"timeout_seconds": 86_400.001}}, "constraints.timeout_seconds"),
    ({"constraints": {"max_iterations": 0}}, "constraints.max_iterations"),
    ({"rounds": 2, "select": "rank", "num_agents": 5}, "rounds"),
    ({"min_responses": 4}, "min_responses"),  # more than the three agents a request has by default
    ({"num_agents": 2, "min_responses": 3}, "min_responses"),
]


def shortened(value: Any) -> str:
    return repr(value)[:40]


@pytest.mark.parametrize("fields", AT_THE_EDGE, ids=shortened)
def test_a_request_at_the_edge_of_a_bound_is_good(fields: dict[str, Any]) -> None:
    assert request(**fields).model_dump(mode="json", exclude_unset=True) == {
        "task_description": "x",
        **fields,
    }


@pytest.mark.parametrize(("fields", "named"), ONE_PAST, ids=shortened)
def test_a_request_one_past_a_bound_is_refused_by_field_name(fields: dict[str, Any], named: str) -> None:
    said = problems_of(**fields)
    assert named in said
    assert len(said) < 1_000


def test_a_request_with_only_a_description_has_the_contracts_defaults() -> None:
    got = request()
    assert (got.role, got.num_agents, got.rounds, got.min_responses) == ("DEV", 3, 1, 1)
    assert (got.diversity, got.finish_early) == (False, False)
    assert (got.task_id, got.timeout_seconds, got.asked_timeout_seconds) == (None, None, None)
    assert got.constraints == Constraints()
    assert got.metadata == {}
    assert (got.model, got.temperature, got.max_tokens, got.seed, got.stop) == (None, None, None, None, None)


def test_a_request_needs_a_description() -> None:
    with pytest.raises(InvalidMessage, match=r"^payload: task_description is required, or messages$"):
        decode(DeliberationRequested, b"{}")


@pytest.mark.parametrize(
    ("own", "constrained", "asked"), [(None, None, None), (5.0, None, 5.0), (None, 7.0, 7.0), (5.0, 7.0, 5.0)]
)
def test_the_requests_own_timeout_goes_before_its_constraints(
    own: float | None, constrained: float | None, asked: float | None
) -> None:
    assert (
        request(timeout_seconds=own, constraints={"timeout_seconds": constrained}).asked_timeout_seconds
        == asked
    )


def test_a_rubric_is_text_or_an_object() -> None:
    assert request(constraints={"rubric": "be brief"}).constraints.rubric == "be brief"
    points: dict[str, Any] = {"clarity": 3, "depth": {"weight": 0.5, "notes": ["a", None, True]}}
    assert request(constraints={"rubric": points}).constraints.rubric == points


@pytest.mark.parametrize("reason", ["x" * 1_000, "", None])
def test_a_cancel_may_give_a_reason(reason: str | None) -> None:
    assert decode(DeliberationCancel, body(task_id="t-1", reason=reason)).reason == reason


def test_a_cancels_reason_is_bounded() -> None:
    with pytest.raises(InvalidMessage, match="reason"):
        decode(DeliberationCancel, body(task_id="t-1", reason="x" * 1_001))


@pytest.mark.parametrize("kind", [DeliberationCancel, DeliberationDeadline, DeliberationGet, AgentCancel])
@pytest.mark.parametrize("name", [None, "", "a.b", "x" * 65, 5, ["a"]])
def test_every_message_that_names_a_deliberation_checks_the_name(kind: type[Message], name: Any) -> None:
    with pytest.raises(InvalidMessage, match="task_id"):
        decode(kind, body(task_id=name))
    with pytest.raises(InvalidMessage, match="task_id"):
        decode(kind, b"{}")


# ── strictness ────────────────────────────────────────────────────────────────────────────────────────────────────


NOT_CONVERTED: dict[str, list[Any]] = {
    "num_agents": ["3", True, 3.0],
    "min_responses": ["1"],
    "rounds": [True],
    "timeout_seconds": ["300", True],
    "temperature": ["1", False],
    "max_tokens": [10.5],
    "seed": [True],
    "diversity": [1, "true"],
    "finish_early": [0],
    "task_description": [5, ["x"]],
    "messages": ["x", {}, ["x"]],
    "task_id": [5],
    "role": [5],
    "model": [5],
    "stop": [5],
    "metadata": [[], {"k": 1}, {"k": None}],
    "constraints": [
        "be brief",
        {"rubric": 5},
        {"requirements": "be brief"},
        {"requirements": [1]},
        {"metadata": 1},
    ],
}


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field, values in NOT_CONVERTED.items() for value in values],
    ids=repr,
)
def test_a_value_of_another_type_is_not_converted(field: str, value: Any) -> None:
    assert problems_of(**{field: value}).startswith(field)


# ── null ──────────────────────────────────────────────────────────────────────────────────────────────────────────

# A payload of each kind that travels, with what it must have.
LEAST: dict[type[Message], dict[str, Any]] = {
    DeliberationRequested: {"task_description": "x"},
    DeliberationCancel: {"task_id": "t"},
    DeliberationGet: {"task_id": "t"},
    DeliberationDeadline: {"task_id": "t"},
    AgentCancel: {"task_id": "t"},
    AgentRequested: {
        "task_id": "t", "agent_id": "agent-dev-001", "agent_number": 1, "role": "DEV", "num_agents": 1,
        "task_description": "x", "requested_at": "2026-01-01T00:00:00Z", "deadline": "2026-01-01T00:00:00Z",
    },
    AgentFailed: {
        "task_id": "t", "agent_id": "agent-dev-001", "role": "DEV", "error": "x", "error_type": "bad_request",
        "attempt": 1, "duration_ms": 1, "timestamp": "2026-01-01T00:00:00Z",
    },
    AgentCompleted: {
        "task_id": "t", "agent_id": "agent-dev-001", "role": "DEV", "finish_reason": "stop", "attempt": 1,
        "queue_ms": 1, "duration_ms": 1, "timestamp": "2026-01-01T00:00:00Z", "model": "m", "diversity": False,
        "num_agents": 1, "usage": {},
        "proposal": {
            "content": "x", "author_id": "a", "author_role": "DEV", "model": "m", "temperature": None, "tokens": 1,
        },
    },
    DeliberationStatus: {"task_id": "t", "status": "PENDING"},
    Constraints: {},
    Usage: {},
}  # fmt: skip
NULLABLE = [
    (kind, name)
    for kind in LEAST
    for name, field in kind.model_fields.items()
    if not field.is_required() and name not in LEAST[kind]
]


@pytest.mark.parametrize(("kind", "field"), NULLABLE, ids=lambda value: getattr(value, "__name__", value))
def test_a_null_for_a_field_with_a_default_is_the_default(kind: type[Message], field: str) -> None:
    assert decode(kind, body(**LEAST[kind], **{field: None})) == decode(kind, body(**LEAST[kind]))


@pytest.mark.parametrize("kind", LEAST)
def test_nulls_for_all_fields_with_a_default_are_as_none_of_them(kind: type[Message]) -> None:
    nulls = {field: None for of, field in NULLABLE if of is kind}
    assert decode(kind, body(**nulls, **LEAST[kind])) == decode(kind, body(**LEAST[kind]))


def test_nulls_are_left_out_in_nested_fields_too() -> None:
    nulls = dict.fromkeys(Constraints.model_fields)
    assert request(constraints=nulls, role=None) == request()
    assert request(constraints={**nulls, "requirements": ["r"]}).constraints.requirements == ("r",)
    counts = {"prompt_tokens": None, "completion_tokens": 3, "total_tokens": None}
    outcome = decode(AgentCompleted, body(**{**LEAST[AgentCompleted], "usage": counts}))
    assert outcome.usage == Usage(completion_tokens=3)


def test_a_request_with_nulls_asks_the_same_question() -> None:
    nulls = dict.fromkeys(set(DeliberationRequested.model_fields) - {"task_description"})
    assert request(**nulls).question == request().question


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"task_description": None}, "task_description"),
        ({"metadata": {"k": None}}, "metadata"),
        ({"stop": [None]}, "stop"),
        ({"constraints": {"requirements": [None]}}, "constraints.requirements"),
        ({"role": None, "num_agents": 0}, "num_agents"),
        (
            {"role": None, "num_agents": None, "min_responses": 4},
            "min_responses is 4, more than num_agents, 3",
        ),
    ],
    ids=str,
)
def test_a_null_elsewhere_is_a_problem_and_hides_no_other(fields: dict[str, Any], named: str) -> None:
    problems = problems_of(**fields)
    assert named in problems
    assert "role" not in problems


def test_an_ending_with_nulls_is_read() -> None:
    ending = {
        "task_id": "t", "status": "failed", "error": "x", "failed_agents": [], "missing_agents": [], "results": [],
        "total_agents": 0, "successful_responses": 0, "failed_responses": 0, "duration_ms": 0,
        "timestamp": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    assert decode_ending(body(**ending, metadata=None, left_out=None)) == decode_ending(body(**ending))


def test_a_hostile_payload_is_not_read_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parley.broker.core.messages.base.without_nulls", None)  # a call would raise
    assert problems_of(role=5, metadata={str(n): None for n in range(100)})


def test_a_whole_number_of_seconds_is_a_duration() -> None:
    assert request(timeout_seconds=5).timeout_seconds == 5.0


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("field", ["timeout_seconds", "temperature"])
def test_durations_and_temperatures_are_finite_numbers(field: str, word: str) -> None:
    with pytest.raises(InvalidMessage, match=rf"^{field}: "):
        decode(DeliberationRequested, f'{{"task_description": "x", "{field}": {word}}}'.encode())


@pytest.mark.parametrize(
    "junk",
    [
        b"", b"   ", b"nope", b"{", b"[]", b"null", b"7", b'"x"', b'{"task_description": "\xff"}',
        b'{"task_description": "\\ud800"}', b"[" * 100_000, b'{"task_description": ' + b"1" * 10_000 + b"}",
        b'{"task_description": "x"} trailing', b"\xef\xbb\xbf{}",
    ],
    ids=shortened,
)  # fmt: skip
def test_a_payload_that_is_not_a_json_object_is_refused(junk: bytes) -> None:
    with pytest.raises(InvalidMessage, match=r"^payload: ") as caught:
        decode(DeliberationRequested, junk)
    assert len(str(caught.value)) < 200


def test_unknown_fields_are_ignored_at_every_level() -> None:
    got = request(colour="blue", constraints={"rubric": "r", "shape": {"a": 1}})
    assert got == request(constraints={"rubric": "r"})
    assert b"colour" not in got.encode()


def test_metadata_is_passed_on_unchanged() -> None:
    metadata = {"Ticket": "P-1", "": "", "ключ": "значение", "n": "3"}
    assert request(metadata=metadata).metadata == metadata
    nested: dict[str, Any] = {"a": [1, 2.5, None, {"b": "c"}]}
    assert request(constraints={"metadata": nested}).constraints.metadata == nested


@pytest.mark.parametrize(
    ("given_role", "role"),
    [("dev", "DEV"), ("Qa", "QA"), ("data_engineer2", "DATA_ENGINEER2"), ("DEV", "DEV")],
)
def test_a_role_is_folded_to_upper_case(given_role: str, role: str) -> None:
    assert request(role=given_role).role == role


def test_an_agent_is_named_after_its_role_and_place() -> None:
    assert agent_id("DEV", 1) == "agent-dev-001"
    assert agent_id("DATA_ENGINEER", 256) == "agent-data_engineer-256"


def test_a_message_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        request().num_agents = 5  # type: ignore[misc]  # that it is refused is what is tested


# ── what is said about a bad payload ──────────────────────────────────────────────────────────────────────────────


def test_every_bad_field_is_named() -> None:
    said = problems_of(num_agents=0, role="!", timeout_seconds=-1, task_description="")
    for field in ("num_agents", "role", "timeout_seconds", "task_description"):
        assert f"{field}: " in said


def test_only_the_first_problems_are_named_and_the_rest_counted() -> None:
    said = problems_of(metadata=dict.fromkeys(map(str, range(500)), 1))
    assert said.count("metadata.*: ") == messages.MAX_REPORTED_PROBLEMS
    assert said.endswith("and 492 more")


MANY = 80_000


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"metadata": dict.fromkeys(map(str, range(MANY)), 1)}, "metadata: metadata has 80000 entries"),
        ({"metadata": dict.fromkeys(map(str, range(MANY)), "1")}, "metadata: metadata has 80000 entries"),
        ({"stop": [1] * MANY}, "stop"),
        ({"stop": ["a"] * MANY}, "stop"),
        ({"constraints": {"requirements": [1] * MANY}}, "constraints.requirements"),
        ({"constraints": {"requirements": ["a"] * MANY}}, "constraints.requirements"),
        ({"constraints": {"metadata": dict.fromkeys(map(str, range(MANY)), 1)}}, "constraints: constraints is 788904 bytes"),
        ({"constraints": {"rubric": {"a": [[]] * MANY}}}, "payload: has 80004 lists and objects, more than 32768"),
        ({"constraints": {"rubric": {"a": [[]] * 30_000}}}, "constraints: constraints is 90018 bytes"),
        ({"extra": {"a": [[]] * MANY}}, "payload: has 80003 lists and objects, more than 32768"),
        ({"extra": {"a": [[]] * 30_000}}, "extra: it is "),
        ({"extra": {"a": ["[{"] * MANY}}, "extra: it is "),
        ({"judge_models": [1] * MANY}, "judge_models"),
        ({"judge_models": ["m"] * MANY}, "judge_models"),
        ({"models": [1] * MANY}, "models"),
        ({"panel": [1] * MANY}, "panel"),
    ],
    ids=shortened,
)  # fmt: skip
def test_thousands_of_problems_are_not_looked_for(fields: dict[str, Any], said: str) -> None:
    """To describe 80,000 took 0.2 s and 20 MiB."""
    body = json.dumps({"task_description": "x", **fields}).encode()
    with pytest.raises(ValidationError) as found:
        DeliberationRequested.model_validate_json(body)
    assert found.value.error_count() <= 2
    assert problems_of(**fields).startswith(said)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"select": "vote", "answer_key": {}}, "answer_key: needs exactly one of last, after, json"),
        ({"metadata": {"a": "x" * 20_000}}, "metadata: metadata is 20008 bytes as JSON, more than 16384"),
        ({"task_description": None}, "payload: task_description is required, or messages"),
    ],
    ids=shortened,
)
def test_a_check_of_ours_is_told_without_pydantics_words(fields: dict[str, Any], said: str) -> None:
    assert problems_of(**fields) == said


def test_thousands_of_problems_are_only_counted() -> None:
    class Many(Message):
        numbers: tuple[int, ...]

    with pytest.raises(InvalidMessage) as refused:
        decode(Many, json.dumps({"numbers": ["x"] * MANY}).encode())
    assert str(refused.value) == "payload: has 80000 problems"


def test_a_refusal_keeps_nothing_of_what_was_found() -> None:
    with pytest.raises(InvalidMessage) as refused:
        decode(DeliberationRequested, b"{}")
    assert (refused.value.__context__, refused.value.__cause__) == (None, None)


def padded(kind: type[Message], size: int) -> bytes:
    return b'{"task_id": "t-1", "task_description": "x"' + b" " * (size - 43) + b"}"


@pytest.mark.parametrize(
    "kind", [DeliberationRequested, DeliberationCancel, DeliberationGet, DeliberationDeadline]
)
def test_a_body_too_large_to_be_valid_is_not_read(kind: type[Message]) -> None:
    limit = present(kind.max_body_bytes)
    decode(kind, padded(kind, limit))
    assert str(refusal(kind, padded(kind, limit + 1))) == f"payload: is {limit + 1} bytes, more than {limit}"


def test_the_largest_request_fits_however_it_is_written() -> None:
    bell, stop = "\x07", "\x07" * 256
    fields = {
        "task_id": "x" * 64, "task_description": bell * (256 * KIB), "role": "R" * 32, "stop": [stop] * 4, "model": stop,
        "constraints": {"rubric": "~" * (64 * KIB - 13)}, "metadata": {"k": "~" * (16 * KIB - 8)},
    }  # fmt: skip
    plain = json.dumps(fields)
    escaped = plain.replace("~", "\\u007e")
    assert len(plain) < len(escaped) <= MAX_REQUEST_BYTES
    assert decode(DeliberationRequested, escaped.encode()) == decode(DeliberationRequested, plain.encode())


def test_a_problem_does_not_quote_the_senders_keys() -> None:
    assert (
        problems_of(metadata={"the sender's own words" * 500: 1})
        == "metadata.*: Input should be a valid string"
    )


def test_a_problem_does_not_quote_the_senders_status() -> None:
    with pytest.raises(InvalidMessage) as caught:
        decode_ending(body(status="my secret"))
    assert "my secret" not in str(caught.value)
    assert "status" in str(caught.value)


FIELDS = sorted(DeliberationRequested.model_fields)
KINDS: list[type[Message]] = [
    DeliberationRequested, DeliberationCancel, DeliberationGet, AgentRequested, AgentCompleted, AgentFailed, AgentCancel,
    DeliberationCompleted, DeliberationFailed, DeliberationStatus,
]  # fmt: skip
SECRET = "sesame-4711"


def with_the_secret_in_it() -> st.SearchStrategy[Any]:
    """JSON with the secret somewhere: as a value, in a longer one, as a key, deep down."""
    leaves = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.text(max_size=5)
        | st.just(SECRET)
        | st.just(f"a {SECRET}\n b")
    )
    keys = st.sampled_from(
        [*FIELDS, "rubric", "requirements", "max_iterations", SECRET, "status", "results", "proposal"]
    )
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
        max_leaves=8,
    )


@given(
    payload=st.dictionaries(
        st.sampled_from([*FIELDS, "status", SECRET]), with_the_secret_in_it(), max_size=6
    ),
    kind=st.sampled_from(KINDS),
    cut=st.integers(0, 40),
)
@settings(max_examples=300, deadline=None)
def test_a_problem_never_quotes_the_payload(payload: dict[str, Any], kind: type[Message], cut: int) -> None:
    whole = json.dumps(payload).encode()
    for sent in (whole, whole[: len(whole) - cut], whole.replace(b'"', b"", cut), SECRET.encode() + whole):
        for error in (refusal(kind, sent), refusal(None, sent)):
            assert error is None or SECRET not in str(error) + repr(error) + repr(error.__cause__)
            assert len(str(error)) < 2_000


def refusal(kind: type[Message] | None, sent: bytes) -> InvalidMessage | None:
    """What reading `sent` as `kind` (None: as an ending) raises, if it does."""
    try:
        decode_ending(sent) if kind is None else decode(kind, sent)
    except InvalidMessage as error:
        return error
    return None


@given(st.binary(max_size=200))
def test_any_bytes_give_a_message_or_a_problem(junk: bytes) -> None:
    for kind in (*KINDS, None):
        error = refusal(kind, junk)
        assert error is None or error.problems


def models(kind: type[Message]) -> list[type[Message]]:
    return [model for child in kind.__subclasses__() for model in (child, *models(child))]


@pytest.mark.parametrize("model", sorted({*models(Message)}, key=str), ids=lambda model: model.__name__)
def test_every_field_is_described(model: type[Message]) -> None:
    """docs/contract.md and the AsyncAPI document show these words."""
    for name, field in model.model_fields.items():
        assert field.description, name
        assert field.description.endswith((".", ")")), name
    assert model.__doc__


# ── there and back ────────────────────────────────────────────────────────────────────────────────────────────────

PROPOSAL = Proposal(
    content="42 ✓", author_id="agent-dev-001", author_role="DEV", model="m", temperature=0.7, tokens=2
)
RESULT = AgentResult(
    agent_id="agent-dev-001", role="DEV", proposal=PROPOSAL, duration_ms=12,
    timestamp="2025-11-22T08:26:40.500Z",
)  # fmt: skip
FAILURE = FailedAgent(
    agent_id="agent-dev-002", error="no", error_type=ErrorType.BAD_REQUEST, timestamp="2025-11-22T08:26:40.500Z"
)  # fmt: skip
COMPLETED = DeliberationCompleted(
    task_id="t-1", degraded=True, missing_agents=("agent-dev-003",), failed_agents=(FAILURE,), results=(RESULT,), total_agents=3,
    successful_responses=1, failed_responses=1, duration_ms=99, completed_at="2025-11-22T08:26:40.500Z", metadata={"a": "b"},
)  # fmt: skip
FAILED = DeliberationFailed(
    task_id="t-1", status="timeout", error="too late", failed_agents=(FAILURE,), missing_agents=("agent-dev-003",),
    results=(RESULT,), results_ref=ResultsRef(bucket="results", name="t-1", size=5, digest="SHA-256=x"), total_agents=3,
    successful_responses=1, failed_responses=1, duration_ms=99, timestamp="2025-11-22T08:26:40.500Z", metadata={"a": "b"},
)  # fmt: skip
EVERY_MESSAGE: list[Message] = [
    request(task_id="t-1", stop=["a", "b"], constraints={"rubric": {"a": 1}, "requirements": ["r"], "metadata": {"m": [1]}}),
    request(stop="."),
    DeliberationCancel(task_id="t-1", reason="x"),
    DeliberationDeadline(task_id="t-1"),
    DeliberationGet(task_id="t-1"),
    AgentRequested(
        task_id="t-1", agent_id="agent-dev-001", agent_number=1, role="DEV", num_agents=3, task_description="x",
        requested_at="2025-11-22T08:26:40.500Z", deadline="2025-11-22T08:27:40.500Z", seed=7, stop=("a",),
    ),
    AgentCancel(task_id="t-1", reason="x"),
    AgentCompleted(
        task_id="t-1", agent_id="agent-dev-001", role="DEV", proposal=PROPOSAL, finish_reason="stop", usage=Usage(total_tokens=3),
        attempt=1, queue_ms=1, duration_ms=2, timestamp="2025-11-22T08:26:40.500Z", model="m", diversity=False, num_agents=3,
    ),
    AgentFailed(
        task_id="t-1", agent_id="agent-dev-001", role="DEV", error="no", error_type=ErrorType.RATE_LIMITED, attempt=4,
        duration_ms=2, timestamp="2025-11-22T08:26:40.500Z",
    ),
    COMPLETED,
    FAILED,
    DeliberationStatus(task_id="t-1", status="COMPLETED", results=(RESULT,), ending_seq=5),
]  # fmt: skip


@pytest.mark.parametrize("message", EVERY_MESSAGE, ids=lambda message: type(message).__name__)
def test_a_message_is_the_same_after_the_wire(message: Message) -> None:
    assert decode(type(message), message.encode()) == message


@pytest.mark.parametrize("message", EVERY_MESSAGE, ids=lambda message: type(message).__name__)
def test_a_message_carries_every_field_it_has(message: Message) -> None:
    carried = set(json.loads(message.encode()))
    if isinstance(message, AgentRequested):  # Parley's own alone read it
        left_out = set(type(message).model_fields) - carried
        assert all(
            getattr(message, name) == type(message).model_fields[name].get_default(call_default_factory=True)
            for name in left_out
        )
        return
    assert carried == set(type(message).model_fields)


@given(
    st.builds(
        dict,
        task_description=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50),
        role=st.from_regex(r"\A[A-Za-z][A-Za-z0-9_]{0,31}\Z"),
        num_agents=st.integers(1, 256),
        diversity=st.booleans(),
        timeout_seconds=st.none() | st.floats(0.1, 86_400),
        temperature=st.none() | st.floats(0, 2),
        seed=st.none() | st.integers(-(2**63), 2**63 - 1),
        metadata=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
    )
)
def test_any_good_request_is_the_same_after_the_wire(fields: dict[str, Any]) -> None:
    first = request(**fields)
    assert decode(DeliberationRequested, first.encode()) == first


def test_the_status_tells_which_of_the_two_endings_it_is() -> None:
    assert decode_ending(COMPLETED.encode()) == COMPLETED
    assert decode_ending(FAILED.encode()) == FAILED
    for status in ("failed", "timeout", "cancelled", "rejected"):
        ending = decode_ending(FAILED.model_copy(update={"status": status}).encode())
        assert isinstance(ending, DeliberationFailed)
        assert ending.status == status


@pytest.mark.parametrize(
    "junk", [b"", b"{}", b"[]", b'{"status": null}', b'{"status": "pending"}', b'{"status": "completed"}']
)
def test_a_payload_that_is_not_an_ending_is_refused(junk: bytes) -> None:
    with pytest.raises(InvalidMessage):
        decode_ending(junk)


def test_an_error_is_never_empty() -> None:
    with pytest.raises(InvalidMessage, match=r"failed\.error: "):
        decode_ending(FAILED.model_copy(update={"status": "failed", "error": ""}).encode())
    failure = EVERY_MESSAGE[8].model_copy(update={"error": ""})
    with pytest.raises(InvalidMessage, match=r"^error: "):
        decode(AgentFailed, failure.encode())


def test_the_error_types_are_a_closed_set() -> None:
    assert {str(kind) for kind in ErrorType} == {
        "rate_limited", "server_error", "connection_failed", "connection_lost", "first_byte_timeout", "total_timeout",
        "context_too_long", "bad_request", "unauthorized", "model_not_found", "empty_answer", "malformed_answer",
        "deadline_exceeded", "cancelled", "invalid_ballot", "invalid_output", "tool_call", "internal_error",
    }  # fmt: skip
    with pytest.raises(InvalidMessage, match=r"^error_type: "):
        decode(AgentFailed, EVERY_MESSAGE[8].encode().replace(b"rate_limited", b"bored"))


WORK: dict[str, Any] = {
    "task_id": "t-1", "agent_id": "agent-dev-001", "agent_number": 1, "role": "DEV", "num_agents": 3, "task_description": "x",
    "requested_at": "2026-01-01T00:00:00Z", "deadline": "2026-01-01T00:05:00.123456789+01:00",
}  # fmt: skip
REPORTED: dict[str, Any] = {
    "task_id": "t-1", "agent_id": "agent-dev-001", "role": "DEV", "error": "x", "error_type": "server_error", "attempt": 1,
    "duration_ms": 1, "timestamp": "2026-01-01T00:00:00Z",
}  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("agent_id", "x" * 65),
        ("agent_id", "a\r\nNats-Rollup: all"),
        ("agent_id", ""),
        ("agent_number", 257),
        ("num_agents", 257),
        ("round", 6),
        ("requested_at", "soon"),
        ("deadline", "2026-01-01T00:00:00"),  # of which time zone?
        ("deadline", "2026-02-30T00:00:00Z"),
        ("deadline", "2026-01-01T00:00:00Z" + " " * 40),
        ("metadata", {"k": "v" * (16 * KIB)}),
    ],
)
def test_work_that_no_worker_could_do_is_refused(field: str, value: Any) -> None:
    assert decode(AgentRequested, json.dumps(WORK).encode()).task_id == "t-1"
    with pytest.raises(InvalidMessage, match=field):
        decode(AgentRequested, json.dumps({**WORK, field: value}).encode())


@pytest.mark.parametrize("field", ["attempt", "queue_ms", "duration_ms"])
def test_a_number_too_large_for_a_metric_is_refused(field: str) -> None:
    assert getattr(decode(AgentFailed, json.dumps({**REPORTED, field: 2**53}).encode()), field) == 2**53
    for value in (2**53 + 1, 10**400, -(10**400)):
        with pytest.raises(InvalidMessage, match=field):
            decode(AgentFailed, json.dumps({**REPORTED, field: value}).encode())


# ── the question ──────────────────────────────────────────────────────────────────────────────────────────────────


def question(**fields: Any) -> str:
    return decode(DeliberationRequested, json.dumps({"task_description": "x", **fields}).encode()).question


def test_the_digest_of_a_question_is_what_0_2_0_stored() -> None:
    """Tallies hold it: with another one the same question would be rejected as another during an upgrade."""
    asked = {
        "task_id": "mine", "task_description": "How?", "role": "qa", "num_agents": 5, "temperature": 0.5, "stop": ["x"],
        "constraints": {"requirements": ["short"], "metadata": {"b": 1, "a": "é"}},
    }  # fmt: skip
    assert question(**asked) == "7b5af08f1bc2ad0354c55acd6fce7575"


@pytest.mark.parametrize(
    "fields",
    [
        {"task_id": "t-1"},
        {"timeout_seconds": 5},
        {"metadata": {"try": "2"}},
        {"constraints": {"timeout_seconds": 5}},
        {"constraints": {}},
        {"num_agents": 3, "role": "dev", "diversity": False, "seed": None},
        {"a field of another version": 1},
    ],
    ids=str,
)
def test_a_request_that_is_repeated_asks_the_same(fields: dict[str, Any]) -> None:
    assert question(**fields) == question()


def test_the_order_of_keys_is_no_other_question() -> None:
    one = question(constraints={"rubric": {"a": 1, "b": {"c": 2, "d": 3}}, "metadata": {"x": 1, "y": 2}})
    assert one == question(
        constraints={"metadata": {"y": 2, "x": 1}, "rubric": {"b": {"d": 3, "c": 2}, "a": 1}}
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"task_description": "y"}, {"role": "QA"}, {"num_agents": 4}, {"min_responses": 2}, {"finish_early": True},
        {"diversity": True}, {"model": "m"}, {"temperature": 0.5}, {"max_tokens": 5}, {"seed": 1}, {"stop": "a"},
        {"constraints": {"rubric": "r"}}, {"constraints": {"requirements": ["r"]}}, {"constraints": {"metadata": {"a": 1}}},
    ],
    ids=str,
)  # fmt: skip
def test_whatever_reaches_the_agents_or_decides_the_ending_is_another_question(
    fields: dict[str, Any],
) -> None:
    assert question(**fields) != question()


@pytest.mark.parametrize("bucket", ["", "a.b", "*", ">", "a b", "a\r\nPUB x 0", "x" * 65])
def test_no_bucket_becomes_another_subject(bucket: str) -> None:
    with pytest.raises(ValidationError):
        ResultsRef(bucket=bucket, name="t-1", size=5, digest="SHA-256=x")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"num_agents": 1, "task_id": "a", "timeout_seconds": 3, "metadata": {"a": "b"}},
        {"temperature": 0.5, "seed": 3, "diversity": True, "model": "m", "system": "Be brief."},
        {"select": "judge", "judges": 2, "max_calls": 9},
        {"select": "vote", "answer_key": {"last": "number"}, "agree": 2},
        {"constraints": {"timeout_seconds": 5}},
        {"constraints": {"requirements": ["short"], "timeout_seconds": 5}},
        {"stop": ["a"], "extra": {"top_k": 1}},
        {"models": ["a", "b"]},
    ],
    ids=str,
)
def test_the_quick_way_to_a_question_is_pydantics(
    fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = request(**fields)
    quick = asked.question
    monkeypatch.setattr(DeliberationRequested, "_asked_plainly", lambda _: None)
    assert quick == asked.question
