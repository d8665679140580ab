"""The file `.env` of the working directory: settings for the command, below the environment, and nothing else."""

import os
from pathlib import Path

import pytest

from parley.env_file import load_env_file, settings_in
from parley.find_nats import find_nats
from tests.mirror.parley.test_cli import NO_SERVICE, OK, USAGE, Shell, one_line

URL = "nats://from-the-file:4222"


@pytest.mark.parametrize(
    ("text", "environment", "found"),
    [
        (f"NATS_URL={URL}", {}, {"NATS_URL": URL}),
        (f'export PARLEY_NATS_URL="{URL}"  # ours\n', {}, {"PARLEY_NATS_URL": URL}),
        (f"NATS_URL={URL}", {"NATS_URL": "nats://one"}, {}),
        # Another name of the same setting: what the environment has wins under either.
        (f"PARLEY_NATS_URL={URL}", {"NATS_URL": "nats://one"}, {}),
        (f"nats_url={URL}", {}, {"nats_url": URL}),
        ("VLLM_API_KEY='a$b${HOME}'", {}, {"VLLM_API_KEY": "a$b${HOME}"}),
        # A file of another program.
        ("DATABASE_URL=x\nPARLEY_TYPO=1\nPATH=/evil\nLD_PRELOAD=x\nRAY_NONSENSE=1", {}, {}),
        ("this is = no file { of this kind\n\x00\nNATS_URL", {}, {}),
        ("NATS_URL=", {}, {}),
    ],
)
def test_only_settings_that_the_environment_lacks_are_read(
    text: str, environment: dict[str, str], found: dict[str, str]
) -> None:
    assert settings_in(text, environment) == found


@pytest.mark.parametrize("kind", ["none", "folder", "not UTF-8", "large"])
def test_a_file_that_cannot_be_one_is_ignored(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    match kind:
        case "folder":  # as some name their virtual environment
            (tmp_path / ".env").mkdir()
        case "not UTF-8":
            (tmp_path / ".env").write_bytes(b"NAME=caf\xe9\n")
        case "large":
            (tmp_path / ".env").write_bytes(b"NATS_URL=x\n" * 200_000)
    assert load_env_file() == frozenset()


async def test_the_command_reads_it_and_says_where_a_bad_value_is_from(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    (tmp_path / ".env").write_text(f"NATS_URL={URL}\nSECRET=1\n")
    ran = await shell.given(b"", "settings", PARLEY_POOL="local")
    assert (ran.code, ran.err) == (OK, "")
    assert f"NATS_URL={URL}" in ran.out
    (tmp_path / ".env").write_text("PARLEY_POOL=dask\n")
    ran = await shell.given(b"", "settings")
    assert ran.code == USAGE
    assert one_line(ran).startswith("parley: PARLEY_POOL: ")
    assert one_line(ran).endswith("(from .env)")


@pytest.mark.parametrize("command", ["up", "serve", "demo", "settings", "doctor", "provision"])
async def test_the_service_refuses_a_name_that_is_no_setting_as_in_the_environment(
    command: str, tmp_path: Path
) -> None:
    shell = Shell(tmp_path)
    (tmp_path / ".env").write_text(
        "PARLEY_VLLM_URLS=x\nPARLEY_PORT_1_TCP=tcp://1:1\nparley_typo=\nPARLEY_NO_VALUE\n"
    )
    ran = await shell.given(b"", command, PARLEY_POOL="dask")
    assert (ran.code, ran.out) == (USAGE, "")
    assert [line.partition(" (it is")[0] for line in ran.err.splitlines()] == [
        "parley: PARLEY_VLLM_URLS: no such setting; did you mean PARLEY_VLLM_URL? (from .env)",
        "parley: parley_typo: no such setting (from .env)",
        "parley: PARLEY_POOL: Input should be 'ray' or 'local'",
    ]


async def test_a_clients_command_ignores_it(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PARLEY_VLLM_URLS=x\n")
    ran = await Shell(tmp_path).given(b"", "ls")
    assert ran.code == NO_SERVICE
    assert "no `parley up` runs here" in one_line(ran)


def test_the_client_library_never_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text(f"NATS_URL={URL}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PARLEY_HOME", str(tmp_path))
    assert find_nats() is None
    assert "NATS_URL" not in os.environ
