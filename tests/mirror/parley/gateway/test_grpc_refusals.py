"""What the gRPC door refuses: each kind of error has its status code, and says which field or when to come again."""

import json
from collections.abc import Awaitable
from pathlib import Path
from random import Random, randrange
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from parley.broker.core.messages import MAX_REQUEST_BYTES
from parley.broker.jetstream.embedded import EmbeddedNats
from parley.gateway import grpc_methods
from parley.gateway.grpc_stubs import orchestrator_pb2 as pb
from tests.harness import ModelServer, Running, fresh
from tests.mirror.parley.gateway import GRPC_QUESTION as QUESTION
from tests.mirror.parley.gateway import (
    TOKENS,
    GrpcProgram,
    ask,
    bearer,
    fields_of,
    grpc_door,
    refusal,
    result,
    retry_seconds,
    tenants_file,
)

COMPLETED = pb.DELIBERATION_STATUS_COMPLETED


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"status": [0]}, "status"),
        ({"status": [17]}, "status"),
        ({"since": "yesterday"}, "since"),
        ({"limit": 201}, "limit"),
        ({"limit": -1}, "limit"),
        ({"page_token": "x"}, "page_token"),
    ],
)
async def test_a_wrong_condition_is_named(
    grpc_program: GrpcProgram, fields: dict[str, Any], name: str
) -> None:
    refused = await refusal(grpc_program.stub.ListDeliberations(pb.ListDeliberationsRequest(**fields)))
    assert (refused.code(), fields_of(refused)) == (grpc.StatusCode.INVALID_ARGUMENT, [name])


# ── what is refused ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"task_description": ""}, "payload"),
        ({"num_agents": -1}, "num_agents"),
        ({"num_agents": 257}, "num_agents"),
        ({"select": "best"}, "select"),
        ({"timeout_seconds": float("nan")}, "timeout_seconds"),
        ({"timeout_seconds": float("inf")}, "timeout_seconds"),
        ({"constraints": pb.TaskConstraints(max_iterations=-1)}, "constraints.max_iterations"),
        ({"idempotency_key": "x" * 256}, "idempotency_key"),
        ({"request_json": b"{"}, "request_json"),
        ({"request_json": b"[]"}, "request_json"),
        ({"request_json": b"\xff"}, "request_json"),
        ({"request_json": b"[" * 100_000}, "request_json"),
        ({"request_json": b'{"num_agents": 3}'}, "num_agents"),
        ({"request_json": b'{"nun_agents": 3}'}, "nun_agents"),
        ({"request_json": b'{"task_id": "mine"}'}, "task_id"),
    ],
)
async def test_each_wrong_field_is_named(
    grpc_program: GrpcProgram, fields: dict[str, Any], name: str
) -> None:
    request = pb.DeliberateRequest(**{**QUESTION, **fields})
    refused = await refusal(grpc_program.stub.Deliberate(request))
    assert (refused.code(), fields_of(refused)) == (grpc.StatusCode.INVALID_ARGUMENT, [name])
    assert refused.details()


async def test_a_long_complaint_reaches_the_caller(grpc_program: GrpcProgram) -> None:
    more = json.dumps({"é" * 60 + str(n): 1 for n in range(100)})
    request = pb.DeliberateRequest(**QUESTION, request_json=more.encode())
    refused = await refusal(grpc_program.stub.Deliberate(request))
    assert (refused.code(), len(fields_of(refused))) == (grpc.StatusCode.INVALID_ARGUMENT, 8)


async def test_a_field_that_is_not_known_is_named_by_its_number(grpc_program: GrpcProgram) -> None:
    # Field 99, varint 1.
    newer = pb.DeliberateRequest.FromString(
        pb.DeliberateRequest(**QUESTION).SerializeToString() + b"\x98\x06\x01"
    )
    refused = await refusal(grpc_program.stub.Deliberate(newer))
    assert (refused.code(), fields_of(refused)) == (grpc.StatusCode.INVALID_ARGUMENT, ["99"])


async def test_bytes_that_are_no_message_are_refused(grpc_program: GrpcProgram) -> None:
    for method in ("Deliberate", "GetDeliberationResult", "CancelDeliberation", "ListDeliberations"):
        call: Any = grpc_program.channel.unary_unary(f"/{grpc_methods.SERVICE}/{method}")
        refused = await refusal(call(b"\xff\xff"))
        assert (refused.code(), fields_of(refused)) == (grpc.StatusCode.INVALID_ARGUMENT, ["payload"])


async def code_of(call: Awaitable[Any]) -> grpc.StatusCode:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_no_bytes_are_a_bug(grpc_program: GrpcProgram, model: ModelServer) -> None:
    """Real requests with bytes changed, removed and put in."""
    chance, seed = Random(), randrange(2**32)
    chance.seed(seed)
    constraints = pb.TaskConstraints(rubric="r", requirements=["q"], metadata={"a": "b"}, max_iterations=1)
    requests = {
        "Deliberate": pb.DeliberateRequest(
            **QUESTION,
            constraints=constraints,
            select="judge",
            request_json=b'{"seed": 1}',
            timeout_seconds=1,
        ),
        "GetDeliberationResult": pb.GetDeliberationResultRequest(task_id="nobody", include_ending_json=True),
        "CancelDeliberation": pb.CancelDeliberationRequest(task_id="nobody", reason="r"),
        "ListDeliberations": pb.ListDeliberationsRequest(
            status=[COMPLETED], role="DEV", since="2026-01-01T00:00:00Z", limit=2, page_token="x"
        ),
    }
    expected = {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
    for name, request in requests.items():
        call: Any = grpc_program.channel.unary_unary(f"/{grpc_methods.SERVICE}/{name}")
        for _ in range(250):
            changed = bytearray(request.SerializeToString())
            for _ in range(chance.randint(1, 4)):
                place = chance.randrange(len(changed))
                changed[place : place + chance.randint(0, 2)] = chance.randbytes(chance.randint(0, 2))
            code = await code_of(call(bytes(changed)))
            assert code in expected, f"seed {seed}: {name}: {bytes(changed)!r}"
    page = await grpc_program.stub.ListDeliberations(pb.ListDeliberationsRequest(limit=200))
    for line in page.deliberations:
        await result(grpc_program, line.task_id)


@pytest.mark.parametrize("name", ["", "nobody", "d-99999999", "a b", "x" * 65, "*", ">", "a.b"])
async def test_what_was_never_stored_is_not_found(grpc_program: GrpcProgram, name: str) -> None:
    for code in await codes_of(grpc_program, name):
        assert code is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("after", ["x", "2.A", "1." + "A" * 5_000])
async def test_what_is_no_id_of_an_event_is_refused(grpc_program: GrpcProgram, after: str) -> None:
    call = grpc_program.stub.StreamDeliberation(pb.StreamDeliberationRequest(task_id=fresh(), after=after))
    refused = await refusal(call.read())
    assert (refused.code(), fields_of(refused)) == (grpc.StatusCode.INVALID_ARGUMENT, ["after"])


@pytest.mark.parametrize("wait", [-1.0, 61.0, float("nan"), float("inf")])
async def test_a_wait_that_is_no_wait_is_refused(grpc_program: GrpcProgram, wait: float) -> None:
    request = pb.GetDeliberationResultRequest(task_id=fresh(), wait_seconds=wait)
    refused = await refusal(grpc_program.stub.GetDeliberationResult(request))
    assert (refused.code(), fields_of(refused)) == (grpc.StatusCode.INVALID_ARGUMENT, ["wait_seconds"])


async def test_a_message_over_the_bound_is_refused(grpc_program: GrpcProgram) -> None:
    request = pb.DeliberateRequest(request_json=b" " * MAX_REQUEST_BYTES)
    refused = await refusal(grpc_program.stub.Deliberate(request))
    assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await result(grpc_program, await ask(grpc_program))  # others are answered


async def test_without_a_service_a_caller_is_told_to_come_again(
    local_service: Running, empty_nats: EmbeddedNats
) -> None:
    async with grpc_door(local_service, nats_url=empty_nats.url) as grpc_program:
        for call in (
            grpc_program.stub.Deliberate(pb.DeliberateRequest(**QUESTION)),
            grpc_program.stub.GetDeliberationResult(pb.GetDeliberationResultRequest(task_id="x")),
            grpc_program.stub.ListDeliberations(pb.ListDeliberationsRequest()),
        ):
            refused = await refusal(call)
            assert refused.code() is grpc.StatusCode.UNAVAILABLE
            assert retry_seconds(refused) >= 1
            assert "nats://" not in f"{refused.details()}"


# ── tenants ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def codes_of(grpc_program: GrpcProgram, name: str, **more: Any) -> list[grpc.StatusCode]:
    """How each method answers that is about one deliberation."""
    stub = grpc_program.stub
    calls = (
        stub.GetDeliberationResult(pb.GetDeliberationResultRequest(task_id=name), **more),
        stub.CancelDeliberation(pb.CancelDeliberationRequest(task_id=name), **more),
        stub.StreamDeliberation(pb.StreamDeliberationRequest(task_id=name), **more).read(),
    )
    return [(await refusal(call)).code() for call in calls]


async def test_a_tenant_sees_its_own_only(local_service: Running, model: ModelServer, tmp_path: Path) -> None:
    async with grpc_door(local_service, gateway_tenants=tenants_file(tmp_path)) as grpc_program:
        acme, other = (bearer(TOKENS[name]) for name in ("acme", "other"))
        request = pb.DeliberateRequest(**QUESTION, idempotency_key="k")
        name = (await grpc_program.stub.Deliberate(request, metadata=acme)).task_id
        assert name.startswith("acme-")
        assert set(await codes_of(grpc_program, name, metadata=other)) == {grpc.StatusCode.NOT_FOUND}
        assert (await grpc_program.stub.Deliberate(request, metadata=other)).task_id.startswith("other-")
        found = await grpc_program.stub.GetDeliberationResult(
            pb.GetDeliberationResultRequest(task_id=name, wait_seconds=20), metadata=acme
        )
        assert found.status == COMPLETED
        for whose, metadata in (("acme-", acme), ("other-", other)):
            page = await grpc_program.stub.ListDeliberations(pb.ListDeliberationsRequest(), metadata=metadata)
            assert page.deliberations
            assert all(each.task_id.startswith(whose) for each in page.deliberations)


@pytest.mark.parametrize("given", ["", "Bearer x", "Basic eDp4", "Bearer"])
async def test_without_a_token_that_is_known_nothing_is_told(
    local_service: Running, tmp_path: Path, given: str
) -> None:
    metadata = (("authorization", given),) if given else ()
    async with grpc_door(local_service, gateway_tenants=tenants_file(tmp_path)) as grpc_program:
        codes = await codes_of(grpc_program, "acme-x", metadata=metadata)
        assert set(codes) == {grpc.StatusCode.UNAUTHENTICATED}
        refused = await refusal(
            grpc_program.stub.Deliberate(pb.DeliberateRequest(**QUESTION), metadata=metadata)
        )
        assert refused.code() is grpc.StatusCode.UNAUTHENTICATED
        health = health_pb2_grpc.HealthStub(grpc_program.channel)
        assert (await health.Check(health_pb2.HealthCheckRequest())).status


async def test_more_than_a_tenant_may_ask_is_told_when_to_come_again(
    local_service: Running, model: ModelServer, tmp_path: Path
) -> None:
    await model.behave(faults={"hang": 1.0})
    file = tenants_file(tmp_path, in_flight=1, requests_per_second=1000)
    acme = bearer(TOKENS["acme"])
    async with grpc_door(local_service, gateway_tenants=file) as grpc_program:
        request = pb.DeliberateRequest(**QUESTION, timeout_seconds=60)
        name = (await grpc_program.stub.Deliberate(request, metadata=acme)).task_id
        refused = await refusal(grpc_program.stub.Deliberate(request, metadata=acme))
        assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert retry_seconds(refused) >= 1
        stopping = pb.CancelDeliberationRequest(task_id=name)
        await grpc_program.stub.CancelDeliberation(stopping, metadata=acme)
        await grpc_program.stub.GetDeliberationResult(
            pb.GetDeliberationResultRequest(task_id=name, wait_seconds=20), metadata=acme
        )
    file = tenants_file(tmp_path, requests_per_second=2)
    async with grpc_door(local_service, gateway_tenants=file) as grpc_program:
        for _ in range(2):
            await grpc_program.stub.ListDeliberations(pb.ListDeliberationsRequest(), metadata=acme)
        refused = await refusal(
            grpc_program.stub.ListDeliberations(pb.ListDeliberationsRequest(), metadata=acme)
        )
        assert (refused.code(), 0 < retry_seconds(refused) <= 0.5) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            True,
        )
