"""The folder of a local Ray's session: private, with one owner, and gone afterwards, also after a kill."""

import logging
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from parley.workers.pool import local_ray_folder
from parley.workers.pool.local_ray_folder import INSIDE, LOCK, MAX_FOLDER_BYTES, PREFIX, SessionFolder


@pytest.fixture
def home() -> Iterator[Path]:
    """A state folder with a short path."""
    made = Path(tempfile.mkdtemp(dir="/tmp"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Temporary folders of this test's own: others' must not be looked at."""
    made = Path(tempfile.mkdtemp(dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(made))
    monkeypatch.setattr(local_ray_folder, "ALWAYS_THERE", str(made))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def used(session: SessionFolder) -> None:
    (session.path / "session_1" / "logs").mkdir(parents=True)
    (session.path / "session_latest").symlink_to(session.path / "session_1")


def killed(home: Path | None) -> Path:
    """What a process that was killed has left."""
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from parley.workers.pool.local_ray_folder import SessionFolder\n"
        "session = SessionFolder.claim(Path(sys.argv[1]) if sys.argv[1] else None)\n"
        "(session.path / 'session_1').mkdir(parents=True)\n"
        "print(session.path, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "TMPDIR": tempfile.gettempdir()}
    ran = subprocess.run(
        [sys.executable, "-c", script, str(home or "")],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        env=environment,
    )
    left = Path(ran.stdout.strip())
    assert (left / "session_1").is_dir()
    return left


def test_it_is_in_the_state_folder_where_its_sockets_fit_and_leaves_nothing(home: Path) -> None:
    session = SessionFolder.claim(home)
    assert session.path == home / "ray" / INSIDE
    assert mode(session.path.parent) == 0o700
    used(session)
    session.remove()
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("kept", [False, True])
def test_a_state_folder_that_it_made_goes_too_unless_something_else_is_in_it(home: Path, kept: bool) -> None:
    session = SessionFolder.claim(home / "new")
    if kept:
        (home / "new" / "nats").mkdir()
    session.remove()
    assert (home / "new").exists() == kept


def test_beside_a_running_one_it_is_elsewhere_and_each_removes_its_own(home: Path, elsewhere: Path) -> None:
    first, second = SessionFolder.claim(home), SessionFolder.claim(home)
    assert second.path.parent.parent == elsewhere
    assert mode(second.path.parent) == 0o700
    used(first)
    used(second)
    third = SessionFolder.claim(None)
    assert (first.path / "session_1").is_dir()
    assert (second.path / "session_1").is_dir()
    first.remove()
    assert (second.path / "session_1").is_dir()
    for session in (second, third):
        session.remove()
    assert list(elsewhere.iterdir()) == []


def test_a_state_folder_with_too_long_a_path_is_left_for_another_that_is_private(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        session = SessionFolder.claim(home / ("x" * MAX_FOLDER_BYTES))
    assert mode(session.path.parent) == 0o700
    assert len(os.fsencode(session.path)) <= MAX_FOLDER_BYTES
    assert "too long a path" in caplog.text
    session.remove()
    assert not session.path.parent.exists()


def test_what_a_killed_owner_left_is_removed_by_the_next(home: Path, elsewhere: Path) -> None:
    in_home, temporary = killed(home), killed(None)
    session = SessionFolder.claim(home)
    assert session.path == in_home
    assert not (session.path / "session_1").exists()
    assert not temporary.parent.exists()
    session.remove()
    assert list(elsewhere.iterdir()) == []


def test_what_looks_like_ours_and_is_not_stays(home: Path, elsewhere: Path) -> None:
    open_to_all, fuller, unlocked = (elsewhere / f"{PREFIX}{name}" for name in "abc")
    for folder in (open_to_all, fuller, unlocked):
        (folder / INSIDE / "session_1").mkdir(parents=True)
        folder.chmod(0o700)
    open_to_all.chmod(0o755)
    for folder in (open_to_all, fuller):
        (folder / LOCK).touch()
    (fuller / "thesis").touch()
    (elsewhere / f"{PREFIX}d").symlink_to(unlocked)
    before = sorted(elsewhere.rglob("*"))
    SessionFolder.claim(home).remove()
    assert sorted(elsewhere.rglob("*")) == before


def test_a_folder_of_others_beside_rays_is_left(home: Path) -> None:
    session = SessionFolder.claim(home)
    used(session)
    (home / "ray" / "notes").touch()
    session.remove()
    assert [found.name for found in (home / "ray").iterdir()] == ["notes"]


def test_rays_longest_socket_fits_the_bound() -> None:
    longest = "/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
    assert MAX_FOLDER_BYTES + len(longest) <= 107
    assert len(f"/tmp/{PREFIX}12345678/{INSIDE}") < MAX_FOLDER_BYTES
