"""Taskiq's task, for its workers. BENCH_NATS_URL, BENCH_REDIS_URL and BENCH_MODEL_URL are the addresses."""

import os

from taskiq import TaskiqEvents, TaskiqState

from benchmarks.peers.taskiq_nats import CALLS, broker_of
from benchmarks.question import MODEL, TEMPERATURE, prompt
from parley.workers.model.endpoint_address import Endpoint
from parley.workers.model.model_client import ChatRequest, ModelClient

_endpoint = Endpoint(os.environ["BENCH_MODEL_URL"])
_request = ChatRequest(MODEL, prompt(), temperature=TEMPERATURE)
broker = broker_of(os.environ["BENCH_NATS_URL"], os.environ["BENCH_REDIS_URL"])


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def _open(state: TaskiqState) -> None:
    state.model = ModelClient(connections=CALLS)
    await state.model.__aenter__()


@broker.on_event(TaskiqEvents.WORKER_SHUTDOWN)
async def _close(state: TaskiqState) -> None:
    await state.model.__aexit__(None, None, None)


@broker.task(task_name="ask")
async def ask(_question: str) -> str:
    model: ModelClient = broker.state.model
    return (await model.complete(_endpoint, _request, seconds=30.0)).content
