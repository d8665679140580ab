"""How service and workers prove themselves to NATS, by settings; and clients by the same settings or by arguments."""

from collections.abc import Callable
from pathlib import Path

import nkeys
import pytest

from parley.broker.core.errors import SettingsError
from parley.broker.jetstream.nats_access import OPTION_NAMES, PLAIN, load_access
from parley.find_nats import announce, find_server, option_variable
from parley.nats_settings import NatsSettings
from parley.settings import load, shown
from tests.rig.nats_servers import KeyPair, Operator, private_file
from tests.rig.own_authority import OwnAuthority


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("files")
    own = OwnAuthority(folder)
    made = {
        "creds": private_file(folder / "a.creds", Operator().credentials()),
        "worker-creds": private_file(folder / "w.creds", Operator().credentials()),
        "nkey": private_file(folder / "a.nk", KeyPair(nkeys.PREFIX_BYTE_USER).seed),
        "secret": private_file(folder / "secret", "s3cret\n"),
        "ca": own.ca_file, "cert": own.certificate_file, "key": own.key_file,
    }  # fmt: skip
    return {name: str(path) for name, path in made.items()}


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> Callable[..., None]:
    """Set variables; `{creds}` and the like stand for files."""

    def set_all(**variables: str) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value.format(**files))

    return set_all


SETS = [
    {"USER": "me", "PASSWORD": "s3cret"},
    {"USER": "me", "PASSWORD_FILE": "{secret}"},
    {"TOKEN": "s3cret"},
    {"TOKEN_FILE": "{secret}"},
    {"CREDS_FILE": "{creds}", "CA_FILE": "{ca}"},
    {"NKEY_FILE": "{nkey}", "CERT_FILE": "{cert}", "KEY_FILE": "{key}"},
    {"TLS_FIRST": "true", "INBOX_PREFIX": "APP", "JETSTREAM_DOMAIN": "hub"},
]


def test_every_option_is_a_setting_and_tried_here() -> None:
    assert {option_variable(name) for name in OPTION_NAMES} == {
        f"PARLEY_NATS_{name}" for each in SETS for name in each
    }
    assert {f"nats_{name}" for name in OPTION_NAMES} <= NatsSettings.model_fields.keys()


@pytest.mark.parametrize("given", SETS, ids="+".join)
def test_service_workers_and_clients_read_the_same(
    env: Callable[..., None], files: dict[str, str], given: dict[str, str]
) -> None:
    env(NATS_URL="nats://host", **{f"PARLEY_NATS_{name}": value for name, value in given.items()})
    settings = load()
    options = {name.lower(): value.format(**files) for name, value in given.items()}
    assert settings.nats_access == load_access({**options, "tls_first": "tls_first" in options})
    assert settings.nats_access != PLAIN
    assert settings.worker_config("nats://host", "m").nats_access == settings.nats_access
    assert find_server(None, {}) == ("nats://host", settings.nats_access)
    told = (
        f"{settings!r}{settings.nats_access!r}{shown(settings)}{settings.worker_config('nats://host', 'm')!r}"
    )
    assert "s3cret" not in told


@pytest.mark.parametrize(
    ("variables", "login"),
    [
        ({}, "creds"),
        ({"PARLEY_WORKER_NATS_CREDS_FILE": "{worker-creds}"}, "worker-creds"),
        ({"PARLEY_WORKER_NATS_NKEY_FILE": "{nkey}"}, "nkey"),
        ({"PARLEY_WORKER_NATS_URL": "nats://w:s3cret@host"}, None),
        ({"PARLEY_WORKER_NATS_URL": "nats://host"}, "creds"),
        ({"PARLEY_WORKER_NATS_URL": "nats://host", "PARLEY_WORKER_NATS_CREDS_FILE": "{worker-creds}"}, "worker-creds"),
    ],
)  # fmt: skip
def test_workers_have_credentials_of_their_own_or_the_services(
    env: Callable[..., None], files: dict[str, str], variables: dict[str, str], login: str | None
) -> None:
    env(NATS_URL="nats://host", PARLEY_NATS_CREDS_FILE="{creds}", PARLEY_NATS_CA_FILE="{ca}")
    env(**variables)
    access = load().worker_config("nats://host", "m").nats_access
    assert access.login_file == (files[login] if login else None)
    assert access.authorities is not None


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"NATS_URL": "nats://t@host", "PARLEY_NATS_CREDS_FILE": "{creds}"},
         "PARLEY_NATS_CREDS_FILE: NATS_URL has credentials too; only one of them can be used"),
        ({"NATS_URL": "nats://host", "PARLEY_NATS_PASSWORD": "s3cret"}, "PARLEY_NATS_PASSWORD: PARLEY_NATS_USER is missing"),
        ({"PARLEY_NATS_TOKEN": "s3cret", "PARLEY_NATS_NKEY_FILE": "{nkey}"},
         "PARLEY_NATS_NKEY_FILE and PARLEY_NATS_TOKEN: only one of them can be used"),
        ({"PARLEY_NATS_CREDS_FILE": "/none"}, "PARLEY_NATS_CREDS_FILE: /none cannot be read: no such file or directory"),
        ({"PARLEY_WORKER_NATS_URL": "nats://w:s3cret@host", "PARLEY_WORKER_NATS_CREDS_FILE": "{creds}"},
         "PARLEY_WORKER_NATS_CREDS_FILE: PARLEY_WORKER_NATS_URL has credentials too; only one of them can be used"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_at_the_start(
    env: Callable[..., None], variables: dict[str, str], problem: str
) -> None:
    env(**{"NATS_URL": "nats://host", **variables})
    with pytest.raises(SettingsError) as caught:
        load()
    assert str(caught.value) == problem
    if not any(name.startswith("PARLEY_WORKER") for name in variables):
        with pytest.raises(SettingsError, match=problem.partition(":")[0]):
            find_server(None, {})


def test_a_url_with_the_user_and_the_password_apart_is_one_login(env: Callable[..., None]) -> None:
    env(NATS_URL="nats://me@host", PARLEY_NATS_PASSWORD_FILE="{secret}")
    assert load().nats_access.password == "s3cret"


def test_arguments_win_and_replace_all_credentials_there(
    env: Callable[..., None], files: dict[str, str]
) -> None:
    env(NATS_URL="nats://host", PARLEY_NATS_CREDS_FILE="{creds}", PARLEY_NATS_CA_FILE="{ca}")
    url, access = find_server("nats://me:pw@other", {})
    assert (url, access.has_login) == ("nats://me:pw@other", False)
    assert access.authorities is not None
    _, access = find_server(None, {"user": "me", "password": "pw"})
    assert (access.user, access.jwt) == ("me", None)
    with pytest.raises(SettingsError, match="token: the URL has credentials too"):
        find_server("nats://me:pw@other", {"token": "x"})


def test_the_up_of_this_machine_is_asked_as_it_is_set_up(env: Callable[..., None], tmp_path: Path) -> None:
    env(PARLEY_HOME=str(tmp_path), PARLEY_NATS_CREDS_FILE="{creds}", PARLEY_NATS_CA_FILE="{ca}")
    with announce(tmp_path, "nats://token@127.0.0.1:4222"):
        assert find_server(None, {}) == ("nats://token@127.0.0.1:4222", PLAIN)
        settings = load().with_local_nats()
        assert (settings.nats_url, settings.nats_access) == ("nats://token@127.0.0.1:4222", PLAIN)
        assert settings.worker_nats_access == PLAIN
