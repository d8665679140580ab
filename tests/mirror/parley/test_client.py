"""The Python client against a whole service: ask, wait, look, cancel, and what it raises when no service is there."""

import asyncio
import gc
import json
import re
import time
from collections.abc import Coroutine
from typing import Any

import pytest
from nats.js import JetStreamContext
from nats.js.api import ConsumerInfo

import parley
from parley import client as client_module
from parley import ending_inbox as inbox_module
from parley import job as job_module
from parley.broker.core.errors import InvalidMessage
from parley.broker.core.messages import DeliberationCompleted, DeliberationFailed, DeliberationRequested
from parley.broker.core.states_and_moves import State
from parley.broker.core.tally import Phase, Tally
from parley.broker.jetstream import connection, topology
from parley.broker.jetstream.connection import connect
from parley.broker.jetstream.embedded import EmbeddedNats
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.nats_client import NatsClient
from parley.broker.jetstream.provision import provision
from parley.client import Client
from parley.client_errors import NoEnding, NoService, UnknownDeliberation
from parley.job import Job
from parley.request_arguments import compose
from tests import present
from tests.harness import ModelServer, Running, fresh, until

# ── the request ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_each_argument_becomes_its_field_of_the_request() -> None:
    request = compose(
        "Write a factorial function", agents=5, role="qa", rubric={"tests": "must pass"},
        requirements=["handles 0"], context={"language": "Python"}, diversity=True, min_responses=2,
        finish_early=True, timeout_seconds=30, metadata={"ticket": "P-1"}, task_id="t-1", model="m",
        temperature=0.5, max_tokens=100, seed=7, stop=["END"],
    )  # fmt: skip
    assert request == DeliberationRequested.model_validate_json(
        json.dumps(
            {
                "task_description": "Write a factorial function",
                "num_agents": 5,
                "role": "QA",
                "constraints": {
                    "rubric": {"tests": "must pass"},
                    "requirements": ["handles 0"],
                    "metadata": {"language": "Python"},
                },
                "diversity": True,
                "min_responses": 2,
                "finish_early": True,
                "timeout_seconds": 30,
                "metadata": {"ticket": "P-1"},
                "task_id": "t-1",
                "model": "m",
                "temperature": 0.5,
                "max_tokens": 100,
                "seed": 7,
                "stop": ["END"],
            }
        )
    )


def test_omitted_arguments_have_the_contracts_defaults() -> None:
    assert compose("x") == DeliberationRequested(task_description="x")
    assert compose("x", rubric=None, timeout_seconds=None, seed=None, task_id=None) == compose("x")


@pytest.mark.parametrize(
    ("asking", "named"),
    [
        ({"agents": 0}, "agents"),
        ({"agents": 257}, "agents"),
        ({"agents": "3"}, "agents"),
        ({"agents": 2, "min_responses": 3}, "min_responses"),
        ({"role": "two words"}, "role"),
        ({"task_id": "no spaces"}, "task_id"),
        ({"timeout_seconds": 0.01}, "timeout_seconds"),
        ({"timeout_seconds": float("inf")}, "timeout_seconds"),
        ({"temperature": 2.5}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"requirements": [5]}, "requirements"),
        ({"rubric": "x" * 70_000}, "rubric, requirements and context"),
        ({"metadata": {"k": 5}}, "metadata"),
        ({"metadata": {"k": "x" * 20_000}}, "metadata"),
    ],
)
def test_a_bad_request_is_refused_unsent_naming_only_the_field(asking: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidMessage) as caught:
        compose("my secret plan", **asking)
    for problem in caught.value.problems:
        assert problem.startswith((f"{named}:", f"{named}.", f"{named} "))
    assert "secret plan" not in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("description", ["", "x" * (256 * 1024 + 1)])
def test_a_task_without_words_or_with_far_too_many_is_refused(description: str) -> None:
    with pytest.raises(InvalidMessage, match="task_description"):
        compose(description)


# ── asking ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_asking_is_one_line(local_service: Running, model: ModelServer) -> None:
    async with parley.connect(local_service.settings.nats_url or "") as client:
        ending = await client.deliberate("Write a factorial function", agents=2)
    assert isinstance(ending, parley.DeliberationCompleted)
    assert [result.agent_id for result in ending.results] == ["agent-dev-001", "agent-dev-002"]


async def test_submitting_returns_once_it_is_stored(local_service: Running, model: ModelServer) -> None:
    await model.behave(faults={"hang": 1.0})
    submitted = await local_service.client.submit("x", agents=1, timeout_seconds=60)
    assert submitted.task_id.startswith("d-")
    assert not present(submitted._arrival).done()
    await local_service.client.cancel(submitted.task_id)
    ending = await local_service.client.ending(submitted)
    assert isinstance(ending, DeliberationFailed)
    assert (ending.task_id, ending.status) == (submitted.task_id, "cancelled")


async def test_asking_again_for_a_task_that_has_ended_finds_its_ending(
    local_service: Running, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_module, "FIRST_POLL_SECONDS", 0.1)
    first = await local_service.client.deliberate("x", task_id=fresh())
    assert await local_service.client.deliberate("x", task_id=first.task_id) == first


async def test_a_program_that_crashed_and_asks_again_hears_the_ending_at_once(
    local_service: Running, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_module, "FIRST_POLL_SECONDS", 60.0)  # nothing is found by asking
    await model.behave(latency_ms=500)
    name, url = fresh(), local_service.settings.nats_url or ""
    async with parley.connect(url) as crashed:
        await crashed.submit("x", task_id=name)
    async with parley.connect(url) as again, parley.connect(url) as later:
        running = await asyncio.wait_for(again.deliberate("x", task_id=name), 20)
        ended = await asyncio.wait_for(later.deliberate("x", task_id=name, timeout_seconds=9), 20)
    assert running == ended
    assert len(await local_service.endings_of(name)) == 1


@pytest.mark.parametrize("polls", [False, True])
async def test_another_question_of_a_used_name_is_rejected_to_its_asker(
    local_service: Running, model: ModelServer, monkeypatch: pytest.MonkeyPatch, polls: bool
) -> None:
    monkeypatch.setattr(job_module, "FIRST_POLL_SECONDS", 0.1 if polls else 60.0)
    name = fresh()
    first = await local_service.client.deliberate("x", task_id=name)
    async with parley.connect(local_service.settings.nats_url or "") as other:
        client = Client(other._jetstream) if polls else other  # the one never subscribed: it hears nothing
        ending = await asyncio.wait_for(client.deliberate("y", task_id=name), 20)
    assert isinstance(ending, DeliberationFailed)
    assert (first.status, ending.status) == ("completed", "rejected")
    assert ending.task_id.startswith("d-")
    assert f"{name} is another question's" in ending.error


async def test_two_questions_of_one_name_from_one_client_do_not_take_each_others_endings(
    local_service: Running, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_module, "FIRST_POLL_SECONDS", 0.1)
    client, name = local_service.client, fresh()
    one, other = await client.submit("x", task_id=name), await client.submit("y", task_id=name)
    endings = await asyncio.gather(client.ending(one), client.ending(other))
    assert [ending.status for ending in endings] == ["completed", "rejected"]
    assert [ending.task_id for ending in endings] == [name, other.own_name]


async def test_a_program_that_submits_and_never_waits_keeps_nothing_of_it(
    local_service: Running, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_module, "KEPT_ENDINGS", 5)
    async with parley.connect(local_service.settings.nats_url or "") as client:
        names = [fresh() for _ in range(20)]
        for name in names:
            await client.submit("x", agents=1, task_id=name)
        for name in names:
            await local_service.ending_of(name)
        await until(
            lambda: len(client._endings._arrivals) <= 6, "the endings that nobody awaits are forgotten"
        )
        gc.collect()
        assert len(client._endings._rejections) == 0


async def test_many_ask_at_once_and_each_gets_its_own(local_service: Running, model: ModelServer) -> None:
    names = [fresh() for _ in range(30)]
    endings = await asyncio.gather(
        *(local_service.client.deliberate("x", agents=1, task_id=name) for name in names)
    )
    assert [ending.task_id for ending in endings] == names


async def test_a_rejected_request_ends_like_any_other(local_service: Running, model: ModelServer) -> None:
    # What the client cannot know, the service says: here, an inbox that it does not allow.
    seq = await local_service.publish(
        {"task_description": "x"}, headers={"Parley-Reply-To": "somewhere.else"}
    )
    raw = await local_service.ending_of(f"d-{seq}")
    assert raw["status"] == "rejected"
    found = await local_service.client.find(f"d-{seq}")
    assert isinstance(found, DeliberationFailed)
    assert "Parley-Reply-To" in found.error


async def test_large_results_are_read_from_their_store(local_service: Running, model: ModelServer) -> None:
    await model.behave(tokens=40_000)
    ending = await local_service.client.deliberate("x", agents=8)
    assert ending.results_ref is not None
    assert len(ending.results) == 8
    found = await local_service.client.find(ending.task_id)
    assert found is not None
    assert found.results == (await local_service.client.status(ending.task_id)).results == ending.results


# ── an ending that was not heard ──────────────────────────────────────────────────────────────────────────────────


async def test_an_ending_whose_message_was_lost_is_found_by_asking(
    local_service: Running, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_module, "FIRST_POLL_SECONDS", 0.2)
    deaf = Client(local_service.wire)  # its inbox was never subscribed to: every ending is lost on the way
    ending = await asyncio.wait_for(deaf.deliberate("x"), 20)
    assert isinstance(ending, DeliberationCompleted)
    assert not ending.degraded
    assert len(ending.results) == 3


async def test_an_ending_is_heard_while_a_question_gets_no_answer(
    local_service: Running, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A question that went to a service which stood still: the ending in the inbox waited for it, up to 5 s."""
    monkeypatch.setattr(job_module, "FIRST_POLL_SECONDS", 0.1)
    asked = asyncio.Event()

    async def no_answer(*_: Any) -> None:
        asked.set()
        await asyncio.sleep(60)

    monkeypatch.setattr(Job, "_find", no_answer)
    await model.behave(latency_ms=500)
    submitted = await local_service.client.submit("x", agents=1, timeout_seconds=30)
    ending = await local_service.client.ending(submitted, wait_seconds=20)
    assert asked.is_set()
    assert ending.status == "completed"


async def test_other_messages_do_not_disturb_the_wait(local_service: Running, model: ModelServer) -> None:
    await model.behave(latency_ms=300)
    submitted = await local_service.client.submit("x", task_id=fresh())
    stored = [
        msg
        for msg in await local_service.all_of(topology.REQUESTED, topology.REQUESTS)
        if submitted.task_id.encode() in msg.data
    ]
    inbox = (stored[0].headers or {})["Parley-Reply-To"]
    for body in (
        b"",
        b"not JSON",
        b'{"task_id": "' + submitted.task_id.encode() + b'", "status": "completed"}',
    ):
        await local_service.nats.publish(inbox, body)
    assert (await local_service.client.ending(submitted)).status == "completed"


@pytest.mark.parametrize("wait_seconds", [0.0, 0.3])
async def test_a_wait_that_ends_early_says_how_to_ask_again_and_can_be_repeated(
    local_service: Running, model: ModelServer, wait_seconds: float
) -> None:
    await model.behave(faults={"hang": 1.0})
    submitted = await local_service.client.submit("x", timeout_seconds=60)
    started = time.monotonic()
    with pytest.raises(NoEnding) as caught:
        await local_service.client.ending(submitted, wait_seconds=wait_seconds)
    assert wait_seconds <= time.monotonic() - started < 5
    assert (caught.value.task_id, caught.value.seconds) == (submitted.task_id, wait_seconds)
    assert f"parley result {submitted.task_id}" in str(caught.value)
    await local_service.client.cancel(submitted.task_id)
    assert (await local_service.client.ending(submitted)).status == "cancelled"  # patience may be renewed


async def test_by_default_a_client_waits_until_well_past_the_deadline(
    empty_nats: EmbeddedNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_module, "GRACE_SECONDS", 0.3)
    monkeypatch.setattr(job_module, "FIRST_POLL_SECONDS", 0.1)
    nc = await connect(empty_nats.url, "tests")
    await provision(nc.jetstream())  # streams, and no service behind them
    async with parley.connect(empty_nats.url) as client:
        started = time.monotonic()
        with pytest.raises(NoEnding):
            await client.deliberate("x", timeout_seconds=0.2)
        assert 0.5 <= time.monotonic() - started < 5
    await nc.close()


# ── looking ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_no_ending_is_found_before_there_is_one(local_service: Running, model: ModelServer) -> None:
    await model.behave(faults={"hang": 1.0})
    client = local_service.client
    submitted = await client.submit("x", timeout_seconds=60)
    assert await client.find(submitted.task_id) is None
    await client.cancel(submitted.task_id, "enough")
    ending = await client.ending(submitted)
    assert await client.find(submitted.task_id) == ending
    with pytest.raises(UnknownDeliberation):
        await client.find(fresh("unknown"))


async def test_what_is_submitted_is_known_at_once(local_service: Running, model: ModelServer) -> None:
    """34 of 60 were called unknown."""
    client = local_service.client
    names: list[str | None] = [fresh() if number % 2 else None for number in range(60)]

    async def asked(name: str | None) -> str:
        submitted = await client.submit("x", agents=1, task_id=name)
        return (await client.status(submitted.task_id)).status

    assert "UNKNOWN" not in await asyncio.gather(*map(asked, names))


async def test_one_is_in_progress_before_an_agent_has_reported(
    local_service: Running, model: ModelServer
) -> None:
    await model.behave(faults={"hang": 1.0})
    client = local_service.client
    submitted = await client.submit("x", timeout_seconds=60)

    async def in_progress() -> bool:
        return (await client.status(submitted.task_id)).status == "IN_PROGRESS"

    await until(in_progress, "an agent has begun")
    assert (await client.status(submitted.task_id)).received_count == 0
    await client.cancel(submitted.task_id)
    await client.ending(submitted)


async def test_a_tally_can_be_watched_from_first_to_last(local_service: Running, model: ModelServer) -> None:
    await model.behave(script=["ok", "hang", "400"])
    client = local_service.client
    submitted = await client.submit("x", timeout_seconds=60)
    counts = []
    async with asyncio.timeout(20):
        async for tally in client.watch(submitted.task_id):
            assert tally.task_id == submitted.task_id
            counts.append(len(tally.phase.outcomes))
            if len(tally.phase.outcomes) == 2 and not tally.ended:
                await client.cancel(submitted.task_id)
    assert counts == sorted(counts)
    assert counts[-1] == 2
    assert tally.ended
    assert (await client.ending(submitted)).status == "cancelled"


@pytest.mark.parametrize("name", ["", "*", ">", "a b", "a\r\nPUB x 0", "$KV.x", "a.b"])
async def test_no_name_becomes_another_subject(local_service: Running, name: str) -> None:
    with pytest.raises(InvalidMessage):
        await anext(aiter(local_service.client.watch(name)))
    with pytest.raises(InvalidMessage):
        await local_service.client.status(name)


async def test_watching_an_ended_one_yields_its_last(local_service: Running, model: ModelServer) -> None:
    ending = await local_service.client.deliberate("x")
    async with asyncio.timeout(20):
        seen: list[Tally] = [tally async for tally in local_service.client.watch(ending.task_id)]
    assert [tally.ended for tally in seen] == [True]


async def test_all_tallies_are_listed_the_newest_first(local_service: Running, model: ModelServer) -> None:
    names = [(await local_service.client.deliberate("x", agents=1)).task_id for _ in range(3)]
    listed = [tally.task_id for tally in await local_service.client.tallies()]
    assert listed[:3] == names[::-1]


class Sluggish(NatsClient):
    """Answers to our requests overtake what is delivered to our subscriptions: NATS keeps the order of each by itself
    only."""

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        if not bytes(subject).startswith(bytes(self._resp_sub_prefix or b"-")):
            await self._lagging(super()._process_msg(sid, subject, reply, data, headers))
        else:
            await super()._process_msg(sid, subject, reply, data, headers)

    async def _lagging(self, processing: Coroutine[Any, Any, None]) -> None:
        if not hasattr(self, "_lag"):
            self._lag: asyncio.Queue[Coroutine[Any, Any, None]] = asyncio.Queue()
            self._laggard = asyncio.create_task(self._process_late())
        self._lag.put_nowait(processing)

    async def _process_late(self) -> None:
        while True:
            processing = await self._lag.get()
            await asyncio.sleep(0.05)
            await processing

    async def close(self) -> None:
        if hasattr(self, "_laggard"):
            self._laggard.cancel()
        await super().close()


async def test_late_tallies_are_listed_too(empty_nats: EmbeddedNats, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = JetStreamContext.PushSubscription.consumer_info

    async def asked_when_all_is_on_its_way(subscription: JetStreamContext.PushSubscription) -> ConsumerInfo:
        async def nothing_pending() -> ConsumerInfo | None:
            info = await ask(subscription)
            return None if info.num_pending else info

        return present(await until(nothing_pending, "the server has sent everything"))

    monkeypatch.setattr(JetStreamContext.PushSubscription, "consumer_info", asked_when_all_is_on_its_way)
    monkeypatch.setattr(connection, "NatsClient", Sluggish)
    nc = await connect(empty_nats.url, "tests")
    await provision(nc.jetstream())
    wire = JetStream(nc)
    names = ["t-1", "t-2", "t-3"]
    for seq, name in enumerate(names, 1):
        phases = (Phase(number=1, agents=("agent-dev-001",)),)
        tally = Tally(
            task_id=name, state=State.PENDING, request_seq=seq, role="DEV", accepted_at=seq, deadline=1e10,
            phases=phases,
        )  # fmt: skip
        await wire.publish(topology.tally_subject(name), tally.model_dump_json().encode())
    assert [tally.task_id for tally in await Client(wire).tallies()] == names[::-1]
    await nc.close()


async def test_what_cannot_be_read_is_no_tally(empty_nats: EmbeddedNats) -> None:
    nc = await connect(empty_nats.url, "tests")
    await provision(nc.jetstream())
    await JetStream(nc).publish(topology.tally_subject("t-1"), b'{"state": "of another version"}')
    assert await Client(JetStream(nc)).tallies() == []
    await nc.close()


async def test_no_tallies_are_an_empty_list(empty_nats: EmbeddedNats) -> None:
    nc = await connect(empty_nats.url, "tests")
    await provision(nc.jetstream())
    assert await Client(JetStream(nc)).tallies() == []
    await nc.close()


async def test_the_client_finds_dead_letters(local_service: Running) -> None:
    seq = await local_service.publish(b"not JSON")
    await local_service.ending_of(f"d-{seq}")

    async def found() -> parley.DeadLetterInfo | None:
        letters = await local_service.client.deadletters.newest(20, subject=topology.REQUESTED)
        return next((letter for letter in letters if letter.sequence == seq), None)

    letter = present(await until(found, "the request is in DEAD_LETTERS"))
    assert await local_service.client.deadletters.payload(letter) == b"not JSON"


# ── mistakes and absences ─────────────────────────────────────────────────────────────────────────────────────────


async def test_an_impossible_task_id_is_refused_by_name(local_service: Running) -> None:
    client = local_service.client
    for attempt in (
        client.status("no spaces"),
        client.find("a.b"),
        client.cancel("*"),
        client.cancel("t", "x" * 1_001),
    ):
        with pytest.raises(InvalidMessage, match=r"task_id|reason"):
            await attempt


async def test_a_nats_without_a_service_raises_no_service(empty_nats: EmbeddedNats) -> None:
    async with parley.connect(empty_nats.url) as client:
        for attempt in (client.status("t-1"), client.submit("x"), client.deliberate("x")):
            with pytest.raises(NoService, match="parley serve"):
                await attempt


async def test_cancelling_looking_and_listing_say_that_there_is_no_service(empty_nats: EmbeddedNats) -> None:
    async def watched(client: Client) -> None:
        async for _ in client.watch("t-1"):
            pass

    async with parley.connect(empty_nats.url) as client:
        for attempt in (client.cancel("t-1"), client.tallies(), watched(client)):
            with pytest.raises(NoService):
                await attempt


async def test_an_absence_of_the_service_while_waiting_does_not_end_the_wait(
    empty_nats: EmbeddedNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_module, "FIRST_POLL_SECONDS", 0.1)
    monkeypatch.setattr(client_module, "GET_TIMEOUT_SECONDS", 0.2)
    nc = await connect(empty_nats.url, "tests")
    await provision(nc.jetstream())
    async with parley.connect(empty_nats.url) as client:
        submitted = await client.submit("x", task_id="t-1", timeout_seconds=60)
        waiting = asyncio.create_task(client.ending(submitted))
        asked = asyncio.Event()

        async def tell(msg: Any) -> None:
            asked.set()

        # No service answers; then a subscriber that stays silent; and then the ending arrives after all.
        subscription = await nc.subscribe(topology.GET, cb=tell)
        await asyncio.wait_for(asked.wait(), 20)
        await subscription.unsubscribe()
        body = DeliberationFailed(
            task_id="t-1", status="cancelled", error="cancelled", failed_agents=(), missing_agents=(),
            results=(), total_agents=1, successful_responses=0, failed_responses=0, duration_ms=1,
            timestamp="2026-01-01T00:00:00.000Z",
        ).encode()  # fmt: skip
        (request,) = [await nc.jetstream().get_msg(topology.REQUESTS, 1)]
        await nc.publish((request.headers or {})["Parley-Reply-To"], body)
        assert (await asyncio.wait_for(waiting, 20)).status == "cancelled"
    await nc.close()


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("agent", "; did you mean agents?"),
        ("timeout", "; did you mean timeout_seconds?"),
        ("modle", "; did you mean model?"),
        ("qqq", ""),
    ],
)
def test_a_misspelt_argument_is_refused_and_the_right_one_named(word: str, hint: str) -> None:
    misspelt: dict[str, Any] = {word: 1}
    with pytest.raises(TypeError, match=rf"^no such argument: {word}{re.escape(hint)}$"):
        compose("x", **misspelt)
