"""Runs the gateway of this process: a client, and a port for HTTP and one for gRPC."""

import ipaddress
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from parley.broker.core.errors import SettingsError
from parley.client import connect_with
from parley.gateway import grpc_server, http_server
from parley.gateway.application import application
from parley.gateway.caller import Accounts
from parley.gateway.listing import Listing
from parley.gateway.panels import PanelModel, read_panels
from parley.gateway.state import GatewayState
from parley.gateway.tenants import TenantsFile
from parley.settings import Settings


@dataclass(frozen=True, slots=True)
class GatewayAddresses:
    """`http_url`: `http://127.0.0.1:8470`. `grpc_target`, as gRPC's clients take it: `127.0.0.1:8471`."""

    http_url: str
    grpc_target: str


def check_gateway(settings: Settings) -> None:
    """Raises SettingsError for what cannot go well, before anything is started."""
    _tenants(settings)
    _panels(settings)
    _open(settings).close()
    _check_grpc_port(settings)


@asynccontextmanager
async def gateway(settings: Settings) -> AsyncIterator[GatewayAddresses]:
    """Listen until the block ends. Raises SettingsError, Unavailable."""
    tenants, panels = _tenants(settings), _panels(settings)
    host = settings.gateway_host
    async with connect_with(settings.nats_url, settings.nats_access) as client:
        state = GatewayState(client, tenants, Accounts(), Listing(client))
        app = application(state, panels, is_local=_is_loopback(host))
        opened = _open(settings)
        try:
            # `/readyz` answers once both ports are open.
            async with _grpc(settings, state) as target, http_server.listening(app, opened):
                yield GatewayAddresses(f"http://{_at(host, opened.getsockname()[1])}", target)
        finally:
            opened.close()
            await state.accounts.close()


def _open(settings: Settings) -> socket.socket:
    try:
        return http_server.open_socket(settings.gateway_host, settings.gateway_port)
    except OSError as error:
        raise _busy(
            "PARLEY_GATEWAY_PORT", settings.gateway_host, settings.gateway_port, error.strerror
        ) from error


def _check_grpc_port(settings: Settings) -> None:
    # grpc itself says of a taken port only that it could not bind, and prints a line of its own.
    try:
        http_server.open_socket(settings.gateway_host, settings.gateway_grpc_port).close()
    except OSError as error:
        raise _busy_grpc(settings, error.strerror) from error


@asynccontextmanager
async def _grpc(settings: Settings, state: GatewayState) -> AsyncIterator[str]:
    _check_grpc_port(settings)
    server = grpc_server.server()
    try:
        port = server.add_insecure_port(_at(settings.gateway_host, settings.gateway_grpc_port))
    except RuntimeError as error:  # taken since
        raise _busy_grpc(settings, "it is taken") from error
    async with grpc_server.serving(server, state):
        yield _at(settings.gateway_host, port)


def _at(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _tenants(settings: Settings) -> TenantsFile | None:
    """Raises SettingsError, also where other machines would need no token and nobody has said so."""
    if settings.gateway_tenants is None:
        if not _is_loopback(settings.gateway_host) and not settings.gateway_open:
            remedy = "name a file of tenants with PARLEY_GATEWAY_TENANTS, or set PARLEY_GATEWAY_OPEN=true"
            open_to = f"{settings.gateway_host} lets other machines in, and nobody needs a token"
            raise SettingsError([f"PARLEY_GATEWAY_HOST: {open_to}; {remedy}"])
        return None
    try:
        return TenantsFile(settings.gateway_tenants)
    except ValueError as error:
        raise SettingsError([f"PARLEY_GATEWAY_TENANTS: {error}"]) from None


def _panels(settings: Settings) -> dict[str, PanelModel]:
    try:
        return read_panels(settings.gateway_panels) if settings.gateway_panels is not None else {}
    except ValueError as error:
        raise SettingsError([f"PARLEY_GATEWAY_PANELS: {error}"]) from None


def _busy_grpc(settings: Settings, why: str | None) -> SettingsError:
    return _busy("PARLEY_GATEWAY_GRPC_PORT", settings.gateway_host, settings.gateway_grpc_port, why)


def _busy(variable: str, host: str, port: int, why: str | None) -> SettingsError:
    return SettingsError([f"{variable}: cannot listen on {host}:{port} ({why}); 0 takes a free port"])


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
