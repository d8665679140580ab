"""Where `parley up` listens: told to its owner only, found by the other commands, forgotten when it is gone."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from parley import find_nats
from parley.broker.core.errors import SettingsError
from parley.settings import load

URL = "nats://token@127.0.0.1:4222"


def announcement(home: Path) -> Path:
    (path,) = [path for path in home.iterdir() if path.is_file()]
    return path


def test_an_announced_url_is_found_while_the_block_lasts(tmp_path: Path) -> None:
    assert find_nats.announced(tmp_path) is None
    with find_nats.announce(tmp_path, URL):
        assert find_nats.announced(tmp_path) == URL
    assert find_nats.announced(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_an_announcement_ends_also_when_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), find_nats.announce(tmp_path, URL):
        raise RuntimeError
    assert find_nats.announced(tmp_path) is None


def test_only_its_owner_can_read_it_for_it_holds_the_token(tmp_path: Path) -> None:
    before = os.umask(0)  # the least careful of users
    try:
        with find_nats.announce(tmp_path / "new" / "home", URL):
            path = announcement(tmp_path / "new" / "home")
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    finally:
        os.umask(before)


def test_a_readable_file_left_behind_does_not_stay_readable(tmp_path: Path) -> None:
    with find_nats.announce(tmp_path, URL):
        name = announcement(tmp_path).name
    (tmp_path / name).write_text("{}")
    (tmp_path / name).chmod(0o666)
    with find_nats.announce(tmp_path, URL):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_a_set_url_wins_over_an_announced_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_HOME", str(tmp_path))
    with find_nats.announce(tmp_path, URL):
        assert load().with_local_nats().nats_url == find_nats.find_nats() == URL
        monkeypatch.setenv("NATS_URL", "nats://set")
        assert load().with_local_nats().nats_url == find_nats.find_nats() == "nats://set"
        monkeypatch.setenv("PARLEY_NATS_URL", "nats://better")
        assert load().with_local_nats().nats_url == find_nats.find_nats() == "nats://better"


@pytest.mark.parametrize("name", ["NATS_URL", "PARLEY_NATS_URL", "PARLEY_HOME", "parley_home"])
def test_client_and_service_share_a_nats(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for value in ("", "  ", str(tmp_path / "home") if "home" in name.lower() else "nats://set"):
        monkeypatch.setenv(name, value)
        with find_nats.announce(load().home, URL):
            assert find_nats.state_folder() == load().home
            assert find_nats.find_nats() == load().with_local_nats().nats_url


def test_a_client_ignores_every_other_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_HOME", str(tmp_path))
    for name in ("PARLEY_PORT", "PARLEY_NATS_ULR", "PARLEY_POOL_SLOTS", "PARLEY_SERVICE_HOST"):
        monkeypatch.setenv(name, "tcp://10.0.0.1:4222")
    assert find_nats.find_nats() is None


def test_an_announcement_of_a_dead_process_is_ignored(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with find_nats.announce(tmp_path, URL):
        path = announcement(tmp_path)
        path.write_text(json.dumps({"nats_url": URL, "pid": gone.pid}))
        assert find_nats.announced(tmp_path) is None
        path.write_text(json.dumps({"nats_url": URL, "pid": os.getpid()}))
        assert find_nats.announced(tmp_path) == URL


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "5", "{}", '{"pid": "x", "nats_url": "nats://x"}', '{"pid": 1e30}', '{"pid": 99e99}'],
)
def test_an_announcement_that_cannot_be_read_is_ignored(tmp_path: Path, text: str) -> None:
    with find_nats.announce(tmp_path, URL):
        announcement(tmp_path).write_text(text)
        assert find_nats.announced(tmp_path) is None


def test_a_process_id_that_no_system_has_is_ignored(tmp_path: Path) -> None:
    with find_nats.announce(tmp_path, URL):
        announcement(tmp_path).write_text(json.dumps({"nats_url": URL, "pid": 10**30}))
        assert find_nats.announced(tmp_path) is None


@pytest.mark.parametrize(
    "url",
    ["http://host:4222", "nats://me:s3cret@host:port", "nats://a:s3cret@h:1,", "nats:host:4222", "nats://h:1 nats://h:2"],
)  # fmt: skip
def test_what_is_no_url_of_nats_is_said_before_anything_is_tried(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SettingsError, match=r"^the URL: not a URL like nats://127") as caught:
        find_nats.find_server(url, {})
    assert "s3cret" not in str(caught.value)
    monkeypatch.setenv("NATS_URL", url)
    with pytest.raises(SettingsError, match=r"^NATS_URL: not a URL like nats://127"):
        find_nats.find_server(None, {})


@pytest.mark.parametrize(
    "url", ["host", "host:4222", "me:p/w@host:4222", "NATS://host", "tls://[::1]:4222", "a:1,b:2"]
)
def test_what_nats_py_takes_is_taken(url: str) -> None:
    assert find_nats.find_server(url, {})[0] == url
