"""The folder of a local Ray's session: each has one owner at a time, and what a killed owner left is removed.

The owner holds a lock (`flock`) on a file beside Ray's folder, which the kernel lets go however the process ends. So
a lock that can be taken says that the folder is nobody's, and only folders with such a file are ours to remove.
"""

import fcntl
import logging
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Self

log = logging.getLogger("parley.workers")

# A Unix socket's path has at most 107 bytes. Ray adds up to 64 to its folder:
# `/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store`.
MAX_FOLDER_BYTES = 107 - 64
# Ray's folder in the private one, and the file that is locked.
INSIDE, LOCK = "s", "lock"
# How a temporary folder of ours is named, and where it is if the usual place has too long a path.
PREFIX = "parley-"
ALWAYS_THERE = "/tmp"  # noqa: S108  # made by `mkdtemp`, with a random name and for this user only


class SessionFolder:
    """Ray may keep its session in `path`: below a folder that only this user can enter, `ray` in the state folder
    `home` or one made for this time. Ray opens its own folders to everybody."""

    def __init__(self, path: Path, lock: int, made: Path | None = None) -> None:
        """`made`: a state folder that was not there before."""
        self.path = path
        self._made = made
        # The descriptor that holds the lock. No child process gets it.
        self._lock = lock

    @classmethod
    def claim(cls, home: Path | None) -> Self:
        """A folder that no other process uses, with nothing in it. Removes what killed owners have left."""
        _remove_left_over()
        wanted = home.absolute() / "ray" if home is not None else None
        if wanted is None:
            return cls._temporary()
        if not _fits(wanted):
            made = cls._temporary()
            log.info("Ray's session is in %s: sockets below %s would have too long a path", made.path, wanted)
            return made
        made_home = None if wanted.parent.exists() else wanted.parent
        wanted.mkdir(parents=True, exist_ok=True, mode=0o700)
        wanted.chmod(0o700)
        lock = _try_lock(wanted)
        if lock is None:  # another process of ours has it
            return cls._temporary()
        shutil.rmtree(wanted / INSIDE, ignore_errors=True)
        return cls(wanted / INSIDE, lock, made_home)

    @classmethod
    def _temporary(cls) -> Self:
        made = Path(tempfile.mkdtemp(prefix=PREFIX))
        if not _fits(made):
            made.rmdir()
            made = Path(tempfile.mkdtemp(prefix=PREFIX, dir=ALWAYS_THERE))
        lock = _try_lock(made)
        if lock is not None:
            return cls(made / INSIDE, lock)
        if (made / LOCK).exists():
            raise OSError(f"{made} takes no lock (flock)")
        return cls._temporary()  # another process took it, empty, for one that was left

    def remove(self) -> None:
        """Raises nothing. Leaves nothing, not even empty folders."""
        _remove(self.path.parent, self._lock)
        if self._made is not None:
            with suppress(OSError):
                self._made.rmdir()  # not if something else is in it by now


def _fits(private: Path) -> bool:
    return len(os.fsencode(private / INSIDE)) <= MAX_FOLDER_BYTES


def _try_lock(private: Path, *, make: bool = True) -> int | None:
    """A descriptor that holds the lock of this folder; None if another process does, or there is no such file and
    `make` is false."""
    path = private / LOCK
    while True:
        try:
            descriptor = os.open(
                path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if make else 0), 0o600
            )
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
            os.close(descriptor)  # its last owner has removed the file meanwhile
        except OSError:
            os.close(descriptor)
            return None


def _remove(private: Path, lock: int) -> None:
    shutil.rmtree(private / INSIDE, ignore_errors=True)
    with suppress(OSError):
        if not (
            private / INSIDE
        ).exists():  # else something of Ray's still writes, and the next start finds the lock
            (private / LOCK).unlink()
        private.rmdir()  # not if it holds what is not ours
    os.close(lock)


def _remove_left_over() -> None:
    """Remove the temporary folders that killed processes of this user have left."""
    for parent in {Path(tempfile.gettempdir()), Path(ALWAYS_THERE)}:
        for folder in parent.glob(f"{PREFIX}*"):
            lock = _try_lock(folder, make=False) if _is_ours(folder) else None
            if lock is not None:
                log.info("removing %s, which a local Ray of an earlier run has left", folder)
                _remove(folder, lock)


def _is_ours(folder: Path) -> bool:
    """Whether this is a folder, no link, of this user's, and as private as we make them."""
    try:
        found = folder.lstat()
        names = {entry.name for entry in folder.iterdir()}
    except OSError:
        return False
    private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    return private and LOCK in names and names <= {LOCK, INSIDE}
