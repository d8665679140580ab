"""Debian packages for tests, fetched once into a cache folder.

This changes nothing of the system and needs no root: the package lists and the package go to the cache and are only
unpacked there. Raises `NotHere` with the reason where there is no apt or no mirror.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

# For about 30 MB: 3 s with a quick mirror. Well below pytest's own timeout.
FETCH_SECONDS = 60.0


class NotHere(Exception):
    """The package cannot be had. The text is the reason."""


def unpacked(package: str) -> Path:
    """The folder that holds the package's files, as below `/`. Raises NotHere."""
    folder = _cache() / package
    if not folder.exists():
        _fetch(package, folder)
    return folder


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "parley-tests"


def _fetch(package: str, folder: Path) -> None:
    if not all(shutil.which(name) for name in ("apt-get", "dpkg")):
        raise NotHere(f"no `{package}` here, and no apt-get and dpkg to fetch it with")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        work = Path(name)
        for part in ("lists/partial", "archives/partial"):
            (work / part).mkdir(parents=True)
        # Own lists and locks: the system's may be missing, old or locked. No sandbox user: it could not write here.
        ours = {
            "Dir::State::Lists": work / "lists",
            "Dir::Cache": work,
            "APT::Sandbox::User": "",
            "Acquire::Languages": "none",
        }
        apt = [
            "apt-get",
            "--quiet",
            *(part for key, value in ours.items() for part in ("-o", f"{key}={value}")),
        ]
        end = time.monotonic() + FETCH_SECONDS
        _run([*apt, "update"], work, end)
        _run([*apt, "download", package], work, end)
        (archive,) = work.glob(f"{package}_*.deb")
        _run(["dpkg", "-x", str(archive), str(work / "unpacked")], work, end)
        with suppress(OSError):  # another test run was first, and its copy is as good
            (work / "unpacked").rename(folder)
    if not folder.exists():
        raise NotHere(f"fetched, but {folder} could not be written")


def _run(command: Sequence[str], folder: Path, end: float) -> None:
    left = max(0.1, end - time.monotonic())
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=left)
    except subprocess.TimeoutExpired:
        raise NotHere(
            f"not fetched within {FETCH_SECONDS:g} s, `{command[0]} … {command[-1]}` still ran"
        ) from None
    except (OSError, subprocess.CalledProcessError) as error:
        words = (getattr(error, "stderr", None) or str(error)).strip()
        raise NotHere(f"`{command[0]} … {command[-1]}` failed: {words[-300:]}") from None
