"""The gRPC door: the same questions, tenants and bounds as over HTTP."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_tools import protoc

from parley.broker.jetstream.embedded import EmbeddedNats
from parley.gateway import grpc_methods, grpc_server
from parley.gateway.grpc_stubs import orchestrator_pb2 as pb
from tests.harness import ModelServer, Running, fresh, until
from tests.mirror.parley.gateway import GRPC_QUESTION as QUESTION
from tests.mirror.parley.gateway import (
    GrpcProgram,
    ask,
    fields_of,
    grpc_door,
    refusal,
    result,
    retry_seconds,
)

ROOT = Path(__file__).parents[4]
COMPLETED, FAILED = pb.DELIBERATION_STATUS_COMPLETED, pb.DELIBERATION_STATUS_FAILED
TIMEOUT, IN_PROGRESS = pb.DELIBERATION_STATUS_TIMEOUT, pb.DELIBERATION_STATUS_IN_PROGRESS


# ── ask, look, wait ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_classic_loop_submits_and_polls_until_the_end(grpc_program: GrpcProgram) -> None:
    stub = grpc_program.stub
    submitted = await stub.Deliberate(
        pb.DeliberateRequest(
            task_description="Write a factorial function",
            role="DEV",
            constraints=pb.TaskConstraints(
                rubric="Correct first", requirements=["Use type hints"], metadata={"language": "Python"}
            ),
            rounds=1,
            num_agents=3,
        )
    )
    assert (submitted.status, len(submitted.results), submitted.winner_id) == ("SUBMITTED", 0, "")
    seen = []
    while True:
        found = await stub.GetDeliberationResult(pb.GetDeliberationResultRequest(task_id=submitted.task_id))
        seen.append(found.status)
        if found.status >= COMPLETED:
            break
        await asyncio.sleep(0.01)
    assert seen == sorted(seen)
    assert (found.status, found.task_id, len(found.results)) == (COMPLETED, submitted.task_id, 3)
    assert (found.total_agents, found.received_count, found.failed_count, found.degraded) == (3, 3, 0, False)
    assert [each.proposal.author_id for each in found.results] == [f"agent-dev-00{n}" for n in (1, 2, 3)]
    assert all(each.proposal.content and each.proposal.created_at_ms for each in found.results)
    assert found.duration_ms > 0
    assert found.metadata.orchestrator_version


async def test_a_field_that_has_no_number_goes_as_json(grpc_program: GrpcProgram) -> None:
    more = {"answer_key": {"last": "line"}, "temperature": 0}
    name = await ask(
        grpc_program, select="vote", metadata={"order": "17"}, request_json=json.dumps(more).encode()
    )
    found = await result(grpc_program, name, include_ending_json=True)
    assert found.answer in [each.proposal.content for each in found.results]
    assert found.winner_id in [each.agent_id for each in found.results]
    assert dict(found.metadata.tags) == {"order": "17"}
    assert json.loads(found.ending_json)["selection"]["method"] == "vote"
    assert (await result(grpc_program, name)).ending_json == b""


async def test_a_deadline_of_the_deliberation_is_a_status_and_no_error(
    grpc_program: GrpcProgram, model: ModelServer
) -> None:
    await model.behave(faults={"hang": 1.0})
    name = await ask(grpc_program, timeout_seconds=0.5)
    found = await result(grpc_program, name)
    assert (found.status, len(found.results)) == (TIMEOUT, 0)
    assert found.error_message


async def test_one_is_stopped_and_cannot_be_stopped_again(
    grpc_program: GrpcProgram, model: ModelServer
) -> None:
    await model.behave(faults={"hang": 1.0})
    name = await ask(grpc_program, timeout_seconds=60)
    await model.runs(2)
    request = pb.CancelDeliberationRequest(task_id=name, reason="enough")
    stopped = await grpc_program.stub.CancelDeliberation(request)
    assert (stopped.task_id, stopped.status) == (name, IN_PROGRESS)
    found = await result(grpc_program, name)
    assert (found.status, "enough" in found.error_message) == (FAILED, True)
    again = await refusal(grpc_program.stub.CancelDeliberation(request))
    assert again.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_the_same_key_twice_is_one_deliberation(grpc_program: GrpcProgram) -> None:
    key = f"order 17/{fresh()}"
    names = {await ask(grpc_program, idempotency_key=key) for _ in range(2)}
    assert len(names) == 1
    await result(grpc_program, names.pop())
    request = pb.DeliberateRequest(task_description="y", idempotency_key=key)
    refused = await refusal(grpc_program.stub.Deliberate(request))
    assert (refused.code(), fields_of(refused)) == (grpc.StatusCode.ALREADY_EXISTS, ["idempotency_key"])


async def test_the_trace_of_the_caller_goes_on(grpc_program: GrpcProgram, model: ModelServer) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-02"
    request = pb.DeliberateRequest(**QUESTION)
    asked = await grpc_program.stub.Deliberate(request, metadata=(("traceparent", trace),))
    await result(grpc_program, asked.task_id)
    assert (await model.seen())["latest"][-1]["traceparent"] == trace


# ── events ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_events_come_as_they_happen_and_the_ending_last(grpc_program: GrpcProgram) -> None:
    name = await ask(grpc_program, num_agents=4)
    request = pb.StreamDeliberationRequest(task_id=name, include_ending_json=True)
    events = [event async for event in grpc_program.stub.StreamDeliberation(request)]
    assert [event.type for event in events] == ["phase", *["answer"] * 4, "ending"]
    assert len(events[0].agents) == 4
    assert all(event.result.proposal.content for event in events[1:-1])
    assert (events[-1].ending.status, len(events[-1].ending.results)) == (COMPLETED, 4)
    assert json.loads(events[-1].ending.ending_json)["task_id"] == name


async def test_another_gateway_goes_on_behind_the_last_event(
    grpc_program: GrpcProgram, local_service: Running, model: ModelServer
) -> None:
    await model.behave(latency_ms=200)
    name = await ask(grpc_program, num_agents=3)
    call = grpc_program.stub.StreamDeliberation(pb.StreamDeliberationRequest(task_id=name))
    first = [await call.read(), await call.read()]
    call.cancel()
    async with grpc_door(local_service) as other:
        request = pb.StreamDeliberationRequest(task_id=name, after=first[-1].id)
        rest = [event async for event in other.stub.StreamDeliberation(request)]
        told = [(event.type, event.agent_id) for event in (*first, *rest)]
        assert len(told) == len(set(told)) == 5
        request = pb.StreamDeliberationRequest(task_id=name, after=rest[-1].id)
        assert [event async for event in other.stub.StreamDeliberation(request)] == []


async def test_a_reader_that_does_not_read_holds_nothing(
    local_service: Running, model: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    following: list[int] = []
    original = grpc_methods.stream

    async def counted(*given: Any) -> AsyncIterator[Any]:
        following.append(1)
        try:
            async for message in original(*given):
                yield message
        finally:
            following.pop()

    monkeypatch.setattr(grpc_methods, "stream", counted)
    monkeypatch.setattr(grpc_methods, "READ_SECONDS", 0.3)
    await model.behave(tokens=20_000)
    async with grpc_door(local_service) as door:
        name = await ask(door, num_agents=8)
        assert (await result(door, name)).status == COMPLETED
        # Otherwise grpc would find out that it may send all at once.
        channel = grpc.aio.insecure_channel(door.target, [("grpc.http2.bdp_probe", 0)])
        call = type(door.stub)(channel).StreamDeliberation(pb.StreamDeliberationRequest(task_id=name))
        events = aiter(call)
        seen = [await anext(events)]
        await until(lambda: not following, "nothing is followed")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            seen += [event async for event in events]
        assert refused.value.code() is grpc.StatusCode.ABORTED
        await channel.close()
        request = pb.StreamDeliberationRequest(task_id=name, after=seen[-1].id)
        rest = [event async for event in door.stub.StreamDeliberation(request)]
        assert [event.type for event in (*seen, *rest)] == ["phase", *["answer"] * 8, "ending"]


# ── health, reflection ────────────────────────────────────────────────────────────────────────────────────────────


async def test_health_says_whether_nats_is_there(
    local_service: Running, empty_nats: EmbeddedNats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc_server, "HEALTH_SECONDS", 0.05)
    async with grpc_door(local_service, nats_url=empty_nats.url) as grpc_program:
        health = health_pb2_grpc.HealthStub(grpc_program.channel)
        status = health_pb2.HealthCheckResponse

        async def said(name: str) -> int:
            return int((await health.Check(health_pb2.HealthCheckRequest(service=name))).status)

        names = ("", grpc_methods.SERVICE)
        assert [await said(name) for name in names] == [status.SERVING] * 2
        assert (await refusal(said("other"))).code() is grpc.StatusCode.NOT_FOUND
        os.kill(empty_nats.pid, signal.SIGKILL)

        async def away() -> bool:
            return [await said(name) for name in names] == [status.NOT_SERVING] * 2

        await until(away, "NATS is said to be away")
        refused = await refusal(grpc_program.stub.Deliberate(pb.DeliberateRequest(**QUESTION)))
        assert refused.code() is grpc.StatusCode.UNAVAILABLE
        assert retry_seconds(refused) >= 1


async def test_reflection_describes_the_service(grpc_program: GrpcProgram) -> None:
    reflected = reflection_pb2_grpc.ServerReflectionStub(grpc_program.channel)
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=grpc_methods.SERVICE),
    ]
    names, file = [answer async for answer in reflected.ServerReflectionInfo(iter(asked))]
    found = {each.name for each in names.list_services_response.service}
    assert {grpc_methods.SERVICE, "grpc.health.v1.Health"} <= found
    assert pb.DESCRIPTOR.serialized_pb in file.file_descriptor_response.file_descriptor_proto


# ── the list ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_list_has_pages_and_conditions(grpc_program: GrpcProgram) -> None:
    order = fresh()
    names = [await ask(grpc_program, metadata={"order": order}) for _ in range(3)]
    for name in names:
        await result(grpc_program, name)
    token, seen = "", []
    while True:
        page = await grpc_program.stub.ListDeliberations(
            pb.ListDeliberationsRequest(
                status=[COMPLETED, FAILED],
                role="DEV",
                since="2026-01-01T00:00:00Z",
                metadata={"order": order},
                limit=2,
                page_token=token,
            )
        )
        assert all((each.status, each.received_count) == (COMPLETED, 2) for each in page.deliberations)
        seen += [each.task_id for each in page.deliberations]
        if not (token := page.next_page_token):
            break
    assert seen == names[::-1]
    nothing = pb.ListDeliberationsRequest(status=[TIMEOUT], metadata={"order": order})
    assert len((await grpc_program.stub.ListDeliberations(nothing)).deliberations) == 0


# ── the example ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_example_asks_without_parleys_package(grpc_program: GrpcProgram, tmp_path: Path) -> None:
    """Its code is generated from the .proto, as its first lines say."""
    proto, example = ROOT / "proto", ROOT / "examples/grpc_client.py"
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "grpc_python")]
    assert protoc.main(["protoc", f"-I{proto}", *outputs, str(proto / "orchestrator.proto")]) == 0
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(example), grpc_program.target, "Which is safer?", stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT, env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    lines = out.decode().splitlines()
    assert process.returncode == 0, lines
    assert lines[0].endswith(": SUBMITTED")
    assert lines[1].startswith("DELIBERATION_STATUS_COMPLETED")
    assert [line.partition(":")[0] for line in lines[2:]] == [f"agent-dev-00{n}" for n in (1, 2, 3)]
