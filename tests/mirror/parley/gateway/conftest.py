"""One gateway for all tests that change nothing of it, and a program before it."""

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.harness import ModelServer, Running
from tests.mirror.parley.gateway import GrpcProgram, door, grpc_door


@pytest.fixture(scope="session")
async def opened(local_service: Running) -> AsyncIterator[httpx.AsyncClient]:
    async with door(local_service) as client:
        yield client


@pytest.fixture
def program(opened: httpx.AsyncClient, model: ModelServer) -> httpx.AsyncClient:
    """Each test finds the model as new."""
    return opened


@pytest.fixture(scope="session")
async def opened_grpc(local_service: Running) -> AsyncIterator[GrpcProgram]:
    async with grpc_door(local_service) as started:
        yield started


@pytest.fixture
def grpc_program(opened_grpc: GrpcProgram, model: ModelServer) -> GrpcProgram:
    """As `program`."""
    return opened_grpc
