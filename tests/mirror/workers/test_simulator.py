"""The simulated model server: answers say that they are simulated and repeat for a seed; faults come as configured."""

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
from tests import present
from tests.harness import model_server, until

PATH = "/v1/chat/completions"


class Session:
    """A simulator in this process and an HTTP client for it, over a real socket."""

    def __init__(self, **behaviour: Any) -> None:
        self.simulator = Simulator(Behaviour(**{"latency_ms": 0, **behaviour}))
        self._server = TestServer(self.simulator.app())
        self.http = TestClient(self._server)

    async def __aenter__(self) -> "Session":
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
    async with Session() as one, model_server() as other, aiohttp.ClientSession() as http:
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
    async with Session() as session:
        asked = {"seed": 7, "temperature": 0.8}
        assert await session.text(**asked) != await session.text(**{**asked, **change})


async def test_another_simulator_seed_gives_another_text() -> None:
    async with Session(seed=1) as one, Session(seed=2) as two:
        assert await one.text(seed=7) != await two.text(seed=7)


async def test_without_a_seed_answers_differ_and_at_temperature_zero_they_do_not() -> None:
    async with Session() as session:
        assert len({await session.text() for _ in range(5)}) == 5
        assert len({await session.text(temperature=0, seed=seed) for seed in (None, 1, 2)}) == 1


async def test_every_answer_says_that_it_is_simulated() -> None:
    async with Session() as session:
        assert (await session.text()).startswith("[simulated answer]")
        assert (await session.text(max_tokens=2)) == "[simulated answer]"


async def test_max_tokens_bounds_an_answer_and_usage_counts_it() -> None:
    async with Session(tokens=40) as session:
        answer = await (await session.ask(max_tokens=9)).json()
        words = answer["choices"][0]["message"]["content"].split()
        assert len(words) == answer["usage"]["completion_tokens"] == 9
        assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 9, "total_tokens": 11}
        lengths = [len((await session.text()).split()) for _ in range(20)]
        assert all(20 <= length <= 40 for length in lengths)
        assert len(set(lengths)) > 1


async def test_it_takes_the_configured_time() -> None:
    async with Session(latency_ms=150, tokens_per_second=100, tokens=20) as session:
        clock = asyncio.get_running_loop().time
        started = clock()
        words = (await session.text()).split()
        assert clock() - started >= 0.15 + len(words) / 100
        started = clock()
        response = await session.ask(stream=True)
        assert clock() - started >= 0.15
        await response.read()
        assert clock() - started >= 0.15 + 10 / 100


# ── slots ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def counts(session: Session, **expected: int) -> None:
    """Wait until the server counts just so many requests as running or waiting."""

    async def reported() -> bool:
        stats = await (await session.http.get("/simulator")).json()
        return all(stats[name] == count for name, count in expected.items())

    await until(reported, f"the server counts {expected}")


async def test_requests_beyond_the_slots_wait() -> None:
    async with Session(latency_ms=300, slots=2) as session:
        clock = asyncio.get_running_loop().time
        started = clock()
        asked = [asyncio.create_task(session.text()) for _ in range(5)]
        await counts(session, waiting=3)
        text = await (await session.http.get("/metrics")).text()
        told = {
            sample.name: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        assert (told["vllm:num_requests_running"], told["vllm:num_requests_waiting"]) == (2, 3)
        await asyncio.gather(*asked)
        assert clock() - started >= 0.9


async def test_a_stream_holds_its_slot_until_its_last_word() -> None:
    async with Session(slots=1, tokens_per_second=100, tokens=20) as session:
        clock = asyncio.get_running_loop().time
        started = clock()
        await asyncio.gather(*(_read(session) for _ in range(3)))
        assert clock() - started >= 3 * 10 / 100


async def _read(session: Session) -> None:
    await (await session.ask(stream=True)).read()


async def test_without_a_limit_no_request_waits() -> None:
    async with Session(latency_ms=200) as session:
        clock = asyncio.get_running_loop().time
        started = clock()
        await asyncio.gather(*(session.text() for _ in range(20)))
        assert clock() - started < 2


async def test_the_number_of_slots_can_be_changed_while_requests_wait() -> None:
    async with Session(latency_ms=10_000, slots=1) as session:
        asked = [asyncio.create_task(session.ask()) for _ in range(3)]
        await counts(session, waiting=2)
        assert (await session.http.post("/simulator", json={"slots": 0, "latency_ms": 0})).status == 200
        await counts(session, waiting=0)
        done, _ = await asyncio.wait(asked, timeout=5, return_when=asyncio.FIRST_COMPLETED)
        assert done
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)


async def test_slots_are_given_in_order_and_a_cancelled_request_leaves_the_queue() -> None:
    async with Session(latency_ms=10_000, slots=2) as session:
        answered = []

        async def ask(number: int) -> None:
            await session.text()
            answered.append(number)

        async def change(**behaviour: Any) -> None:
            assert (await session.http.post("/simulator", json=behaviour)).status == 200

        asked = []
        for number in range(5):
            asked.append(asyncio.create_task(ask(number)))
            await counts(session, running=number + 1, waiting=max(0, number - 1))
        asked[3].cancel()
        await counts(session, running=4, waiting=2)
        await change(slots=1, latency_ms=0)  # requests that hold a slot keep it
        asked[0].cancel()
        await counts(session, running=3, waiting=2)
        asked[1].cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        assert answered == [2, 4]


# ── other routes ────────────────────────────────────────────────────────────────────────────────────────


async def test_it_lists_its_model_and_is_healthy() -> None:
    async with Session(model="my-model") as session:
        listed = await (await session.http.get("/v1/models")).json()
        assert [(entry["id"], entry["max_model_len"]) for entry in listed["data"]] == [("my-model", 32_768)]
        assert (await session.http.get("/health")).status == 200


async def test_the_model_list_needs_the_key_and_health_does_not() -> None:
    async with Session(api_key="k") as session:
        assert (await session.http.get("/v1/models")).status == 401
        assert (await session.http.get("/v1/models", headers={"authorization": "Bearer k"})).status == 200
        assert (await session.http.get("/health")).status == 200


async def test_a_prompt_that_leaves_no_room_for_an_answer_is_refused() -> None:
    async with Session(max_model_len=10) as session:
        assert await session.text()
        for change in ({"max_tokens": 9}, {"messages": [{"role": "user", "content": "word " * 10}]}):
            response = await session.ask(**change)
            assert response.status == 400
            assert "maximum context length is 10 tokens" in (await response.json())["error"]["message"]


async def test_its_metrics_are_in_prometheus_form_and_count_tokens() -> None:
    async with Session() as session:
        usage = (await (await session.ask()).json())["usage"]
        text = await (await session.http.get("/metrics")).text()
        families = {family.name: family for family in text_string_to_metric_families(text)}
        assert families["vllm:num_requests_running"].samples[0].value == 0
        for name, key in (("prompt", "prompt_tokens"), ("generation", "completion_tokens")):
            (sample,) = families[f"vllm:{name}_tokens"].samples
            assert (sample.labels, sample.value) == ({"model_name": DEFAULT_MODEL}, usage[key])


@pytest.mark.parametrize(
    "body",
    [
        b"", b"not JSON", b"[]", b"5", b"{}", b'{"model": "simulated-model"}', b'{"messages": "hi"}',
        b'{"messages": ["hi"]}', b'{"messages": 5}',
    ],
)  # fmt: skip
async def test_an_invalid_body_is_a_400(body: bytes) -> None:
    async with Session() as session:
        response = await session.http.post(PATH, data=body, headers={"content-type": "application/json"})
        assert response.status == 400
        assert "messages" in (await response.json())["error"]["message"]


async def test_a_body_over_the_limit_is_refused() -> None:
    async with Session() as session:
        response = await session.http.post(PATH, data=io.BytesIO(b" " * (MAX_REQUEST_BYTES + 1)))
        assert response.status == 413


async def test_another_model_is_a_404_that_names_it() -> None:
    async with Session() as session:
        response = await session.ask(model="gpt-99")
        assert response.status == 404
        assert "gpt-99" in (await response.json())["error"]["message"]


@pytest.mark.parametrize(
    ("header", "status"), [(None, 401), ("Bearer wrong", 401), ("sesame", 401), ("Bearer sesame", 200)]
)
async def test_a_configured_key_is_required(header: str | None, status: int) -> None:
    async with Session(api_key="sesame") as session:
        body = {"model": DEFAULT_MODEL, "messages": []}
        response = await session.http.post(
            PATH, json=body, headers={"authorization": header} if header else {}
        )
        assert response.status == status


# ── faults ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_each_fault_hits_its_share_of_requests_and_the_same_ones_for_a_seed() -> None:
    async def statuses(seed: int) -> list[int]:
        async with Session(faults={"500": 0.2, "429": 0.1}, seed=seed) as session:
            return [(await session.ask(max_tokens=1)).status for _ in range(400)]

    first, again, other = await statuses(3), await statuses(3), await statuses(4)
    assert first == again != other
    shares = Counter(first)
    # Expected 80 and 40 of 400, with standard deviations of 8 and 6.
    assert 55 < shares[500] < 105
    assert 20 < shares[429] < 60
    assert shares[200] == 400 - shares[500] - shares[429]


async def test_a_script_comes_before_the_shares_of_faults() -> None:
    async with Session(script=["503", "ok", "404"], faults={"400": 1.0}) as session:
        assert [(await session.ask()).status for _ in range(5)] == [503, 200, 404, 400, 400]


async def test_its_behaviour_can_be_changed_while_it_runs() -> None:
    async with Session() as session:
        assert (
            await session.http.post("/simulator", json={"faults": {"500": 1.0}, "script": ["429"]})
        ).status == 200
        assert [(await session.ask()).status for _ in range(2)] == [429, 500]
        assert (await session.http.post("/simulator", json={"faults": {}})).status == 200
        assert (await session.ask()).status == 200


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"faults": {"earthquake": 1.0}}, "earthquake"),
        ({"script": ["ok", "flood"]}, "flood"),
        ({"latency": 5}, "latency"),
    ],
)
async def test_an_unknown_name_is_refused_and_changes_nothing(change: dict[str, Any], named: str) -> None:
    async with Session() as session:
        response = await session.http.post("/simulator", json={**change, "tokens": 1})
        assert response.status == 400
        assert named in (await response.json())["error"]["message"]
        assert session.simulator.behaviour == Behaviour(latency_ms=0)


async def test_it_reports_only_the_latest_requests() -> None:
    async with Session() as session:
        for number in range(LATEST + 3):
            await session.ask(max_tokens=1, seed=number)
        seen = await (await session.http.get("/simulator")).json()
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


async def test_the_process_prints_its_address_first_and_stops_on_sigterm() -> None:
    arguments = ("--port", "0", "--model", "m-1", "--latency-ms", "0", "--fault", "503=1", "--fault", "429")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "parley.workers.simulator", *arguments, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    url = (await asyncio.wait_for(present(process.stdout).readline(), 20)).decode().strip()
    async with aiohttp.ClientSession() as http:
        async with http.get(f"{url}/v1/models") as response:
            assert (await response.json())["data"][0]["id"] == "m-1"
        async with http.post(f"{url}{PATH}", json={"model": "m-1", "messages": []}) as response:
            assert response.status == 503
    process.send_signal(signal.SIGTERM)
    _, errors = await asyncio.wait_for(process.communicate(), 20)
    assert (process.returncode, errors) == (0, b"")
