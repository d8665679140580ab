"""The trace of a program that uses OpenTelemetry goes with its question."""

import subprocess
import sys

from opentelemetry.sdk.trace import TracerProvider

from parley.broker.jetstream import topology
from parley.current_trace import current_trace
from tests.harness import ModelServer, Running


async def test_the_current_span_is_the_parent_of_what_is_asked(
    local_service: Running, model: ModelServer
) -> None:
    assert current_trace() == {}
    with TracerProvider().get_tracer("tests").start_as_current_span("asks") as span:
        job = await local_service.client.submit("x", agents=1)
    await job.ending()
    trace = f"{span.get_span_context().trace_id:032x}"
    asked = await local_service.all_of(topology.REQUESTED, topology.REQUESTS)
    assert trace in (asked[-1].headers or {})["traceparent"]
    assert trace in (await model.seen())["latest"][-1]["traceparent"]


def test_who_does_not_use_it_does_not_load_it() -> None:
    code = "import sys, parley.current_trace as t; assert t.current_trace() == {}; assert 'opentelemetry' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
