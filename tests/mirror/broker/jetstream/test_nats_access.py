"""What options of NATS name is read, or refused with what is wrong."""

import logging
import pickle
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from parley.broker.core.errors import SettingsError
from parley.broker.jetstream.nats_access import PLAIN, NatsAccess, jwt_expiry, load_access
from tests.rig.nats_servers import KeyPair, Operator, private_file
from tests.rig.own_authority import OwnAuthority

USER = 20 << 3


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str, str], Path]:
    return lambda name, text: private_file(tmp_path / name, text)


def test_without_options_nothing_is_asked_of_nats_py() -> None:
    assert load_access({}) == PLAIN
    assert load_access({"user": None, "ca_file": " "}) == PLAIN
    assert PLAIN.options() == {}


def test_a_credentials_file_is_read_anew_for_each_connection(file: Callable[[str, str], Path]) -> None:
    operator = Operator()
    first, second = (
        operator.credentials(),
        operator.credentials(expires=time.time() + 60).replace("\n", "\r\n"),
    )
    path = file("a.creds", first)
    access = load_access({"creds_file": path})
    before = access.options()["user_jwt_cb"]()
    path.write_text(second)
    after = access.options()["user_jwt_cb"]()
    assert before != after
    assert before.decode() in first
    assert after.decode() in second
    assert jwt_expiry(before.decode()) is None
    assert 0 < (jwt_expiry(after.decode()) or 0) - time.time() <= 60
    path.unlink()  # and as it was where it is gone, as on a worker's machine
    assert access.options()["user_jwt_cb"]() == before


def test_no_secret_is_in_its_text_and_it_crosses_to_other_processes(file: Callable[[str, str], Path]) -> None:
    credentials = Operator().credentials()
    for options in (
        {"creds_file": file("a", credentials)},
        {"user": "me", "password": "s3cret"},
        {"token_file": file("t", "s3cret\n")},
        {"user": "me", "password_file": file("p", "s3cret\r\n")},
    ):
        access = load_access(options)
        assert "s3cret" not in repr(access)
        assert "eyJ" not in repr(access)
        assert access.has_login
        assert pickle.loads(pickle.dumps(access)) == access
    assert load_access({"token_file": file("t", "s3cret\n")}).options() == {"token": "s3cret"}


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"creds_file": "{dir}/none"}, "creds_file: {dir}/none cannot be read: no such file or directory"),
        ({"creds_file": "{dir}"}, "creds_file: {dir} cannot be read: is a directory"),
        ({"creds_file": "{dir}/empty"}, "creds_file: {dir}/empty is empty"),
        ({"creds_file": "{dir}/words"}, "creds_file: {dir}/words is no credentials file: it has no NATS USER JWT"),
        ({"creds_file": "{dir}/seed"}, "creds_file: {dir}/seed has a seed and no JWT: it is an nkey file, no credentials file"),
        ({"nkey_file": "{dir}/words"}, "nkey_file: {dir}/words has no seed of a user's nkey (SU…)"),
        ({"nkey_file": "{dir}/creds"}, "nkey_file: {dir}/creds is a credentials file: use creds_file"),
        ({"nkey_file": "{dir}/bytes"}, "nkey_file: {dir}/bytes is no text"),
        ({"ca_file": "{dir}/words"}, "ca_file: {dir}/words holds no certificates in PEM form"),
        ({"cert_file": "{dir}/words"}, "cert_file: key_file is missing"),
        ({"key_file": "{dir}/words"}, "key_file: cert_file is missing"),
        ({"cert_file": "{dir}/words", "key_file": "{dir}/words"},
         "cert_file and key_file: no certificate and key in PEM form that belong together"),
        ({"token": "s3cret", "creds_file": "{dir}/creds"}, "creds_file and token: only one of them can be used"),
        ({"user": "me", "password": "s3cret", "nkey_file": "{dir}/seed"}, "nkey_file and user: only one of them can be used"),
        ({"token": "s3cret", "token_file": "{dir}/words"}, "token and token_file: only one of them can be used"),
        ({"user": "me"}, "user: password is missing"),
        ({"inbox_prefix": "_PARLEY.service"}, "inbox_prefix: no prefix for inboxes: "),
        ({"inbox_prefix": "a.*"}, "inbox_prefix: no prefix for inboxes: "),
        ({"inbox_prefix": "$SYS"}, "inbox_prefix: no prefix for inboxes: "),
        ({"jetstream_domain": "a.b"}, "jetstream_domain: no name of a domain: one word, without dots"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_said_with_its_name(
    file: Callable[[str, str], Path], tmp_path: Path, options: dict[str, str], problem: str
) -> None:
    file("empty", " \n")
    file("words", "what is this?")
    file("seed", KeyPair(USER).seed)
    file("creds", Operator().credentials())
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError) as caught:
        load_access({name: value.replace("{dir}", str(tmp_path)) for name, value in options.items()})
    (said,) = caught.value.problems
    assert said.startswith(problem.replace("{dir}", str(tmp_path)))
    assert "s3cret" not in said


def test_a_secret_that_everybody_can_read_is_warned_of_once(
    file: Callable[[str, str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    path = file("a.creds", Operator().credentials())
    with caplog.at_level(logging.WARNING, logger="parley.nats"):
        load_access({"creds_file": path})
        assert caplog.messages == []
        path.chmod(0o644)
        load_access({"creds_file": path}, lambda name: f"PARLEY_NATS_{name.upper()}")
    assert caplog.messages == [
        f"PARLEY_NATS_CREDS_FILE: everybody on this machine can read {path}; chmod 600 it"
    ]


def test_an_encrypted_key_is_no_prompt_on_the_terminal(tmp_path: Path) -> None:
    own = OwnAuthority(tmp_path)
    text = "-----BEGIN ENCRYPTED PRIVATE KEY-----"
    locked = tmp_path / "locked.pem"
    subprocess.run(
        ["openssl", "pkey", "-in", own.key_file, "-aes256", "-passout", "pass:x", "-out", locked],
        check=True,
        timeout=30,
    )
    assert text in locked.read_text()
    locked.chmod(0o600)
    with pytest.raises(SettingsError, match=r"key_file: .*locked\.pem is encrypted"):
        load_access({"cert_file": own.certificate_file, "key_file": locked})


@pytest.mark.parametrize("given", ["APP", "APP.", "APP.>", " APP "])
def test_a_prefix_is_taken_however_it_is_written(given: str) -> None:
    assert load_access({"inbox_prefix": given}).inbox_prefix == "APP"


def test_a_domain_is_in_the_prefix_of_the_api() -> None:
    assert NatsAccess(domain="hub").api_prefix == "$JS.hub.API."
    assert PLAIN.api_prefix == "$JS.API."
