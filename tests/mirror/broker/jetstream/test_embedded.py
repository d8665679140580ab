"""The nats-server that comes with the install: who may reach it, where its state is, how it is ended."""

import asyncio
import os
import re
import signal
import socket
import stat
import sys
import sysconfig
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from parley.broker import child_process
from parley.broker.core.errors import BrokerUnavailable
from parley.broker.jetstream import connection, embedded
from parley.broker.jetstream.connection import connect
from parley.broker.jetstream.embedded import EmbeddedNats, config, embedded_nats, executable
from parley.broker.jetstream.jetstream import JetStream
from parley.broker.jetstream.provision import provision
from parley.broker.jetstream.topology import REQUESTED, REQUESTS
from tests import present
from tests.harness import until


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # dead, and only not yet buried by its parent


def command_line(pid: int) -> str:
    """What any user of this machine can read."""
    return Path(f"/proc/{pid}/cmdline").read_text()


def port_of(server: EmbeddedNats) -> int:
    return present(urlsplit(server.url).port)


async def test_the_url_opens_a_connection(empty_nats: EmbeddedNats) -> None:
    nc = await connect(empty_nats.url, "test")
    assert nc.is_connected
    await nc.close()


async def test_a_missing_token_is_refused(empty_nats: EmbeddedNats, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT_SECONDS", 0.1)
    address = f"127.0.0.1:{port_of(empty_nats)}"
    refused = await asyncio.gather(
        connect(f"nats://{address}", "test"),
        connect(f"nats://guessed@{address}", "test"),
        return_exceptions=True,
    )
    for error in refused:
        assert isinstance(error, BrokerUnavailable)
        assert (
            "credentials, and none were given" in error.reason or "does not accept this token" in error.reason
        )
        assert "guessed" not in str(error)


async def test_a_server_without_a_token_accepts_any_connection(tmp_path: Path) -> None:
    async with embedded_nats(tmp_path, with_token=False) as server:
        assert "@" not in server.url
        nc = await connect(server.url, "test")
        await nc.close()


async def test_tokens_differ_from_server_to_server(empty_nats: EmbeddedNats, tmp_path: Path) -> None:
    async with embedded_nats(tmp_path / "other") as other:
        tokens = {urlsplit(url).username for url in (empty_nats.url, other.url)}
    assert len(tokens) == 2
    assert all(token is not None and len(token) >= 32 for token in tokens)


async def test_the_token_is_for_the_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "nats"
    async with embedded_nats(folder) as server:
        token = present(urlsplit(server.url).username)
        conf = folder / "nats-server.conf"
        assert token in conf.read_text()
        assert stat.S_IMODE(conf.stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert token not in command_line(server.pid)


async def test_it_listens_on_one_loopback_address_only(empty_nats: EmbeddedNats) -> None:
    with socket.create_connection(("127.0.0.1", port_of(empty_nats)), timeout=2) as reached:
        assert reached.recv(5) == b"INFO "
    # All of 127/8 is this machine: a server on every address would answer here too.
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port_of(empty_nats)), timeout=2)


async def test_it_is_ended_by_its_own_pid_and_no_other_is(empty_nats: EmbeddedNats, tmp_path: Path) -> None:
    async with embedded_nats(tmp_path / "other") as other:
        assert alive(other.pid)
    assert not alive(other.pid)
    assert alive(empty_nats.pid)


async def test_it_is_ended_when_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="in the block"):
        async with embedded_nats(tmp_path) as server:
            raise RuntimeError("in the block")
    assert not alive(server.pid)


async def test_it_does_not_outlive_a_parent_that_was_killed(tmp_path: Path) -> None:
    program = f"""
import asyncio, pathlib
from parley.broker.jetstream.embedded import embedded_nats
async def main():
    async with embedded_nats(pathlib.Path({str(tmp_path)!r})) as server:
        print(server.pid, flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE
    )
    pid = int(await present(parent.stdout).readline())
    assert alive(pid)
    parent.kill()
    await parent.wait()
    await until(lambda: not alive(pid), "the server ended with its parent")


async def test_a_server_that_ended_by_itself_needs_no_ending(tmp_path: Path) -> None:
    async with embedded_nats(tmp_path) as server:
        os.kill(server.pid, signal.SIGKILL)


async def test_ctrl_c_in_the_terminal_does_not_reach_it(empty_nats: EmbeddedNats) -> None:
    assert os.getpgid(empty_nats.pid) != os.getpgid(0)


async def test_stored_messages_survive_a_restart_on_the_same_folder_and_port(tmp_path: Path) -> None:
    async with embedded_nats(tmp_path, sync_always=True) as server:
        nc = await connect(server.url, "test")
        await provision(nc.jetstream())
        seq = (await JetStream(nc).publish(REQUESTED, b"kept")).seq
        await nc.close()
    async with embedded_nats(tmp_path, port=port_of(server)) as again:
        assert port_of(again) == port_of(server)
        nc = await connect(again.url, "test")
        assert present(await JetStream(nc).get(REQUESTS, seq)).data == b"kept"
        await nc.close()


async def test_two_servers_never_share_a_folder(tmp_path: Path) -> None:
    async with embedded_nats(tmp_path) as first:
        with pytest.raises(BrokerUnavailable, match="another one of ours runs on") as caught:
            async with embedded_nats(tmp_path):
                raise AssertionError("a second one came up on the same streams")
        assert str(tmp_path) in str(caught.value)
        assert "PARLEY_HOME" in str(caught.value)
        assert alive(first.pid)
    async with embedded_nats(tmp_path):  # the folder is free again
        pass


async def test_a_port_in_use_is_reported_in_one_line(empty_nats: EmbeddedNats, tmp_path: Path) -> None:
    port = port_of(empty_nats)
    with pytest.raises(BrokerUnavailable) as caught:
        async with embedded_nats(tmp_path / "second", port=port):
            raise AssertionError("it came up on a port that was taken")
    assert f":{port}" in str(caught.value)
    assert "address already in use" in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_an_earlier_servers_ports_file_is_not_taken_for_this_servers(tmp_path: Path) -> None:
    stale = tmp_path / "nats-server_1.ports"
    stale.write_text('{"nats": ["nats://127.0.0.1:1"]}')
    async with embedded_nats(tmp_path) as server:
        assert port_of(server) != 1
        assert not stale.exists()


async def test_a_server_never_ready_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_process, "START_TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(
        embedded, "config", lambda folder, **options: "host: 127.0.0.1\nport: -1\n"
    )  # writes no ports file
    with pytest.raises(BrokerUnavailable, match=r"not ready in 0\.1 s"):
        async with embedded_nats(tmp_path):
            raise AssertionError("nobody knows its port")


def test_a_missing_nats_server_is_said_with_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BrokerUnavailable, match="uv sync"):
        executable()
    (tmp_path / "nats-server").write_text("#!/bin/sh\n")
    assert executable() == str(tmp_path / "nats-server")


@pytest.mark.parametrize(
    "name",
    [
        "a space", 'a "quote"', "back\\slash", "$HOME", "#no comment", "{braces}", "line\nbreak", "tab\t",
        "żółć", "日本 😀", "a'b;c,d=e",
    ],
)  # fmt: skip
async def test_it_starts_in_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    async with embedded_nats(folder) as server:
        nc = await connect(server.url, "test")
        await provision(nc.jetstream())
        await nc.close()
        await until((folder / "jetstream").is_dir, "the streams are in the folder")
        assert (folder / "nats-server.log").exists()


def test_a_path_cannot_say_anything_else_to_the_server(tmp_path: Path) -> None:
    written = config(tmp_path / '"\nhost: 0.0.0.0\n"', port=4222, token='"\nx', sync_always=False)
    assert re.findall(r"^host: .*$", written, re.MULTILINE) == ["host: 127.0.0.1"]
    assert len(written.splitlines()) == 6


@pytest.mark.parametrize(
    ("sync_always", "written"), [(True, "sync_interval: always"), (False, 'sync_interval: "1s"')]
)
def test_a_promise_survives_a_power_cut_when_asked_to(sync_always: bool, written: str) -> None:
    assert written in config(Path("/x"), port=-1, token=None, sync_always=sync_always)


def test_jetstream_and_the_token_can_be_left_out() -> None:
    written = config(Path("/x"), port=4222, token=None, sync_always=False, jetstream=False)
    assert "port: 4222" in written
    assert "jetstream" not in written
    assert "authorization" not in written
