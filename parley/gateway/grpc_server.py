"""Listens for gRPC, with a limit on all that a stranger can send or hold open. Health and reflection need no token.

No browser speaks plain HTTP/2, so a page of another site cannot reach this port: there is no check of its host.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from parley.broker.core.messages import MAX_REQUEST_BYTES
from parley.gateway.grpc_methods import SERVICE, handlers
from parley.gateway.state import GatewayState

MAX_CONNECTIONS = 10_000
# Of all connections together; more are refused with RESOURCE_EXHAUSTED.
MAX_CALLS = 10_000
MAX_CALLS_OF_CONNECTION = 1_000
MAX_METADATA_BYTES = 32 * 1024
HANDSHAKE_SECONDS = 10
# Between two looks whether a silent caller is still there, and for its answer.
KEEPALIVE_SECONDS, KEEPALIVE_ANSWER_SECONDS = 30, 10
IDLE_SECONDS = 300
# A connection is told to go after an hour, and closed with what still runs on it ten minutes later. A program that follows
# a deliberation then goes on behind its last event, over another one.
CONNECTION_SECONDS, LAST_CALLS_SECONDS = 3_600, 600
STOP_SECONDS = 10.0
# Between two looks whether NATS is there.
HEALTH_SECONDS = 0.5

_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_send_message_length", -1),  # the caller has a limit of its own
    ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS),
    ("grpc.max_concurrent_streams", MAX_CALLS_OF_CONNECTION),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS * 1000),
    ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_ANSWER_SECONDS * 1000),
    ("grpc.max_connection_idle_ms", IDLE_SECONDS * 1000),
    ("grpc.max_connection_age_ms", CONNECTION_SECONDS * 1000),
    ("grpc.max_connection_age_grace_ms", LAST_CALLS_SECONDS * 1000),
    # As many programs do; grpc's own limit of five minutes would cut them.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.so_reuseport", 0),  # with it, a second gateway on the port would be no error
)


def server() -> grpc.aio.Server:
    """To be given a port, and then to `serving`."""
    # This process forks only to start a program. Without this, grpc prints a line of its own each time.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
    return grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=MAX_CALLS)


@asynccontextmanager
async def serving(listening: grpc.aio.Server, state: GatewayState) -> AsyncIterator[None]:
    """Answer until the block ends; running calls then have STOP_SECONDS to end."""
    listening.add_generic_rpc_handlers((handlers(state),))
    healthy = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, listening)
    reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), listening)
    await _tell(healthy, state)
    await listening.start()
    telling = asyncio.create_task(_keep_telling(healthy, state), name="gateway's health")
    try:
        yield
    finally:
        telling.cancel()
        await asyncio.wait({telling})
        await healthy.enter_graceful_shutdown()
        await listening.stop(STOP_SECONDS)


async def _keep_telling(healthy: health.aio.HealthServicer, state: GatewayState) -> None:
    while True:
        await asyncio.sleep(HEALTH_SECONDS)
        await _tell(healthy, state)


async def _tell(healthy: health.aio.HealthServicer, state: GatewayState) -> None:
    """SERVING while there is a connection to NATS, for the service and for the server as a whole."""
    kinds = health_pb2.HealthCheckResponse
    status = kinds.SERVING if state.client.connected else kinds.NOT_SERVING
    for name in ("", SERVICE):
        await healthy.set(name, status)
