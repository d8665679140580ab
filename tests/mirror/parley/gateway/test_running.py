"""The gateway as a process of its own: where it listens, whom it lets in, what it says of a wrong setting."""

import asyncio
import socket
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest

from parley.broker.core.errors import SettingsError
from parley.cli_common import USAGE
from parley.gateway.running import check_gateway
from parley.settings import load
from tests.harness import ModelServer, Running
from tests.mirror.parley.gateway import TOKENS, tenants_file
from tests.rig.child import answers, child, module
from tests.rig.proc import free_port
from tests.rig.service import plain_environment


async def test_it_runs_alone_and_asks_the_service(
    local_service: Running, model: ModelServer, tmp_path: Path
) -> None:
    port = free_port()
    environment = plain_environment(
        NATS_URL=local_service.settings.nats_url or "", PARLEY_GATEWAY_PORT=str(port), PARLEY_GATEWAY_GRPC_PORT="0", PARLEY_HOME=str(tmp_path),
        PARLEY_GATEWAY_TENANTS=str(tenants_file(tmp_path)),
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    command = module("parley", "serve", "--parts", "gateway")
    async with (
        child(command, tmp_path / "gateway.log", environment) as process,
        aiohttp.ClientSession() as http,
    ):
        await process.ready(lambda: answers(http, f"{url}/readyz"), 30)
        headers = {"Authorization": f"Bearer {TOKENS['acme']}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as program:
            asked = await program.post(
                "/v1/deliberations?wait=20", json={"task_description": "x", "num_agents": 1}
            )
            assert asked.json()["status"] == "COMPLETED"
    assert TOKENS["acme"] not in (tmp_path / "gateway.log").read_text()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"gateway_host": "0.0.0.0"}, "PARLEY_GATEWAY_HOST: 0.0.0.0 lets other machines in"),
        ({"gateway_host": "::"}, "PARLEY_GATEWAY_HOST: :: lets other machines in"),
        ({"gateway_tenants": Path("/nowhere.toml")}, "PARLEY_GATEWAY_TENANTS: /nowhere.toml: No such file"),
        ({"gateway_panels": Path("/nowhere.toml")}, "PARLEY_GATEWAY_PANELS: /nowhere.toml: No such file"),
    ],
)
def test_a_wrong_setting_is_told_before_anything_starts(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match="PARLEY_GATEWAY") as told:
        check_gateway(load(gateway_port=0, gateway_grpc_port=0, **settings))
    assert str(told.value).startswith(said)


def test_a_taken_port_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PARLEY_GATEWAY_PORT", "PARLEY_GATEWAY_GRPC_PORT"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SettingsError, match="PARLEY_GATEWAY_PORT: cannot listen"):
            check_gateway(load(gateway_port=taken.getsockname()[1], gateway_grpc_port=0))
        with pytest.raises(SettingsError, match="PARLEY_GATEWAY_GRPC_PORT: cannot listen"):
            check_gateway(load(gateway_port=0, gateway_grpc_port=taken.getsockname()[1]))


def test_other_machines_are_let_in_where_that_is_asked_for(tmp_path: Path) -> None:
    check_gateway(load(gateway_port=0, gateway_grpc_port=0, gateway_host="0.0.0.0", gateway_open=True))
    check_gateway(
        load(
            gateway_port=0,
            gateway_grpc_port=0,
            gateway_host="0.0.0.0",
            gateway_tenants=tenants_file(tmp_path),
        )
    )


async def test_a_token_is_made_with_its_line_for_the_file(tmp_path: Path) -> None:
    environment = plain_environment(PARLEY_HOME=str(tmp_path))
    for tenant, code in (("acme", 0), ("Not A Name", USAGE)):
        process = await asyncio.create_subprocess_exec(
            *module("parley", "gateway-token", tenant), env=environment, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == code
        if code == 0:
            from parley.gateway.tenants import hash_of

            assert hash_of(out.decode().strip()) in err.decode()
            assert "[tenants.acme]" in err.decode()
