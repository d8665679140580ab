"""The trace that the program is in, for those that use OpenTelemetry. Part of the client."""

import sys


def current_trace() -> dict[str, str]:
    """The header `traceparent` of the current span; empty without one, and for a program that has not loaded
    OpenTelemetry."""
    if "opentelemetry.trace" not in sys.modules:
        return {}
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    headers: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(headers)
    return {name: value for name, value in headers.items() if name == "traceparent"}
