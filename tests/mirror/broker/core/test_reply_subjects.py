"""Where an answer or an ending may go, as tables."""

import pytest

from parley.broker.core.reply_subjects import (
    DEFAULT_PREFIXES,
    MAX_CHARACTERS,
    OWN_INBOX,
    SERVICE_INBOX,
    WORKER_INBOX,
    is_allowed_prefix,
    may_answer,
    may_send_ending,
)

# Subjects with a meaning to Parley or the server: HOSTILE.md, finding 2, and what it found to look for.
HARMFUL = [
    "", "deliberation.cancel", "deliberation.requested", "deliberation.completed", "deliberation.failed",
    "deliberation.timer.t-1", "deliberation.deadline.t-1", "deliberation.get", "agent.cancel", "agent.requested",
    "agent.response.completed", "deadletter.x", "$KV.deliberations.t-1", "$O.results.C.x", "$JS.API.STREAM.PURGE.X",
    "$JS.ACK.X.y.1.1.1.1.0", "$SYS.x", f"{SERVICE_INBOX}.x", f"{WORKER_INBOX}.x", f"{OWN_INBOX}.x", "elsewhere",
    "_INBOX", "_INBOX.", "_INBOX.*", "_INBOX.>", "_INBOX.a b", "_INBOX.a\r\nPUB x 0", "_INBOX." + "x" * MAX_CHARACTERS,
]  # fmt: skip


@pytest.mark.parametrize("subject", HARMFUL, ids=lambda subject: subject[:24] or "none")
def test_nothing_is_answered_there(subject: str) -> None:
    assert not may_answer(subject, DEFAULT_PREFIXES)
    assert not may_send_ending(subject, DEFAULT_PREFIXES)


@pytest.mark.parametrize("subject", ["_INBOX.abc", "_INBOX.abc.d-1", "ours.abc"])
def test_an_allowed_inbox_is_answered(subject: str) -> None:
    prefixes = (*DEFAULT_PREFIXES, "ours.")
    assert may_answer(subject, prefixes)
    assert may_send_ending(subject, prefixes)


def test_the_servers_own_way_back_to_another_account_takes_answers_only() -> None:
    assert may_answer("_R_.kQPaVs.N8aU4q", DEFAULT_PREFIXES)
    assert not may_send_ending("_R_.kQPaVs.N8aU4q", DEFAULT_PREFIXES)


@pytest.mark.parametrize(
    ("prefix", "allowed"),
    [
        ("_INBOX.", True), ("ours.", True), ("_INBOX", False), ("$KV.", False), ("deliberation.", False),
        ("deliberation.timer.", False), ("agent.", False), ("deadletter.", False), ("_PARLEY.", False),
        ("_PARLEY.service.", False), ("_R_.", False),
    ],
)  # fmt: skip
def test_which_prefixes_an_operator_may_allow(prefix: str, *, allowed: bool) -> None:
    assert is_allowed_prefix(prefix) is allowed


def test_no_prefix_that_an_operator_may_allow_opens_a_forbidden_subject() -> None:
    # An operator's setting is checked too, but whoever calls with a wider one gets no further.
    assert not may_send_ending("$KV.deliberations.t-1", ("$KV.",))
    assert not may_answer(f"{SERVICE_INBOX}.x", ("_",))
