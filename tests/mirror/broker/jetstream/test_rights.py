"""Which rights are needed, and which of them a user lacks, by what the server says of it."""

import re
from pathlib import Path
from typing import Any

import pytest

from parley.broker.core.reply_subjects import DEFAULT_PREFIXES, SERVICE_INBOX, WORKER_INBOX
from parley.broker.jetstream.rights import (
    ANYTHING,
    Permissions,
    Right,
    Verb,
    covers,
    needed_by_service,
    needed_by_worker,
    read_permissions,
    refused_right,
)
from parley.handlers.routes import Part

FILES = Path(__file__).parents[4] / "examples" / "nats" / "permissions"
PUBLISH, SUBSCRIBE = Verb.PUBLISH, Verb.SUBSCRIBE


@pytest.mark.parametrize(
    ("pattern", "subject", "matches"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.c", False),
        ("a.b", "a", False),
        ("a", "a.b", False),
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        (">", "a", True),
        ("*.b", "a.b", True),
        ("", "a", False),
    ],
)
def test_a_pattern_covers_what_nats_says_it_does(pattern: str, subject: str, matches: bool) -> None:
    assert covers(pattern, subject) is matches


def told(publish: Any = None, subscribe: Any = None) -> Any:
    return {"data": {"user": "u", "permissions": {"publish": publish or {}, "subscribe": subscribe or {}}}}


@pytest.mark.parametrize(
    ("answer", "right", "permitted"),
    [
        ({"data": {"user": "u"}}, Right(PUBLISH, "a"), True),
        (told(), Right(PUBLISH, "a"), True),
        (told({"allow": ["a"]}), Right(PUBLISH, "a"), True),
        (told({"allow": ["a"]}), Right(PUBLISH, "b"), False),
        (told({"allow": ["a"]}), Right(SUBSCRIBE, "b"), True),
        (told({"allow": ["a.>"]}), Right(PUBLISH, "a.*"), True),
        (told({"allow": ["a.*"]}), Right(PUBLISH, "a.>"), True),
        (told({"deny": ["a"]}), Right(PUBLISH, "a"), False),
        (told({"deny": [">"]}), Right(PUBLISH, "a"), False),
        (told({"allow": ["a.>"], "deny": ["a.b"]}), Right(PUBLISH, "a.b"), False),
        (told({"allow": ["a.>"], "deny": ["a.b"]}), Right(PUBLISH, "a.*"), True),
        (told(None, {"allow": ["a q"]}), Right(SUBSCRIBE, "a"), True),
        (told(None, {"allow": ["b"], "deny": ["a"]}), Right(SUBSCRIBE, "a"), False),
    ],
    ids=str,
)
def test_a_right_is_compared_with_what_the_server_tells(answer: Any, right: Right, permitted: bool) -> None:
    permissions = read_permissions(answer)
    assert permissions is not None
    assert permissions.permits(right) is permitted


@pytest.mark.parametrize("answer", [None, [], {}, {"data": 5}, "x"])
def test_an_answer_that_is_none_tells_nothing(answer: Any) -> None:
    assert read_permissions(answer) is None


@pytest.mark.parametrize("data", [{"permissions": 5}, {"permissions": {"publish": None}}])
def test_odd_permissions_are_read_as_none(data: Any) -> None:
    found = read_permissions({"data": data})
    assert found is not None
    assert found.permits(Right(PUBLISH, "a"))


def test_all_parts_need_what_each_needs() -> None:
    every = needed_by_service(frozenset(Part), inbox=SERVICE_INBOX, reply_prefixes=DEFAULT_PREFIXES)
    for part in Part:
        assert set(needed_by_service({part}, inbox=SERVICE_INBOX, reply_prefixes=DEFAULT_PREFIXES)) <= set(
            every
        )
    assert Right(PUBLISH, "agent.requested") in every
    assert Right(PUBLISH, "$JS.API.CONSUMER.MSG.NEXT.AGENT_REQUESTS.dispatch") in every
    assert Right(SUBSCRIBE, "deliberation.get") in every


def in_file(role: str) -> Permissions:
    """What the ready file of this role allows."""
    text = re.sub(r"#.*", "", (FILES / f"{role}.conf").read_text())
    sides = {}
    for verb, word in ((PUBLISH, "publish"), (SUBSCRIBE, "subscribe")):
        found = re.search(rf"{word}: \{{ allow: \[(.*?)\]", text, re.DOTALL)
        assert found is not None
        sides[verb] = re.findall(r'"([^"]+)"', found[1])
    return Permissions(sides, {})


@pytest.mark.parametrize(
    ("role", "needed"),
    [
        ("service", needed_by_service(frozenset(Part), inbox=SERVICE_INBOX, reply_prefixes=DEFAULT_PREFIXES)),
        ("worker", needed_by_worker(WORKER_INBOX, limited=True)),
    ],
    ids=["service", "worker"],
)
def test_the_ready_files_allow_what_is_needed(role: str, needed: tuple[Right, ...]) -> None:
    allowed = in_file(role)
    assert [str(right) for right in needed if not allowed.permits(right)] == []
    assert allowed.permits(Right(PUBLISH, "$SYS.REQ.USER.INFO"))


def test_anything_is_allowed_without_permissions() -> None:
    assert ANYTHING.permits(Right(PUBLISH, "x"))


@pytest.mark.parametrize(
    ("subject", "right"),
    [
        ("agent.requested", "agent.requested"),
        ("$js.api.consumer.msg.next.requests.intake", "$JS.API.CONSUMER.MSG.NEXT.REQUESTS.intake"),
        ("$js.ack.agent_requests.dispatch.1.7.7.1763800000123456789.0", "$JS.ACK.AGENT_REQUESTS.dispatch.>"),
        ("$kv.deliberations.d-1", "$KV.deliberations.>"),
        ("deliberation.timer.t-1", "deliberation.timer.*"),
        ("_inbox.69a4e3d826cc.*", "_INBOX.>"),
        ("_parley.service.69a4.*", "_PARLEY.service.>"),
        ("$js.api.info", "$JS.API.INFO"),
        ("$js.api.stream.info.kv_deliberations", "$JS.API.STREAM.INFO.KV_deliberations"),
        ("some.other", "some.other"),
    ],
)
def test_a_refusal_is_of_one_right_whatever_name_is_in_the_subject(subject: str, right: str) -> None:
    assert refused_right(PUBLISH, subject) == Right(PUBLISH, right)
