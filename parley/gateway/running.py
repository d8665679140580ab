"""Runs the gateway of this process: a client, the application, and the port."""

import ipaddress
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from parley.broker.core.errors import SettingsError
from parley.client import connect_with
from parley.gateway import http_server
from parley.gateway.application import application
from parley.gateway.panels import PanelModel, read_panels
from parley.gateway.tenants import TenantsFile
from parley.settings import Settings


def check_gateway(settings: Settings) -> None:
    """Raises SettingsError for what cannot go well, before anything is started."""
    _tenants(settings)
    _panels(settings)
    try:
        http_server.open_socket(settings.gateway_host, settings.gateway_port).close()
    except OSError as error:
        raise _busy(settings, error) from error


@asynccontextmanager
async def gateway(settings: Settings) -> AsyncIterator[str]:
    """Listen until the block ends; yields the URL. Raises SettingsError, Unavailable."""
    tenants, panels = _tenants(settings), _panels(settings)
    is_local = _is_loopback(settings.gateway_host)
    async with connect_with(settings.nats_url, settings.nats_access) as client:
        app, accounts = application(client, tenants=tenants, panels=panels, is_local=is_local)
        try:
            opened = http_server.open_socket(settings.gateway_host, settings.gateway_port)
        except OSError as error:
            raise _busy(settings, error) from error
        try:
            async with http_server.listening(app, opened):
                yield _url(settings.gateway_host, opened.getsockname()[1])
        finally:
            opened.close()
            await accounts.close()


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


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


def _busy(settings: Settings, error: OSError) -> SettingsError:
    busy = f"cannot listen on {settings.gateway_host}:{settings.gateway_port} ({error.strerror})"
    return SettingsError([f"PARLEY_GATEWAY_PORT: {busy}; 0 takes a free port"])


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
