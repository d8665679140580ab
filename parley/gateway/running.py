"""Runs the gateway of this process: a client, the application, and the port."""

import ipaddress
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from parley.broker.core.errors import SettingsError
from parley.client import connect_with
from parley.gateway.application import application
from parley.gateway.http_server import listening
from parley.gateway.panels import read_panels
from parley.gateway.tenants import TenantsFile
from parley.settings import Settings


@asynccontextmanager
async def gateway(settings: Settings) -> AsyncIterator[str]:
    """Listen until the block ends; yields the URL. Raises SettingsError, Unavailable."""
    is_local = _is_loopback(settings.gateway_host)
    if not is_local and settings.gateway_tenants is None and not settings.gateway_open:
        remedy = "name a file of tenants with PARLEY_GATEWAY_TENANTS, or set PARLEY_GATEWAY_OPEN=true"
        open_to = f"{settings.gateway_host} lets other machines in, and nobody needs a token"
        raise SettingsError([f"PARLEY_GATEWAY_HOST: {open_to}; {remedy}"])
    try:
        tenants = TenantsFile(settings.gateway_tenants) if settings.gateway_tenants is not None else None
    except ValueError as error:
        raise SettingsError([f"PARLEY_GATEWAY_TENANTS: {error}"]) from None
    try:
        panels = read_panels(settings.gateway_panels) if settings.gateway_panels is not None else {}
    except ValueError as error:
        raise SettingsError([f"PARLEY_GATEWAY_PANELS: {error}"]) from None
    async with connect_with(settings.nats_url, settings.nats_access) as client:
        app, accounts = application(client, tenants=tenants, panels=panels, is_local=is_local)
        try:
            async with _port(settings, app) as url:
                yield url
        finally:
            await accounts.close()


@asynccontextmanager
async def _port(settings: Settings, app: object) -> AsyncIterator[str]:
    opening = listening(app, settings.gateway_host, settings.gateway_port)  # type: ignore[arg-type]
    try:
        url = await opening.__aenter__()
    except OSError as error:
        busy = f"cannot listen on {settings.gateway_host}:{settings.gateway_port} ({error.strerror})"
        raise SettingsError([f"PARLEY_GATEWAY_PORT: {busy}; 0 takes a free port"]) from error
    try:
        yield url
    finally:
        await opening.__aexit__(None, None, None)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
