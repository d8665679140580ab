"""What a Ray that is started on this machine keeps from the machine's other users, and from its own daemons."""

import logging
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

log = logging.getLogger("parley.workers")

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
