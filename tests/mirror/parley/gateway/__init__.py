"""A real gateway over a real service; programs that speak HTTP or gRPC to it."""

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.rpc import error_details_pb2, status_pb2

from parley.gateway.grpc_stubs import orchestrator_pb2 as pb
from parley.gateway.grpc_stubs.orchestrator_pb2_grpc import OrchestratorServiceStub
from parley.gateway.running import gateway
from parley.gateway.tenants import hash_of
from parley.settings import Settings
from tests.harness import Running

GRPC_QUESTION: dict[str, Any] = {"task_description": "x", "num_agents": 2}
TOKENS = {"acme": "parley_acme", "other": "parley_other"}


def tenants_file(folder: Path, **more: Any) -> Path:
    """Two tenants; `more`: bounds of the first."""
    bounds = "".join(f"{name} = {value}\n" for name, value in more.items())
    path = folder / "tenants.toml"
    path.write_text(
        f'[tenants.acme]\ntokens = ["{hash_of(TOKENS["acme"])}"]\n{bounds}\n'
        f'[tenants.other]\ntokens = ["{hash_of(TOKENS["other"])}"]\n'
    )
    return path


@asynccontextmanager
async def door(
    service: Running, token: str | None = None, **settings: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway of its own, and a program before it."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with (
        gateway(_settings(service, settings)) as at,
        httpx.AsyncClient(base_url=at.http_url, headers=headers, timeout=30) as program,
    ):
        yield program


@dataclass(frozen=True, slots=True)
class GrpcProgram:
    """Any: the generated stub has no types."""

    stub: Any
    channel: grpc.aio.Channel
    target: str


@asynccontextmanager
async def grpc_door(service: Running, **settings: Any) -> AsyncIterator[GrpcProgram]:
    """A gateway of its own, and a program before it that sends no token."""
    async with (
        gateway(_settings(service, settings)) as at,
        grpc.aio.insecure_channel(at.grpc_target) as channel,
    ):
        yield GrpcProgram(OrchestratorServiceStub(channel), channel, at.grpc_target)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """The metadata of a call."""
    return (("authorization", f"Bearer {token}"),)


async def ask(program: GrpcProgram, **fields: Any) -> str:
    answer = await program.stub.Deliberate(pb.DeliberateRequest(**{**GRPC_QUESTION, **fields}))
    assert answer.status == "SUBMITTED"
    return str(answer.task_id)


async def result(program: GrpcProgram, task_id: str, **fields: Any) -> Any:
    request = pb.GetDeliberationResultRequest(task_id=task_id, wait_seconds=20, **fields)
    return await program.stub.GetDeliberationResult(request)


async def refusal(call: Awaitable[Any]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as told:
        await call
    return told.value


def _details(error: grpc.aio.AioRpcError, kind: Any) -> Any:
    """The google.rpc message of this kind; an empty one if there is none."""
    found = kind()
    for name, value in error.trailing_metadata():
        if name == "grpc-status-details-bin":
            for each in status_pb2.Status.FromString(value).details:
                if each.Is(kind.DESCRIPTOR):
                    each.Unpack(found)
    return found


def fields_of(error: grpc.aio.AioRpcError) -> list[str]:
    return [each.field for each in _details(error, error_details_pb2.BadRequest).field_violations]


def retry_seconds(error: grpc.aio.AioRpcError) -> float:
    return float(_details(error, error_details_pb2.RetryInfo).retry_delay.ToTimedelta().total_seconds())


def _settings(service: Running, changed: dict[str, Any]) -> Settings:
    return service.settings.model_copy(update={"gateway_port": 0, "gateway_grpc_port": 0, **changed})
