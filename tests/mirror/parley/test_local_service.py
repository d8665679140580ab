"""Where `parley up` listens: told to its owner only, found by the other commands, forgotten when it is gone."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from parley import local_service
from parley.settings import Settings, load

URL = "nats://token@127.0.0.1:4222"


def settings(home: Path) -> Settings:
    return load(home=home)


def announcement(home: Path) -> Path:
    (path,) = [path for path in home.iterdir() if path.is_file()]
    return path


def test_what_is_announced_is_found_and_only_while_the_block_lasts(tmp_path: Path) -> None:
    assert local_service.with_local_nats(settings(tmp_path)).nats_url is None
    with local_service.announce(tmp_path, URL):
        assert local_service.with_local_nats(settings(tmp_path)).nats_url == URL
    assert local_service.with_local_nats(settings(tmp_path)).nats_url is None
    assert list(tmp_path.iterdir()) == []


def test_it_is_forgotten_also_when_the_block_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), local_service.announce(tmp_path, URL):
        raise RuntimeError
    assert local_service.with_local_nats(settings(tmp_path)).nats_url is None


def test_only_its_owner_can_read_it_for_it_holds_the_token(tmp_path: Path) -> None:
    before = os.umask(0)  # the least careful of users
    try:
        with local_service.announce(tmp_path / "new" / "home", URL):
            path = announcement(tmp_path / "new" / "home")
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    finally:
        os.umask(before)


def test_a_readable_file_left_behind_does_not_stay_readable(tmp_path: Path) -> None:
    with local_service.announce(tmp_path, URL):
        name = announcement(tmp_path).name
    (tmp_path / name).write_text("{}")
    (tmp_path / name).chmod(0o666)
    with local_service.announce(tmp_path, URL):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_a_nats_that_is_set_wins_over_one_that_is_announced(tmp_path: Path) -> None:
    with local_service.announce(tmp_path, URL):
        assert (
            local_service.with_local_nats(load(home=tmp_path, nats_url="nats://set")).nats_url == "nats://set"
        )


def test_what_a_process_that_is_gone_announced_is_ignored(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with local_service.announce(tmp_path, URL):
        path = announcement(tmp_path)
        path.write_text(json.dumps({"nats_url": URL, "pid": gone.pid}))
        assert local_service.with_local_nats(settings(tmp_path)).nats_url is None
        path.write_text(json.dumps({"nats_url": URL, "pid": os.getpid()}))
        assert local_service.with_local_nats(settings(tmp_path)).nats_url == URL


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "5", "{}", '{"pid": "x", "nats_url": "nats://x"}', '{"pid": 1e30}', '{"pid": 99e99}'],
)
def test_an_announcement_that_cannot_be_read_is_ignored(tmp_path: Path, text: str) -> None:
    with local_service.announce(tmp_path, URL):
        announcement(tmp_path).write_text(text)
        assert local_service.with_local_nats(settings(tmp_path)).nats_url is None


def test_a_process_id_that_no_system_has_is_ignored(tmp_path: Path) -> None:
    with local_service.announce(tmp_path, URL):
        announcement(tmp_path).write_text(json.dumps({"nats_url": URL, "pid": 10**30}))
        assert local_service.with_local_nats(settings(tmp_path)).nats_url is None
