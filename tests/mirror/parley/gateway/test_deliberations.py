"""Ask, look, cancel, ask again over HTTP: each error names what is wrong, and nothing is half done."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from parley.broker.core.messages import MAX_REQUEST_BYTES
from tests import present
from tests.harness import ModelServer, Running, fresh, until
from tests.mirror.parley.gateway import TOKENS, door, tenants_file

QUESTION = {"task_description": "x", "num_agents": 2}


async def test_a_question_is_stored_and_its_ending_is_waited_for(program: httpx.AsyncClient) -> None:
    asked = await program.post("/v1/deliberations", json=QUESTION)
    assert asked.status_code == 202
    where = asked.headers["location"]
    assert where == asked.json()["links"]["self"]
    found = await program.get(where, params={"wait": 20})
    assert (found.status_code, found.json()["status"]) == (200, "COMPLETED")
    assert len(found.json()["ending"]["results"]) == 2
    assert (await program.get(where)).json() == found.json()


async def test_one_request_asks_and_brings_the_answer(program: httpx.AsyncClient) -> None:
    asked = await program.post(
        "/v1/deliberations?wait=20", json={**QUESTION, "select": "vote", "answer_key": {"last": "line"}}
    )
    assert asked.status_code == 200
    told = asked.json()
    assert told["answer"] in [result["proposal"]["content"] for result in told["ending"]["results"]]


async def test_waiting_ends_with_how_it_is_doing(program: httpx.AsyncClient, model: ModelServer) -> None:
    await model.behave(faults={"hang": 1.0})
    asked = await program.post("/v1/deliberations?wait=0.3", json={**QUESTION, "timeout_seconds": 60})
    assert (asked.status_code, asked.json()["status"]) == (202, "PENDING")
    where = asked.headers["location"]
    found = await program.get(where, params={"wait": 0.3})
    assert (found.status_code, found.json()["status"], found.json()["total_agents"]) == (
        202,
        "IN_PROGRESS",
        2,
    )
    stopped = await program.delete(where, params={"reason": "enough"})
    assert stopped.status_code == 202
    ending = (await program.get(where, params={"wait": 20})).json()
    assert (ending["status"], ending["ending"]["status"]) == ("FAILED", "cancelled")
    again = await program.delete(where)
    assert (again.status_code, again.json()["detail"]) == (
        409,
        f"{asked.json()['task_id']} has ended: FAILED",
    )


async def test_the_same_key_twice_is_one_deliberation(program: httpx.AsyncClient) -> None:
    key = {"Idempotency-Key": f"order 17/{fresh()}"}
    asked = [await program.post("/v1/deliberations?wait=20", json=QUESTION, headers=key) for _ in range(2)]
    assert asked[0].json() == asked[1].json()
    at_once = await program.post("/v1/deliberations", json=QUESTION, headers=key)
    assert (at_once.status_code, at_once.json()) == (200, asked[0].json())
    other = await program.post("/v1/deliberations", json={**QUESTION, "task_description": "y"}, headers=key)
    assert (other.status_code, other.json()["errors"][0]["field"]) == (409, "Idempotency-Key")


async def test_a_key_that_may_be_a_name_is_the_name(
    program: httpx.AsyncClient, local_service: Running
) -> None:
    name = fresh()
    await program.post("/v1/deliberations?wait=20", json=QUESTION, headers={"Idempotency-Key": name})
    assert (await local_service.client.job(name).status()).status == "COMPLETED"


async def test_the_same_question_is_asked_again(program: httpx.AsyncClient, model: ModelServer) -> None:
    first = (await program.post("/v1/deliberations?wait=20", json={**QUESTION, "seed": 7})).json()
    again = (await program.post(f"{first['links']['self']}/rerun?wait=20")).json()
    assert again["task_id"] != first["task_id"]
    words = [
        [result["proposal"]["content"] for result in each["ending"]["results"]] for each in (first, again)
    ]
    assert words[0] == words[1]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "payload"),
        ({"task_description": "x", "num_agents": 0}, "num_agents"),
        ({"task_description": "x", "num_agents": "many"}, "num_agents"),
        ({"task_description": "x", "nun_agents": 3}, "nun_agents"),
        ({"task_description": "x", "task_id": "mine"}, "task_id"),
        ({"task_description": "x", "select": "best"}, "select"),
        ({"task_description": ""}, "task_description"),
    ],
)
async def test_each_wrong_field_is_named(
    program: httpx.AsyncClient, body: dict[str, Any], field: str
) -> None:
    refused = await program.post("/v1/deliberations", json=body)
    assert (refused.status_code, refused.headers["content-type"]) == (422, "application/problem+json")
    assert field in [error["field"] for error in refused.json()["errors"]]


async def test_who_prefers_it_may_send_fields_that_are_not_known(program: httpx.AsyncClient) -> None:
    asked = await program.post(
        "/v1/deliberations", json={**QUESTION, "colour": "red"}, headers={"Prefer": "handling=lenient"}
    )
    assert asked.status_code == 202


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 422),
        (b"\xff", "application/json", 422),
        (b"[]", "application/json", 422),
        (b"[" * 100_000, "application/json", 422),
        (b"null", "application/json", 422),
        (json.dumps(QUESTION).encode(), "text/plain", 415),
        (json.dumps(QUESTION).encode(), "", 415),
        (b"x" * (MAX_REQUEST_BYTES + 1), "application/json", 413),
    ],
)
async def test_a_body_that_cannot_be_used_is_refused_by_its_kind(
    program: httpx.AsyncClient, content: bytes, kind: str, status: int
) -> None:
    refused = await program.post(
        "/v1/deliberations", content=content, headers={"Content-Type": kind} if kind else {}
    )
    assert (refused.status_code, refused.headers["content-type"]) == (status, "application/problem+json")


@pytest.mark.parametrize("name", ["nobody", "d-99999999", "a b", "%2e%2e", "x" * 65, "*", ">", "a.b"])
async def test_what_was_never_asked_is_not_found(program: httpx.AsyncClient, name: str) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/events"), ("POST", "/rerun")):
        found = await program.request(method, f"/v1/deliberations/{name}{path}")
        assert found.status_code == 404, (method, path, found.text)


@pytest.mark.parametrize("wait", ["-1", "61", "soon", "nan", "inf", ""])
async def test_a_wait_that_is_no_wait_is_refused(program: httpx.AsyncClient, wait: str) -> None:
    refused = await program.post(f"/v1/deliberations?wait={wait}", json=QUESTION)
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "wait")


async def test_paths_and_methods_that_there_are_not_are_said_as_problems(program: httpx.AsyncClient) -> None:
    assert (await program.get("/v2")).json()["status"] == 404
    assert (await program.put("/v1/deliberations")).json()["status"] == 405


async def test_the_trace_of_the_caller_goes_on(program: httpx.AsyncClient, model: ModelServer) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    await program.post("/v1/deliberations?wait=20", json=QUESTION, headers={"traceparent": trace})
    assert (await model.seen())["latest"][-1]["traceparent"] == trace


# ── tenants ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_tenant_sees_its_own_only(local_service: Running, model: ModelServer, tmp_path: Path) -> None:
    file = tenants_file(tmp_path)
    async with door(local_service, TOKENS["acme"], gateway_tenants=file) as program:
        asked = await program.post(
            "/v1/deliberations?wait=20", json=QUESTION, headers={"Idempotency-Key": "k"}
        )
        where, name = asked.headers["location"], asked.json()["task_id"]
        assert name.startswith("acme-")
        other = {"Authorization": f"Bearer {TOKENS['other']}"}
        for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/events"), ("POST", "/rerun")):
            assert (await program.request(method, where + path, headers=other)).status_code == 404
        listed = (await program.get("/v1/deliberations", headers=other)).json()["deliberations"]
        assert name not in [line["task_id"] for line in listed]
        listed = (await program.get("/v1/deliberations")).json()["deliberations"]
        assert name in [line["task_id"] for line in listed]
        assert all(line["task_id"].startswith("acme-") for line in listed)
        mine = await program.post(
            "/v1/deliberations", json=QUESTION, headers={"Idempotency-Key": "k", **other}
        )
        assert mine.json()["task_id"].startswith("other-")


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer x"}, {"Authorization": "Basic eDp4"}, {"Authorization": "Bearer"}],
)
async def test_without_a_token_that_is_known_nothing_is_told(
    local_service: Running, tmp_path: Path, headers: dict[str, str]
) -> None:
    async with door(local_service, gateway_tenants=tenants_file(tmp_path)) as program:
        for path in ("/v1/deliberations", "/v1/deliberations/x", "/v1/models", "/v1/chat/completions", "/v2"):
            refused = await program.get(path, headers=headers)
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert (await program.get("/livez")).status_code == 200


async def test_a_token_in_a_url_is_refused_also_a_right_one(
    local_service: Running, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with door(local_service, TOKENS["acme"], gateway_tenants=tenants_file(tmp_path)) as program:
        refused = await program.get("/v1/deliberations", params={"access_token": TOKENS["acme"]})
    assert refused.status_code == 400
    assert TOKENS["acme"] not in refused.text + "".join(
        record.getMessage() for record in caplog.records if record.name.startswith(("parley", "uvicorn"))
    )


async def test_more_than_a_tenant_may_ask_is_told_when_to_come_again(
    local_service: Running, model: ModelServer, tmp_path: Path
) -> None:
    await model.behave(faults={"hang": 1.0})
    file = tenants_file(tmp_path, in_flight=2, requests_per_second=1000)
    async with door(local_service, TOKENS["acme"], gateway_tenants=file) as program:
        asked = [
            await program.post("/v1/deliberations", json={**QUESTION, "timeout_seconds": 60})
            for _ in range(3)
        ]
        assert [each.status_code for each in asked] == [202, 202, 429]
        assert int(asked[2].headers["retry-after"]) >= 1
        for each in asked[:2]:
            await program.delete(each.headers["location"])
            await program.get(each.headers["location"], params={"wait": 20})

        async def accepted() -> bool:
            asked = await program.post("/v1/deliberations", json={**QUESTION, "timeout_seconds": 1})
            return asked.status_code == 202

        await until(accepted, "one more may be asked")
    file = tenants_file(tmp_path, requests_per_second=2)
    async with door(local_service, TOKENS["acme"], gateway_tenants=file) as program:
        seen = [(await program.get("/v1/models")).status_code for _ in range(6)]
        assert seen.count(429) >= 3


async def test_the_tokens_of_a_day_are_counted(
    local_service: Running, model: ModelServer, tmp_path: Path
) -> None:
    file = tenants_file(tmp_path, tokens_per_day=1)
    async with door(local_service, TOKENS["acme"], gateway_tenants=file) as program:
        assert (await program.post("/v1/deliberations?wait=20", json=QUESTION)).status_code == 200

        async def refusal() -> httpx.Response | None:
            answer = await program.post("/v1/deliberations", json=QUESTION)
            return answer if answer.status_code == 429 else None

        refused = present(await until(refusal, "no tokens are left"))
        assert int(refused.headers["retry-after"]) > 86_000


async def test_a_program_of_another_site_is_kept_out(program: httpx.AsyncClient) -> None:
    """A browser whose page has turned its name to this machine (DNS rebinding) names its own site."""
    for host, status in (
        ("evil.example:80", 421), ("evil.example", 421), ("localhost.evil.example:8470", 421), ("", 421),
        ("localhost", 200), ("localhost:8470", 200), ("127.0.0.1:1", 200), ("[::1]:8470", 200), ("[::1]", 200),
    ):  # fmt: skip
        assert (await program.get("/v1/deliberations", headers={"Host": host})).status_code == status, host
