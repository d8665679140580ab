"""The simulated model server: it says that it simulates, repeats itself for a seed, and fails as it is told."""

import asyncio
import io
import json
import signal
import sys
from collections import Counter
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client.parser import text_string_to_metric_families

from parley.workers.simulator import DEFAULT_MODEL, FAULTS
from parley.workers.simulator.__main__ import main
from parley.workers.simulator.behaviour import Behaviour
from parley.workers.simulator.server import LATEST, MAX_REQUEST_BYTES, Simulator
from tests.harness import model_server, until

PATH = "/v1/chat/completions"


class Talk:
    """A simulator in this process and a client that speaks to it over a real socket."""

    def __init__(self, **behaviour: Any) -> None:
        self.simulator = Simulator(Behaviour(**{"latency_ms": 0, **behaviour}))
        self._server = TestServer(self.simulator.app())
        self.http = TestClient(self._server)

    async def __aenter__(self) -> "Talk":
        await self.http.start_server()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.http.close()

    async def ask(self, **fields: Any) -> aiohttp.ClientResponse:
        body = {"model": DEFAULT_MODEL, "messages": [{"role": "user", "content": "hello there"}], **fields}
        return await self.http.post(PATH, json=body)

    async def text(self, **fields: Any) -> str:
        response = await self.ask(**fields)
        assert response.status == 200
        return str((await response.json())["choices"][0]["message"]["content"])


# ── text ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_same_request_and_seed_give_the_same_text_in_another_process_too() -> None:
    async with Talk() as one, model_server() as other, aiohttp.ClientSession() as http:
        text = await one.text(seed=7, temperature=0.8)
        assert await one.text(seed=7, temperature=0.8) == text
        body = {
            "model": DEFAULT_MODEL,
            "messages": [{"role": "user", "content": "hello there"}],
            "seed": 7,
            "temperature": 0.8,
        }
        async with http.post(f"{other.url}{PATH}", json=body) as response:
            assert (await response.json())["choices"][0]["message"]["content"] == text


@pytest.mark.parametrize(
    "change",
    [{"seed": 8}, {"temperature": 0.9}, {"messages": [{"role": "user", "content": "hello  there"}]}],
    ids=str,
)
async def test_another_request_gives_another_text(change: dict[str, Any]) -> None:
    async with Talk() as talk:
        asked = {"seed": 7, "temperature": 0.8}
        assert await talk.text(**asked) != await talk.text(**{**asked, **change})


async def test_another_simulator_seed_gives_another_text() -> None:
    async with Talk(seed=1) as one, Talk(seed=2) as two:
        assert await one.text(seed=7) != await two.text(seed=7)


async def test_without_a_seed_answers_differ_and_at_temperature_zero_they_do_not() -> None:
    async with Talk() as talk:
        assert len({await talk.text() for _ in range(5)}) == 5
        assert len({await talk.text(temperature=0, seed=seed) for seed in (None, 1, 2)}) == 1


async def test_every_answer_says_that_it_is_simulated() -> None:
    async with Talk() as talk:
        assert (await talk.text()).startswith("[simulated answer]")
        assert (await talk.text(max_tokens=2)) == "[simulated answer]"


async def test_max_tokens_bounds_an_answer_and_usage_counts_it() -> None:
    async with Talk(tokens=40) as talk:
        answer = await (await talk.ask(max_tokens=9)).json()
        words = answer["choices"][0]["message"]["content"].split()
        assert len(words) == answer["usage"]["completion_tokens"] == 9
        assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 9, "total_tokens": 11}
        lengths = [len((await talk.text()).split()) for _ in range(20)]
        assert all(20 <= length <= 40 for length in lengths)
        assert len(set(lengths)) > 1


async def test_it_takes_as_long_as_it_is_told() -> None:
    async with Talk(latency_ms=150, tokens_per_second=100, tokens=20) as talk:
        clock = asyncio.get_running_loop().time
        started = clock()
        words = (await talk.text()).split()
        assert clock() - started >= 0.15 + len(words) / 100
        started = clock()
        response = await talk.ask(stream=True)
        assert clock() - started >= 0.15
        await response.read()
        assert clock() - started >= 0.15 + 10 / 100


# ── slots ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def counts(talk: Talk, **expected: int) -> None:
    """Wait until the server counts just so many requests as running or waiting."""

    async def reported() -> bool:
        stats = await (await talk.http.get("/simulator")).json()
        return all(stats[name] == count for name, count in expected.items())

    await until(reported, f"the server counts {expected}")


async def test_more_requests_than_slots_wait_their_turn() -> None:
    async with Talk(latency_ms=300, slots=2) as talk:
        clock = asyncio.get_running_loop().time
        started = clock()
        asked = [asyncio.create_task(talk.text()) for _ in range(5)]
        await counts(talk, waiting=3)
        text = await (await talk.http.get("/metrics")).text()
        told = {
            sample.name: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        assert (told["vllm:num_requests_running"], told["vllm:num_requests_waiting"]) == (2, 3)
        await asyncio.gather(*asked)
        assert clock() - started >= 0.9


async def test_a_stream_has_its_slot_until_its_last_word() -> None:
    async with Talk(slots=1, tokens_per_second=100, tokens=20) as talk:
        clock = asyncio.get_running_loop().time
        started = clock()
        await asyncio.gather(*(_read(talk) for _ in range(3)))
        assert clock() - started >= 3 * 10 / 100


async def _read(talk: Talk) -> None:
    await (await talk.ask(stream=True)).read()


async def test_without_a_bound_nobody_waits() -> None:
    async with Talk(latency_ms=200) as talk:
        clock = asyncio.get_running_loop().time
        started = clock()
        await asyncio.gather(*(talk.text() for _ in range(20)))
        assert clock() - started < 2


async def test_the_number_of_slots_can_be_changed_while_requests_wait() -> None:
    async with Talk(latency_ms=10_000, slots=1) as talk:
        asked = [asyncio.create_task(talk.ask()) for _ in range(3)]
        await counts(talk, waiting=2)
        assert (await talk.http.post("/simulator", json={"slots": 0, "latency_ms": 0})).status == 200
        await counts(talk, waiting=0)
        done, _ = await asyncio.wait(asked, timeout=5, return_when=asyncio.FIRST_COMPLETED)
        assert done
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)


async def test_slots_are_given_in_order_and_a_cancelled_request_leaves_the_queue() -> None:
    async with Talk(latency_ms=10_000, slots=2) as talk:
        answered = []

        async def ask(number: int) -> None:
            await talk.text()
            answered.append(number)

        async def change(**behaviour: Any) -> None:
            assert (await talk.http.post("/simulator", json=behaviour)).status == 200

        asked = []
        for number in range(5):
            asked.append(asyncio.create_task(ask(number)))
            await counts(talk, running=number + 1, waiting=max(0, number - 1))
        asked[3].cancel()
        await counts(talk, running=4, waiting=2)
        await change(slots=1, latency_ms=0)  # requests that hold a slot keep it
        asked[0].cancel()
        await counts(talk, running=3, waiting=2)
        asked[1].cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        assert answered == [2, 4]


# ── what else a server has ────────────────────────────────────────────────────────────────────────────────────────


async def test_it_lists_its_model_and_is_healthy() -> None:
    async with Talk(model="my-model") as talk:
        listed = await (await talk.http.get("/v1/models")).json()
        assert [(entry["id"], entry["max_model_len"]) for entry in listed["data"]] == [("my-model", 32_768)]
        assert (await talk.http.get("/health")).status == 200


async def test_its_list_asks_for_the_key_and_its_health_does_not() -> None:
    async with Talk(api_key="k") as talk:
        assert (await talk.http.get("/v1/models")).status == 401
        assert (await talk.http.get("/v1/models", headers={"authorization": "Bearer k"})).status == 200
        assert (await talk.http.get("/health")).status == 200


async def test_a_prompt_that_leaves_no_room_for_an_answer_is_refused_by_name() -> None:
    async with Talk(max_model_len=10) as talk:
        assert await talk.text()
        for change in ({"max_tokens": 9}, {"messages": [{"role": "user", "content": "word " * 10}]}):
            response = await talk.ask(**change)
            assert response.status == 400
            assert "maximum context length is 10 tokens" in (await response.json())["error"]["message"]


async def test_its_metrics_are_in_prometheus_form_and_count_tokens() -> None:
    async with Talk() as talk:
        usage = (await (await talk.ask()).json())["usage"]
        text = await (await talk.http.get("/metrics")).text()
        families = {family.name: family for family in text_string_to_metric_families(text)}
        assert families["vllm:num_requests_running"].samples[0].value == 0
        for name, key in (("prompt", "prompt_tokens"), ("generation", "completion_tokens")):
            (sample,) = families[f"vllm:{name}_tokens"].samples
            assert (sample.labels, sample.value) == ({"model_name": DEFAULT_MODEL}, usage[key])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not JSON",
        b"[]",
        b"5",
        b"{}",
        b'{"model": "simulated-model"}',
        b'{"messages": "hi"}',
        b'{"messages": ["hi"]}',
        b'{"messages": 5}',
    ],
)
async def test_a_body_that_is_no_request_is_a_400_and_no_crash(body: bytes) -> None:
    async with Talk() as talk:
        response = await talk.http.post(PATH, data=body, headers={"content-type": "application/json"})
        assert response.status == 400
        assert "messages" in (await response.json())["error"]["message"]


async def test_a_body_over_the_bound_is_refused() -> None:
    async with Talk() as talk:
        response = await talk.http.post(PATH, data=io.BytesIO(b" " * (MAX_REQUEST_BYTES + 1)))
        assert response.status == 413


async def test_another_model_is_a_404_that_names_it() -> None:
    async with Talk() as talk:
        response = await talk.ask(model="gpt-99")
        assert response.status == 404
        assert "gpt-99" in (await response.json())["error"]["message"]


@pytest.mark.parametrize(
    ("header", "status"), [(None, 401), ("Bearer wrong", 401), ("sesame", 401), ("Bearer sesame", 200)]
)
async def test_a_key_is_asked_for_where_one_is_set(header: str | None, status: int) -> None:
    async with Talk(api_key="sesame") as talk:
        body = {"model": DEFAULT_MODEL, "messages": []}
        response = await talk.http.post(PATH, json=body, headers={"authorization": header} if header else {})
        assert response.status == status


# ── faults ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_share_of_requests_meets_each_fault_the_same_ones_for_the_same_seed() -> None:
    async def statuses(seed: int) -> list[int]:
        async with Talk(faults={"500": 0.2, "429": 0.1}, seed=seed) as talk:
            return [(await talk.ask(max_tokens=1)).status for _ in range(400)]

    first, again, other = await statuses(3), await statuses(3), await statuses(4)
    assert first == again != other
    shares = Counter(first)
    # Expected 80 and 40 of 400, with standard deviations of 8 and 6.
    assert 55 < shares[500] < 105
    assert 20 < shares[429] < 60
    assert shares[200] == 400 - shares[500] - shares[429]


async def test_a_script_is_followed_step_by_step_before_any_chance() -> None:
    async with Talk(script=["503", "ok", "404"], faults={"400": 1.0}) as talk:
        assert [(await talk.ask()).status for _ in range(5)] == [503, 200, 404, 400, 400]


async def test_its_ways_can_be_changed_while_it_runs() -> None:
    async with Talk() as talk:
        assert (
            await talk.http.post("/simulator", json={"faults": {"500": 1.0}, "script": ["429"]})
        ).status == 200
        assert [(await talk.ask()).status for _ in range(2)] == [429, 500]
        assert (await talk.http.post("/simulator", json={"faults": {}})).status == 200
        assert (await talk.ask()).status == 200


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"faults": {"earthquake": 1.0}}, "earthquake"),
        ({"script": ["ok", "flood"]}, "flood"),
        ({"latency": 5}, "latency"),
    ],
)
async def test_a_way_that_is_not_known_is_refused_by_name_and_changes_nothing(
    change: dict[str, Any], named: str
) -> None:
    async with Talk() as talk:
        response = await talk.http.post("/simulator", json={**change, "tokens": 1})
        assert response.status == 400
        assert named in (await response.json())["error"]["message"]
        assert talk.simulator.behaviour == Behaviour(latency_ms=0)


async def test_it_tells_what_it_has_seen_of_the_latest_requests_only() -> None:
    async with Talk() as talk:
        for number in range(LATEST + 3):
            await talk.ask(max_tokens=1, seed=number)
        seen = await (await talk.http.get("/simulator")).json()
        assert (seen["requests"], seen["completed"], seen["running"]) == (LATEST + 3, LATEST + 3, 0)
        assert [call["seed"] for call in seen["latest"]] == list(range(3, LATEST + 3))
        assert "hello" not in json.dumps(seen)


# ── as a process ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_command_line_refuses_an_unknown_fault(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--fault", "earthquake=0.5"])
    assert left.value.code == 2
    message = capsys.readouterr().err
    assert "earthquake" in message
    assert all(fault in message for fault in FAULTS)


async def test_the_process_prints_its_address_first_serves_as_told_and_stops_on_sigterm() -> None:
    arguments = ("--port", "0", "--model", "m-1", "--latency-ms", "0", "--fault", "503=1", "--fault", "429")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "parley.workers.simulator",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    url = (await asyncio.wait_for(process.stdout.readline(), 20)).decode().strip()
    async with aiohttp.ClientSession() as http:
        async with http.get(f"{url}/v1/models") as response:
            assert (await response.json())["data"][0]["id"] == "m-1"
        async with http.post(f"{url}{PATH}", json={"model": "m-1", "messages": []}) as response:
            assert response.status == 503
    process.send_signal(signal.SIGTERM)
    _, errors = await asyncio.wait_for(process.communicate(), 20)
    assert (process.returncode, errors) == (0, b"")
