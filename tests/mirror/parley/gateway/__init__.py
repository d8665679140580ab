"""A real gateway over a real service; programs that speak HTTP to it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from parley.gateway.running import gateway
from parley.gateway.tenants import hash_of
from tests.harness import Running

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
    changed = service.settings.model_copy(update={"gateway_port": 0, **settings})
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with (
        gateway(changed) as url,
        httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as program,
    ):
        yield program
