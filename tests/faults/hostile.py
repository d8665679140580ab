"""Hostile messages for every subject that is consumed: hand-picked ones, and what Hypothesis makes of valid ones.

The same every time: Hypothesis runs derandomized, choices come from a fixed seed. A payload may hold two marks:
`@NEW@` stands for a name nobody has used, `@LIVE@` for that of a deliberation that is running as the message is sent.
"""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from parley.broker.jetstream import topology

SEED = 20_261_122
NEW, LIVE = b"@NEW@", b"@LIVE@"
KIB = 1024


class Kind(StrEnum):
    """What is consumed, by the name of its subject."""

    REQUEST = topology.REQUESTED
    CANCEL = topology.CANCEL
    DEADLINE = topology.DEADLINE
    TIMER = topology.TIMER
    WORK = topology.AGENT_REQUESTED
    COMPLETED = topology.AGENT_COMPLETED
    FAILED = topology.AGENT_FAILED
    STOP = topology.AGENT_CANCEL
    GET = topology.GET


# Shares of a hundred messages. Subjects that start or end deliberations have more.
SHARES = {
    Kind.REQUEST: 30, Kind.CANCEL: 10, Kind.DEADLINE: 9, Kind.TIMER: 3, Kind.WORK: 12, Kind.COMPLETED: 10,
    Kind.FAILED: 10, Kind.STOP: 6, Kind.GET: 10,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Hostile:
    """`headers`: the whole block as it goes out, or None for a message without."""

    kind: Kind
    subject: bytes
    body: bytes
    headers: bytes | None = None


# ── valid messages ─────────────────────────────────────────────────────────────────────────────────────────────────

_TASK = {"task_id": "@LIVE@"}
_PROPOSAL = {
    "content": "x", "author_id": "agent-dev-001", "author_role": "DEV", "model": "m", "temperature": 0.7,
    "tokens": 3,
}  # fmt: skip
_AGENT = {
    "task_id": "@LIVE@", "agent_id": "agent-dev-001", "role": "DEV", "num_agents": 3, "metadata": {"k": "v"},
}  # fmt: skip
_HOW = {"attempt": 1, "queue_ms": 1, "duration_ms": 1, "timestamp": "2026-01-01T00:00:00Z"}
VALID: Mapping[Kind, Mapping[str, Any]] = {
    Kind.REQUEST: {
        "task_id": "@NEW@",
        "task_description": "x",
        "role": "DEV",
        "num_agents": 2,
        "constraints": {
            "rubric": "r",
            "requirements": ["r"],
            "metadata": {"k": 1},
            "max_iterations": 1,
            "timeout_seconds": 9,
        },
        "diversity": False,
        "rounds": 1,
        "min_responses": 1,
        "finish_early": False,
        "timeout_seconds": 9.5,
        "model": "simulated-model",
        "temperature": 0.5,
        "max_tokens": 9,
        "seed": 1,
        "stop": ["x"],
        "metadata": {"k": "v"},
    },
    Kind.CANCEL: {**_TASK, "reason": "x"},
    Kind.DEADLINE: _TASK,
    Kind.TIMER: _TASK,
    Kind.WORK: {
        **_AGENT,
        "task_id": "@NEW@",
        "agent_number": 1,
        "round": 1,
        "task_description": "x",
        "constraints": {},
        "diversity": False,
        "requested_at": "2026-01-01T00:00:00Z",
        "deadline": "2099-01-01T00:00:00Z",
        "model": "simulated-model",
        "seed": 1,
        "stop": "x",
    },
    Kind.COMPLETED: {
        **_AGENT,
        **_HOW,
        "round": 1,
        "status": "completed",
        "proposal": _PROPOSAL,
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
        "model": "m",
        "diversity": False,
        "persona": "p",
        "seed": 1,
    },
    Kind.FAILED: {
        **_AGENT,
        **_HOW,
        "round": 1,
        "status": "failed",
        "error": "x",
        "error_type": "server_error",
    },
    Kind.STOP: {**_TASK, "reason": "x"},
    Kind.GET: _TASK,
}


# ── invalid ones ───────────────────────────────────────────────────────────────────────────────────────────────────

_DEEP = 100_000
BODIES: Sequence[bytes] = [
    b"",
    b" ",
    b"\x00",
    b"\xff\xfe\x00{\x00}",
    b"\xef\xbb\xbf{}",
    b"{nope",
    b"null",
    b"true",
    b"17",
    b"-0",
    b"1e999",
    b"NaN",
    b"-Infinity",
    b'"text"',
    b"[]",
    b"[{}]",
    b"{}",
    b'{"task_id"}',
    b'{"task_id": }',
    b"{'task_id': 'x'}",
    b'{"task_id": "@LIVE@"} {"task_id": "@LIVE@"}',
    b'{"task_id": "@LIVE@", "task_id": 5}',
    b'{"task_id": 5, "task_id": "@NEW@", "task_description": "x"}',
    b'{"task_id": "@NEW@", "task_description": "\\ud800", "reason": "\\udfff"}',
    b'{"task_id": "@NEW@", "task_description": "\xc3\x28"}',
    b'{"task_id": "@NEW@", "task_description": "a\x00b"}',
    b'{"task_id": "@NEW@", "task_description": "a\\u0000b\\u001b[2J"}',
    b'{"TASK_ID": "@LIVE@"}',
    b'{"__class__": "x", "__proto__": {"task_id": "x"}, "$ref": "#"}',
    b'{"task_id": "@NEW@", "n": ' + b"9" * 5_000 + b"}",
    b'{"task_id": "@NEW@", "task_description": "x", "num_agents": ' + b"9" * 4_000 + b"}",
    b"[" * _DEEP,
    b"[" * _DEEP + b"]" * _DEEP,
    b'{"a":' * _DEEP + b"1" + b"}" * _DEEP,
    b'{"task_id": "@NEW@", "task_description": "x", "metadata": ' + b"[" * 5_000 + b"]" * 5_000 + b"}",
    b"{" + b",".join(b'"k%d": %d' % (n, n) for n in range(20_000)) + b"}",
    b"x" * (900 * KIB),
    b"x" * (1024 * KIB),
    b'{"task_id": "@NEW@", "task_description": "' + b"\\u0000" * 160_000 + b'"}',
    b'{"task_id": "@NEW@", "task_description": "' + b"x" * (1000 * KIB) + b'"}',
]

# JSON text, so that values which no encoder writes are possible.
VALUES: Sequence[str] = [
    "null", "true", "false", "0", "1", "-1", "256", "257", "1e400", "-0.0", "0.1", "NaN", "Infinity", "-Infinity",
    str(2**31), str(2**53 + 1), str(2**63), str(-(2**63) - 1), "9" * 400, '""', '" "', '"x"', '"3"', '"a.b"', '">"', '"*"',
    '"../x"', '"$KV.deliberations.x"', '"a\\nb"', '"a\\r\\nNats-Rollup: all"', '"\\u0000"', '"\\ud83d"', '"naïve"', '"😀"',
    '"dev"', '"agent-dev-002"', '"2026-01-01"', '"2026-01-01T00:00:00"', '"0001-01-01T00:00:00+23:59"', '"9999-12-31T23:59:59-23:59"',
    '"99999-01-01T00:00:00Z"', '"2026-02-30T25:61:61Z"', "[]", "[[[]]]", "[null]", '["x", "x", "x", "x", "x"]', "{}", '{"k": null}',
    '{"k": 1}', '{"k": "v", "k": "w"}', '{"": ""}', '{"rubric": {"a": NaN}}', '{"requirements": "x"}', '{"timeout_seconds": 0}',
    json.dumps("x" * 70 * KIB), json.dumps({"k": "v" * 20 * KIB}), json.dumps(["x"] * 5_000), json.dumps("\n" * 300 * KIB),
]  # fmt: skip


def headers(*lines: bytes, first: bytes = b"NATS/1.0") -> bytes:
    return b"\r\n".join([first, *lines, b"", b""])


HEADERS: Sequence[bytes] = [
    headers(),
    headers(b"traceparent: nonsense"),
    headers(b"traceparent: 00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01"),
    headers(b"traceparent: " + b"0" * 30_000),
    headers(b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\x00\x1b[2J"),
    headers(b"Nats-Msg-Id: the-same"),
    headers(b"Nats-Msg-Id: @LIVE@:ending"),
    headers(b"Nats-Msg-Id: @LIVE@:ending", b"Status: 503"),
    headers(b"Nats-Msg-Id: @LIVE@:ending", b"broken"),
    headers(b"Nats-Msg-Id: @LIVE@:agent-dev-001:1"),
    headers(b"Nats-Msg-Id: "),
    headers(b"Nats-Msg-Id: " + b"x" * 20_000),
    headers(b"Nats-Expected-Last-Sequence: 1"),
    headers(b"Nats-Expected-Stream: OTHER"),
    headers(b"Nats-TTL: 1h"),
    headers(b"Nats-TTL: never"),
    headers(b"Nats-TTL: -5s"),
    headers(b"Nats-TTL: x"),
    headers(b"Nats-Schedule: @at never", b"Nats-Schedule-Target: deliberation.requested"),
    headers(b"Nats-Schedule: @every 1ns", b"Nats-Schedule-Target: deliberation.cancel"),
    headers(b"Nats-Schedule-Next: purge", b"Nats-Scheduler: deliberation.timer.@NEW@"),
    headers(b"Nats-Incr: x"),
    headers(b"KV-Operation: PURGE"),
    headers(b"Parley-Reply-To: deliberation.requested"),
    headers(b"Parley-Reply-To: _INBOX.>"),
    headers(b"Parley-Reply-To: _INBOX." + b"x" * 5_000),
    headers(b"Parley-Reply-To: _INBOX.nobody"),
    headers(b"Parley-Reason: forged", b"Parley-Sequence: 1", b"Parley-Consumer: intake"),
    headers(b"content-type: text/plain; charset=\xff", b"correlation_id: \x00"),
    headers(b"no colon at all"),
    headers(b": no name"),
    headers(b"b\xc3\xa4d: name"),
    headers(b"two words: x"),
    headers(b"value: \xff\xfe\x00\x07\x0b"),
    headers(b"a: b\nc: d", b"e:\x0bf\x0c"),
    headers(b"Status: 408", b"Description: no"),
    headers(b"x: " + b"y" * 60_000),
    headers(*(b"h%d: v" % number for number in range(3_000))),
    headers(*(b"same: %d" % number for number in range(500))),
    headers(first=b"NATS/1.0 503"),
    headers(first=b"NATS/1.0 404 No Messages"),
    headers(b"a: b", first=b"NATS/1.0 100 Idle Heartbeat"),
    headers(first=b"NATS/1.0 \xff\xff\xff"),
    headers(first=b"HTTP/1.1 200"),
    b"x",
    b"\r\n\r\n",
]

# The server obeys these: they delete the stored messages of their subject. Harmless only where no other test writes.
DELETING: Sequence[bytes] = [
    headers(b"Nats-Rollup: sub"),
    headers(b"Nats-Schedule: @at 2020-01-01T00:00:00Z", b"Nats-Schedule-Target: deliberation.deadline.@NEW@"),
    headers(b"Nats-Schedule: @at 2020-01-01T00:00:00Z", b"Nats-Schedule-Target: deliberation.cancel"),
    headers(b"Nats-Schedule: @at 2020-01-01T00:00:00Z", b"Nats-Schedule-Target: deliberation.requested"),
]

# Last tokens of subjects under a wildcard. The server takes every byte but blank, tab and line end. (It also stores a
# `>`, and delivers it to no consumer.)
TOKENS: Sequence[bytes] = [
    b"*", b"\xff\xfe", b"\x0b", b"\x0c", b"a\x0bb", b"a\x0cb", b"\x00", b"\x7f\x1b[2J", "naïve😀".encode(), b"a" * 3_000, b"..", b"",
]  # fmt: skip
_WILD = {
    Kind.DEADLINE: b"deliberation.deadline.",
    Kind.TIMER: b"deliberation.timer.",
    Kind.FAILED: b"agent.response.",
}


def subject_of(kind: Kind) -> bytes:
    return kind.value.encode() + (b".@NEW@" if kind in (Kind.DEADLINE, Kind.TIMER) else b"")


def body_of(kind: Kind) -> bytes:
    return json.dumps(VALID[kind]).encode()


def handpicked(kind: Kind) -> Iterator[Hostile]:
    """Bodies, headers and subjects made by hand; then each value in the place of each field."""
    plain = Hostile(kind, subject_of(kind), body_of(kind))
    yield plain
    for body in BODIES:
        yield replace(plain, body=body)
    for block in [*HEADERS, *(DELETING if kind in (Kind.DEADLINE, Kind.TIMER) else ())]:
        yield replace(plain, headers=block)
        yield replace(plain, headers=block, body=b"")
    for token in TOKENS if kind in _WILD else ():
        yield replace(plain, subject=_WILD[kind] + token)
        yield replace(plain, subject=_WILD[kind] + token, body=b"{", headers=headers(b"a: b"))


def fields(kind: Kind) -> Iterator[Hostile]:
    """Each value of `VALUES` in the place of each field, nested fields included."""
    plain = Hostile(kind, subject_of(kind), body_of(kind))
    for place in _places(VALID[kind]):
        for value in VALUES:
            yield replace(plain, body=_text(VALID[kind], place, value).encode())
        yield replace(plain, body=_text(VALID[kind], place, None).encode())


def _places(payload: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in payload.items():
        yield (*above, name)
        if isinstance(value, Mapping):
            yield from _places(value, (*above, name))


def _text(payload: Mapping[str, Any], place: tuple[str, ...], value: str | None) -> str:
    """`payload` as JSON with the text `value` at `place`. None removes the field."""
    parts = []
    for name, old in payload.items():
        if name != place[0]:
            text: str | None = json.dumps(old)
        elif len(place) > 1:
            text = _text(old, place[1:], value)
        else:
            text = value
        if text is not None:
            parts.append(f"{json.dumps(name)}: {text}")
    return "{" + ", ".join(parts) + "}"


# ── what Hypothesis makes ─────────────────────────────────────────────────────────────────────────────────────────

_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["@NEW@", "@LIVE@"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def _encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


@st.composite
def _changed(draw: st.DrawFn, kind: Kind) -> bytes:
    """A valid payload with one to three fields changed, removed or added."""
    payload = dict(VALID[kind])
    for _ in range(draw(st.integers(1, 3))):
        match draw(st.sampled_from(["change", "lose", "add"])):
            case "change":
                payload[draw(st.sampled_from(sorted(VALID[kind])))] = draw(_JSON)
            case "lose":
                payload.pop(draw(st.sampled_from(sorted(VALID[kind]))), None)
            case _:
                payload[draw(st.text(max_size=12))] = draw(_JSON)
    return _encoded(payload)


@st.composite
def _damaged(draw: st.DrawFn, kind: Kind) -> bytes:
    """The bytes of a valid payload, cut, doubled or overwritten at some place."""
    whole = body_of(kind)
    start, junk = draw(st.integers(0, len(whole))), draw(st.binary(max_size=6))
    return whole[:start] + junk + whole[start + draw(st.integers(0, 12)) :]


_LINE = st.binary(max_size=24) | st.builds(
    lambda name, value: name + b": " + value, st.binary(max_size=12), st.binary(max_size=24)
)
_BLOCK = st.none() | st.none() | st.none() | st.lists(_LINE, max_size=4).map(lambda lines: headers(*lines))


def _messages(kind: Kind) -> st.SearchStrategy[Hostile]:
    bodies = _changed(kind) | _changed(kind) | _damaged(kind) | _JSON.map(_encoded) | st.binary(max_size=64)
    return st.builds(Hostile, st.just(kind), st.just(subject_of(kind)), bodies, _BLOCK)


def made(kind: Kind, count: int) -> list[Hostile]:
    """`count` messages from Hypothesis, the same ones every time."""
    found: list[Hostile] = []

    @settings(
        derandomize=True,
        database=None,
        deadline=None,
        max_examples=count,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(_messages(kind))
    def collect(message: Hostile) -> None:
        found.append(message)

    collect()
    return found


# ── all of it ─────────────────────────────────────────────────────────────────────────────────────────────────────


def messages(count: int) -> list[Hostile]:
    """`count` messages over all subjects, shuffled. First those made by hand, then one half each of fields replaced
    by each value and of messages from Hypothesis."""
    dice = random.Random(SEED)
    found: list[Hostile] = []
    for kind, share in SHARES.items():
        wanted = count * share // 100
        picked = list(handpicked(kind))
        dice.shuffle(picked)
        placed = list(fields(kind))
        dice.shuffle(placed)
        mine = picked[: wanted * 2 // 3]
        mine += placed[: (wanted - len(mine)) // 2]
        mine += made(kind, wanted - len(mine))[: wanted - len(mine)]
        while len(mine) < wanted:  # Hypothesis has no more: a short payload has few variations
            mine.append(dice.choice(placed))
        found += mine
    dice.shuffle(found)
    return found
