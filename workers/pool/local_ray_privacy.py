"""What a Ray that is started on this machine keeps from the machine's other users, and from its own daemons."""

import logging
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

log = logging.getLogger("parley.workers")

# A Unix socket's path has at most 107 bytes. Ray adds up to 64 to its folder:
# `/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store`.
MAX_FOLDER_BYTES = 107 - 64
# Ray's folder in the private one.
INSIDE = "s"
# Variables that Ray's daemons, and so all of its workers, do not get: an actor is told its settings.
_OURS = ("PARLEY_", "NATS_", "VLLM_")
_SECRET_WORDS = ("KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIAL")
_ENVIRONMENT = threading.Lock()


@contextmanager
def in_private() -> Iterator[None]:
    """Files and folders that come about in the block are their owner's only, and processes that start in it get no
    secret of ours. Both are settings of the whole process, for the time of the block."""
    with _ENVIRONMENT:
        before = os.umask(0o077)
        kept = {name: os.environ.pop(name) for name in list(os.environ) if _is_kept_back(name)}
        try:
            yield
        finally:
            os.environ.update(kept)
            os.umask(before)


def _is_kept_back(name: str) -> bool:
    upper = name.upper()
    if upper.startswith("RAY_"):  # Ray's own token
        return False
    return upper.startswith(_OURS) or any(word in upper for word in _SECRET_WORDS)


def protect_token() -> None:
    """Ray writes its token readable by all (2.60). Who has it runs code as this user."""
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    with suppress(OSError):  # another user's, or none
        if not named:
            _make_private(path.parent, 0o700)
        if _make_private(path, 0o600):
            log.warning(
                "%s could be read by other users of this machine, and no longer can. If there are any, delete it: Ray "
                "makes another",
                path,
            )


def _make_private(path: Path, mode: int) -> bool:
    """Whether others had rights."""
    found = stat.S_IMODE(path.stat().st_mode)
    if not found & 0o077:
        return False
    path.chmod(mode)
    return True


def session_folder(home: Path | None) -> Path:
    """Where Ray may keep its session: below a folder that only this user can enter, `ray` in the state folder `home` or
    one made for this time. Ray opens its own folders to everybody."""
    wanted = home.absolute() / "ray" / INSIDE if home is not None else None
    if wanted is not None and _fits(wanted):
        wanted.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _make_private(wanted.parent, 0o700)
        return wanted
    made = Path(tempfile.mkdtemp(prefix="parley-")) / INSIDE
    if not _fits(made):
        made.parent.rmdir()
        made = Path(tempfile.mkdtemp(prefix="parley-", dir="/tmp")) / INSIDE
    if wanted is not None:
        log.info("Ray's session is in %s: sockets below %s would have too long a path", made, wanted)
    return made


def _fits(folder: Path) -> bool:
    return len(os.fsencode(folder)) <= MAX_FOLDER_BYTES


def remove_session(folder: Path, home: Path | None) -> None:
    """Remove what Ray has left in a folder of `session_folder`. Raises nothing."""
    if home is None or folder.parent != home.absolute() / "ray":
        shutil.rmtree(folder.parent, ignore_errors=True)
        return
    latest = folder / "session_latest"
    with suppress(OSError):
        shutil.rmtree(latest.resolve(strict=True), ignore_errors=True)
        latest.unlink()
