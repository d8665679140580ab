"""What clients do in a history: ask, ask again, cancel, look; and what strangers do: forge, repeat, send what cannot
be read."""

import asyncio
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from nats.js.errors import APIError

from parley.broker.core.errors import BrokerUnavailable
from parley.broker.jetstream import topology
from parley.broker.jetstream.jetstream import JetStream
from tests.simulation.link import Link, as_client
from tests.simulation.server import Server

# The longest is longer than a fan-out's Msg-Ids are remembered.
_TIMEOUTS = (0.4, 1.0, 3.0, 8.0, 20.0, 45.0, 300.0)

# A client that was refused asks again after this long.
_AGAIN_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Act:
    """At `at` seconds from the beginning, this is published. `client`: until its PubAck came, the same message again."""

    at: float
    subject: str
    body: dict[str, Any]
    headers: dict[str, str]
    client: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """One deliberation: its request first, then whatever else is done about it."""

    task_id: str
    acts: Sequence[Act]
    looks: Sequence[float]


def planned(rng: random.Random, place: int, late_seconds: float | None) -> Asked:
    """`late_seconds`: when, long after all is over, strangers come back to it; None if they do not."""
    task_id, at = f"t{place}", rng.random() * rng.choice((0.0, 0.1, 3.0))
    agents = rng.choice((1, 1, 2, 2, 3, 4))
    timeout = rng.choice(_TIMEOUTS)
    body: dict[str, Any] = {
        "task_id": task_id, "task_description": "t", "num_agents": agents,
        "min_responses": rng.randint(1, agents), "finish_early": rng.random() < 0.3,
        "timeout_seconds": timeout,
    }  # fmt: skip
    lot = rng.random()
    if lot < 0.06:
        body["min_responses"] = agents + 1  # rejected, as it cannot be read
    elif lot < 0.1:
        body["num_agents"], body["min_responses"] = 11, 1  # rejected: more than this service allows
    headers = {"Parley-Reply-To": f"_INBOX.{task_id}"} if rng.random() < 0.7 else {}
    if rng.random() < 0.3:
        headers["Nats-Msg-Id"] = f"{task_id}:asked"
    request = Act(at, topology.REQUESTED, body, headers, client=True)
    acts = [
        request,
        *_again(rng, request, timeout),
        *_cancels(rng, task_id, at, timeout),
        *_strangers(rng, task_id, at, timeout),
    ]
    if late_seconds is not None:
        acts += _late(rng, request, late_seconds)
    looks = [at + rng.random() * 1.5 * timeout for _ in range(rng.choice((0, 0, 1, 3)))]
    return Asked(task_id, acts, looks)


def with_choice(asked: Asked, rng: random.Random, *, many: bool) -> Asked:
    """The same, but for half of them: a winner is chosen among the answers. All that ask for it ask for that. `many`: some
    ask more agents than a judge may be shown, or an editor too; their account needs room."""
    lot = rng.random()
    if lot < 0.5:
        return asked
    agents = {"num_agents": max(2, asked.acts[0].body.get("num_agents", 3))}
    if lot < 0.75:
        choosing: dict[str, Any] = {"select": "judge", "judges": rng.choice((1, 2, 3, 3, 5))}
        if rng.random() < 0.1:
            choosing["max_calls"] = 4
        choosing["diversity"] = rng.random() < 0.5
        if rng.random() < 0.12 and many:
            choosing["diversity"], agents = True, {"num_agents": 10}
            choosing.pop("max_calls", None)
    elif lot < 0.87:
        choosing = {"select": "rank"}
        agents = {"num_agents": rng.choice((4, 5))}
    else:
        choosing = {"select": "vote", "answer_key": {"last": "line"}}
        if rng.random() < 0.5:
            choosing["agree"] = 2
    if rng.random() < 0.25 and many:
        choosing["synthesize"] = True
    acts = [
        replace(act, body={**act.body, **choosing, **agents})
        if _asks(act) else act
        for act in asked.acts
    ]  # fmt: skip
    if rng.random() < 0.3:  # a stranger's outcome of a judge, that names no phase
        timeout = float(asked.acts[0].body.get("timeout_seconds", 3.0))
        forged = {**outcome(asked.task_id, 1), "agent_id": f"judge-{rng.randint(1, 3):03d}"}
        acts.append(
            Act(asked.acts[0].at + rng.random() * min(timeout, 8.0), topology.AGENT_FAILED, forged, {})
        )
    return replace(asked, acts=acts)


def with_rounds(asked: Asked, rng: random.Random, *, many: bool) -> Asked:
    """The same, but for a fifth of them: the agents answer more than once. `many`: as for `with_choice`."""
    select = asked.acts[0].body.get("select", "none")
    if rng.random() > 0.2 or select not in ("none", "judge") or not many:
        return asked
    rounds = {"rounds": rng.choice((2, 2, 3)), "diversity": rng.random() < 0.7}
    agents = {"num_agents": max(2, asked.acts[0].body.get("num_agents", 3))}
    acts = [replace(act, body={**act.body, **rounds, **agents}) if _asks(act) else act for act in asked.acts]
    return replace(asked, acts=acts)


def _asks(act: Act) -> bool:
    return act.subject == topology.REQUESTED and "task_description" in act.body


def _again(rng: random.Random, request: Act, timeout: float) -> list[Act]:
    """The same name once more, sometimes asking for something else."""
    if rng.random() > 0.25:
        return []
    body = dict(request.body)
    if rng.random() < 0.5:
        body["num_agents"], body["min_responses"] = rng.choice(((1, 1), (3, 2), (11, 1)))
    return [
        Act(
            request.at + rng.choice((0.0, 0.01, rng.random() * 1.2 * timeout)),
            request.subject,
            body,
            request.headers,
        )
    ]


def _cancels(rng: random.Random, task_id: str, at: float, timeout: float) -> list[Act]:
    if rng.random() > 0.25:
        return []
    when = at + rng.choice((-0.01, 0.0, 0.005, rng.random() * timeout, timeout))
    return [Act(max(0.0, when), topology.CANCEL, {"task_id": task_id, "reason": "enough"}, {})]


def _strangers(rng: random.Random, task_id: str, at: float, timeout: float) -> list[Act]:
    acts = []
    for _ in range(rng.choice((0, 0, 0, 0, 1, 2))):
        when = max(0.0, at + rng.choice((-0.01, 0.01, rng.random() * timeout, timeout + 0.01)))
        lot = rng.random()
        if lot < 0.5:
            acts.append(Act(when, topology.AGENT_FAILED, outcome(task_id, rng.randint(1, 5)), {}))
        elif lot < 0.7:
            acts.append(Act(when, topology.deadline_subject(task_id), {"task_id": task_id}, {}))
        elif lot < 0.85:
            # A forged Msg-Id, to have the ending taken for a duplicate.
            acts.append(
                Act(when, topology.CANCEL, {"task_id": "nobody"}, {"Nats-Msg-Id": f"{task_id}:ending"})
            )
        else:
            acts.append(
                Act(
                    when,
                    rng.choice((topology.CANCEL, topology.AGENT_COMPLETED, topology.REQUESTED)),
                    {"no": "sense"},
                    {},
                )
            )
    return acts


def _late(rng: random.Random, request: Act, late_seconds: float) -> list[Act]:
    task_id = request.body["task_id"]
    choices = (
        Act(late_seconds, request.subject, request.body, {}),
        Act(late_seconds, topology.CANCEL, {"task_id": task_id}, {}),
        Act(late_seconds, topology.AGENT_FAILED, outcome(task_id, 1), {}),
    )
    return [rng.choice(choices)]


def outcome(task_id: str, number: int) -> dict[str, Any]:
    return {
        "task_id": task_id, "agent_id": f"agent-dev-{number:03d}", "role": "DEV", "error": "forged",
        "error_type": "server_error", "attempt": 1, "duration_ms": 1, "timestamp": "1970-01-12T13:46:40.000Z",
    }  # fmt: skip


async def publish(server: Server, asked: Asked, act: Act, name: str) -> None:
    """Carry out one act, through whatever happens to the broker."""
    await asyncio.sleep(act.at)
    wire = JetStream(as_client(Link(server, None, name)))
    body = json.dumps(act.body).encode()
    while True:
        try:
            await wire.publish(act.subject, body, headers=act.headers)
            return
        except (BrokerUnavailable, APIError):
            if not act.client:
                return
            if server.refusing:
                await asyncio.sleep(_AGAIN_SECONDS)
